"""Textures as one PNG file each: what torchvision's ImageFolder and DTD read."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from pipeline.export.form import Part, Picture, top_names
from pipeline.export.staging import Staging
from pipeline.export.textures import Textures
from pipeline.shards import ROW_GROUP_ROWS

PART_ROWS = 4 * ROW_GROUP_ROWS
"""Files that are synced together, and written again if that is broken off."""


class LooseFiles:
    """One PNG file for each texture; a `Form` but for its end.

    Args:
        paths: Of each texture, below the export.
    """

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths
        self.entries = top_names(paths)
        starts = range(0, len(paths), PART_ROWS)
        self.parts = [
            Part(np.arange(start, min(start + PART_ROWS, len(paths))), paths[start:][:PART_ROWS])
            for start in starts
        ]

    def write(self, part: Part, pictures: Iterable[Picture], staging: Staging) -> None:
        """Write the PNG bytes as they are."""
        for picture in pictures:
            with staging.writing(self.paths[picture.number]) as path:
                path.write_bytes(picture.png)


class ImageFolder(LooseFiles):
    """A folder for each category, below one for each split where there are several.

    `torchvision.datasets.ImageFolder` reads OUT, or OUT/SPLIT.
    """

    def __init__(self, textures: Textures) -> None:
        columns = [textures.folders, textures.names]
        if len(set(textures.splits)) > 1:
            columns.insert(0, textures.splits)
        super().__init__([f"{'/'.join(parts)}.png" for parts in zip(*columns, strict=True)])

    def finish(self, staging: Staging) -> None:
        """Nothing: folders are labels."""
