"""A manifest whose rows are dealt into splits: what a run is checked against."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property

from pipeline.fingerprints import ImageSource
from pipeline.manifest import Manifest, load_manifest
from pipeline.splits import SplitError, describe_splits, require_known_splits
from pipeline.table_stream import stream_table


@dataclass(frozen=True, kw_only=True)
class ManifestRow:
    """A row of a manifest: its number from 1, and what it says."""

    number: int
    exemplar_id: str
    path: str
    split: str | None
    sha256: str | None


@dataclass(frozen=True)
class DealtManifest:
    """A manifest and the splits of one partition.

    Attributes:
        manifest: as read.
        partition: 1 to 10; None for its column `split`.
        allow_outside_root: read its images wherever they lie.
    """

    manifest: Manifest
    partition: int | None
    allow_outside_root: bool

    @cached_property
    def rows(self) -> list[ManifestRow]:
        """All rows, in order.

        Raises:
            SplitError: the manifest does not say the splits.
        """
        table = self.manifest.table
        splits = require_known_splits(self.manifest, self.partition).to_pylist()
        known = "sha256" in table.column_names
        checksums = table["sha256"].to_pylist() if known else [None] * len(table)
        columns = zip(
            table["exemplar_id"].to_pylist(),
            table["path"].to_pylist(),
            splits,
            checksums,
            strict=True,
        )
        return [
            ManifestRow(number=number, exemplar_id=name, path=path, split=split, sha256=sha256)
            for number, (name, path, split, sha256) in enumerate(columns, start=1)
        ]

    @cached_property
    def row_of_id(self) -> dict[str, ManifestRow]:
        """Rows by `exemplar_id`; raises as `rows`."""
        return {row.exemplar_id: row for row in self.rows}

    def hold_out(self, splits: Collection[str]) -> list[ManifestRow]:
        """The rows of these splits.

        Raises:
            SplitError: there are none, or the manifest does not say the splits.
        """
        held_out = [row for row in self.rows if row.split in splits]
        if not held_out:
            found = describe_splits(require_known_splits(self.manifest, self.partition))
            raise SplitError(
                f"manifest '{self.manifest.path}' has {found}; expected rows of "
                f"{' or '.join(sorted(splits))}, which is what a check looks for"
            )
        return held_out

    def source(self, row: ManifestRow) -> ImageSource:
        """Where a row's image is."""
        return ImageSource(
            path=row.path,
            root=self.manifest.root,
            allow_outside_root=self.allow_outside_root,
        )


def load_dealt_manifest(
    path: str | os.PathLike[str],
    *,
    root: str | None = None,
    partition: int | None = None,
    allow_outside_root: bool = False,
) -> DealtManifest:
    """Read the manifest that a run is checked against.

    Raises:
        ManifestError: it cannot be used.
    """
    manifest = load_manifest(path, root=root, allow_outside_root=allow_outside_root)
    # All rows are looked at, again and again, as they are now.
    manifest = replace(manifest, stream=stream_table(manifest.table))
    return DealtManifest(manifest, partition, allow_outside_root)
