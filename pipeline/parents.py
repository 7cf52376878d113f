"""Which exemplars the textures of a run were made from: one, or two where they are blended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.acceptance import read_accepted
from pipeline.committed import FileProblem, Scan, read_from_scan, read_rows
from pipeline.rundir import RunDirectory
from pipeline.verify.rows import has_image

PARENTS = (
    ("exemplar_id", "path", "exemplar_sha256"),
    ("blend_exemplar_id", "blend_path", "blend_exemplar_sha256"),
)
"""Columns of a row that name a parent: id, path and SHA-256. A run need not have the later ones."""
ROW_COLUMNS = ("task_id", "status", "accepted")


@dataclass(frozen=True)
class Parent:
    """An exemplar as rows name it.

    Attributes:
        exemplar_id: as in the run's manifest.
        path: relative to the run's root; None if no row says it.
        sha256: of the file that the textures were made from; None if the rows do not say it.
    """

    exemplar_id: str
    path: str | None
    sha256: str | None


@dataclass(frozen=True)
class Textures:
    """The rows of a run that have a texture.

    Attributes:
        rows: ROW_COLUMNS, sorted as the run's; `accepted` as `read_accepted` says.
        parents: of each row.
        without_texture: number of rows that have none.
        problems: files of the run that could not be read.
    """

    rows: pa.Table
    parents: list[tuple[Parent, ...]]
    without_texture: int
    problems: tuple[FileProblem, ...]

    def count_rows(self) -> Counter[Parent]:
        """Rows of each parent, in the order of the rows."""
        return Counter(parent for parents in self.parents for parent in dict.fromkeys(parents))


def load_textures(run: RunDirectory) -> Textures:
    """Read which textures a run has, and of what; no image is read."""

    def read(scan: Scan) -> Textures:
        named = [name for columns in PARENTS for name in columns if name in scan.schema.names]
        table = read_rows(scan, scan.winners, [*ROW_COLUMNS, *named])
        place = table.schema.get_field_index("accepted")
        table = table.set_column(place, "accepted", read_accepted(run, scan))
        made = table.filter(has_image(table))
        missing = len(table) - len(made)
        return Textures(made.select(ROW_COLUMNS), list(_parents(made)), missing, scan.problems)

    return read_from_scan(run, read)


def _parents(table: pa.Table) -> Iterator[tuple[Parent, ...]]:
    """Of each row, those that it names; a path that one row says holds for all."""
    named = [list(_triples(table, columns)) for columns in PARENTS]
    paths = {(name, sha256): path for one in named for name, path, sha256 in one if path}
    for triples in zip(*named, strict=True):
        yield tuple(
            Parent(name, paths.get((name, sha256)), sha256)
            for name, _, sha256 in triples
            if name is not None
        )


def _triples(table: pa.Table, columns: tuple[str, str, str]) -> Iterator[tuple[Any, Any, Any]]:
    """Values of these columns by rows; None of those that the table lacks."""
    lists = [
        table[name].to_pylist() if name in table.column_names else [None] * len(table)
        for name in columns
    ]
    yield from zip(*lists, strict=True)
