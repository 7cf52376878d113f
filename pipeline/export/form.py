"""What a form of export is: where every texture goes, and how a part of them is written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from pipeline.export.staging import Staging
from pipeline.export.textures import Numbers


class Picture(NamedTuple):
    """A texture on its way: its number among those of the export, its PNG bytes, their SHA-256."""

    number: int
    png: bytes
    sha256: str


@dataclass(frozen=True)
class Part:
    """Textures that are written together, and again together if that is broken off.

    Attributes:
        numbers: Of the textures, in the order in which they are written.
        files: What the part writes; paths below the export, with "/".
    """

    numbers: Numbers
    files: Sequence[str]


class Form(Protocol):
    """One way to lay out an export; made of `Textures`, the same for the same ones.

    Attributes:
        paths: Of each texture, where it is below the export, with "/".
        entries: Names in the export's folder that the form makes.
        parts: All textures, each once.
    """

    paths: list[str]
    entries: list[str]
    parts: list[Part]

    def write(self, part: Part, pictures: Iterable[Picture], staging: Staging) -> None:
        """Write a part; `pictures` are its textures, in its order."""

    def finish(self, staging: Staging) -> None:
        """Write what the form has beside its parts."""


def top_names(paths: Iterable[str]) -> list[str]:
    """The first parts of some paths, sorted."""
    return sorted({path.partition("/")[0] for path in paths})
