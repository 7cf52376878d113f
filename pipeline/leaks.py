"""Whether what a run was made from is also in the held-out part of a data set.

A texture leaks if an exemplar that it was made from is a held-out row of the manifest (by its id),
the same file as one (by SHA-256), or the same picture again (`pipeline.fingerprints`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.dealt import DealtManifest, ManifestRow
from pipeline.fingerprints import (
    MAX_DISTANCE,
    Fingerprint,
    ImageSource,
    find_nearest,
    load_fingerprints,
)
from pipeline.parents import Parent, Textures, load_textures
from pipeline.resume import RunRecord
from pipeline.run import require_record
from pipeline.rundir import RunDirectory
from pipeline.splits import HELD_OUT
from texsynth.decoding import DEFAULT_MAX_PIXELS, ImageError

Why = Literal["parent", "duplicate", "near duplicate"]
Fingerprints = Mapping[ImageSource, Fingerprint | ImageError]


@dataclass(frozen=True, kw_only=True)
class Leak:
    """A parent of textures that is held out.

    Attributes:
        parent: the exemplar, as the run has it.
        rows: number of textures made from it.
        why: parent: by its id; duplicate: the same file; near duplicate: the same picture.
        found: the held-out row.
        distance: of the pictures' hashes, bits; None unless `why` is near duplicate.
    """

    parent: Parent
    rows: int
    why: Why
    found: ManifestRow
    distance: int | None = None


@dataclass(frozen=True, kw_only=True)
class LeakReport:
    """What a check has found.

    Attributes:
        textures: of the run.
        held_out: number of held-out rows of the manifest.
        leaks: at most one of each parent, the first reason of `Why` that holds.
        unread_rows: held-out rows whose pictures could not be compared, and why, one line each.
        unread_parents: the same of parents.
        unread_files: the same of files of the run.
    """

    textures: Textures
    held_out: int
    leaks: tuple[Leak, ...]
    unread_rows: tuple[str, ...]
    unread_parents: Mapping[Parent, str]
    unread_files: tuple[str, ...]

    @property
    def leaking_rows(self) -> int:
        """Textures with a parent that leaks."""
        leaking = {leak.parent for leak in self.leaks}
        return sum(not leaking.isdisjoint(parents) for parents in self.textures.parents)

    @property
    def ok(self) -> bool:
        """Nothing leaks, and everything was looked at."""
        unread = (self.unread_rows, self.unread_parents, self.unread_files)
        return not self.leaks and not any(unread)


def check_leaks(
    run: RunDirectory, against: DealtManifest, held_out: Collection[str] = HELD_OUT
) -> LeakReport:
    """Look for what the textures of a run were made from among held-out rows of a manifest.

    Every image is read once. A parent's is taken where the manifest has a row of its id, if that is
    the same file, else from where the run read it.

    Args:
        run: finished or not.
        against: the manifest and its splits.
        held_out: the splits that nothing may come from.

    Raises:
        NotARunError, RunRecordError: it is no run directory, or a damaged one.
        SplitError: the manifest does not say the splits, or has no held-out row.
    """
    record = require_record(run)
    rows = against.hold_out(held_out)
    textures = load_textures(run)
    counts = textures.count_rows()
    max_pixels = record.config.get("max_pixels") or DEFAULT_MAX_PIXELS
    places = {parent: list(_places(parent, record, against)) for parent in counts}
    wanted = [against.source(row) for row in rows]
    first = [sources[0] for sources in places.values() if sources]
    read = load_fingerprints([*wanted, *first], max_pixels=max_pixels)
    last = [
        source
        for parent, sources in places.items()
        if not isinstance(_choose(parent, sources, read), Fingerprint)
        for source in sources
        if source not in read
    ]
    read |= load_fingerprints(last, max_pixels=max_pixels)
    parents = {parent: _choose(parent, sources, read) for parent, sources in places.items()}
    images = [read[source] for source in wanted]
    return LeakReport(
        textures=textures,
        held_out=len(rows),
        leaks=tuple(_HeldOut(rows, images).find(parents, counts)),
        unread_rows=tuple(
            line for row, image in zip(rows, images, strict=True) for line in _unread(row, image)
        ),
        unread_parents={
            parent: str(image) for parent, image in parents.items() if isinstance(image, ImageError)
        },
        unread_files=tuple(f"{problem.path}: {problem.reason}" for problem in textures.problems),
    )


class _HeldOut:
    """Held-out rows of a manifest, and what their images are known by."""

    def __init__(
        self, rows: Sequence[ManifestRow], images: Sequence[Fingerprint | ImageError]
    ) -> None:
        pairs = list(zip(rows, images, strict=True))
        known = [(row, image) for row, image in pairs if isinstance(image, Fingerprint)]
        # Of several rows the first: it is put in last.
        self._by_id = {row.exemplar_id: row for row in reversed(rows)}
        self._by_sha256 = {row.sha256: row for row in reversed(rows) if row.sha256 is not None}
        self._by_sha256 |= {image.sha256: row for row, image in reversed(known)}
        self._pictured = [row for row, _ in known]
        self._hashes = [image.hashes[0] for _, image in known]

    def find(
        self, parents: Mapping[Parent, Fingerprint | ImageError], rows: Mapping[Parent, int]
    ) -> Iterator[Leak]:
        """The leak of every parent that is held out; `rows` says how many textures each has."""
        near = self._find_near(parents, rows)
        for parent, image in parents.items():
            sha256 = image.sha256 if isinstance(image, Fingerprint) else parent.sha256
            if (row := self._by_id.get(parent.exemplar_id)) is not None:
                yield Leak(parent=parent, rows=rows[parent], why="parent", found=row)
            elif sha256 is not None and (row := self._by_sha256.get(sha256)) is not None:
                yield Leak(parent=parent, rows=rows[parent], why="duplicate", found=row)
            elif parent in near:
                yield near[parent]

    def _find_near(
        self, parents: Mapping[Parent, Fingerprint | ImageError], rows: Mapping[Parent, int]
    ) -> dict[Parent, Leak]:
        known = {p: image for p, image in parents.items() if isinstance(image, Fingerprint)}
        if not known or not self._hashes:
            return {}
        queries = np.stack([image.hashes for image in known.values()])
        nearest, distances = find_nearest(queries, np.stack(self._hashes))
        return {
            parent: Leak(
                parent=parent,
                rows=rows[parent],
                why="near duplicate",
                found=self._pictured[index],
                distance=int(distance),
            )
            for parent, index, distance in zip(known, nearest, distances, strict=True)
            if distance <= MAX_DISTANCE
        }


def _places(parent: Parent, record: RunRecord, against: DealtManifest) -> Iterator[ImageSource]:
    """Where the image of a parent may be, the manifest's place first."""
    row = against.row_of_id.get(parent.exemplar_id)
    if row is not None:
        yield against.source(row)
    if parent.path is not None:
        yield ImageSource(
            path=parent.path,
            root=record.root,
            allow_outside_root=record.config.get("allow_outside_root") is True,
        )


def _choose(
    parent: Parent, sources: Sequence[ImageSource], read: Fingerprints
) -> Fingerprint | ImageError:
    """The parent's image, or why there is none: the last place counts."""
    chosen: Fingerprint | ImageError = ImageError("neither the rows nor the manifest say where")
    for source in sources:
        if source not in read:
            continue
        chosen = read[source]
        if isinstance(chosen, Fingerprint):
            if parent.sha256 in (None, chosen.sha256):
                return chosen
            chosen = ImageError(
                f"image {source.path!r} in '{source.root}' has sha256 {chosen.sha256}, the "
                f"textures were made from {parent.sha256}"
            )
    return chosen


def _unread(row: ManifestRow, image: Fingerprint | ImageError) -> Iterator[str]:
    """What is wrong with the image of a held-out row."""
    where = f"row {row.number} ({row.split}, {row.exemplar_id!r})"
    if isinstance(image, ImageError):
        yield f"{where}: {image}"
    elif row.sha256 not in (None, image.sha256):
        yield f"{where}: {row.path!r} has sha256 {image.sha256}, the manifest says {row.sha256}"
