"""The picture files of a report: thumbnails in sheets, and pictures at full size, each once."""

from __future__ import annotations

import hashlib
from pathlib import Path

from PIL import Image

TILE_SIDE = 64
"""Side of a thumbnail, px."""
TILES_PER_SIDE = 8
"""Of a sheet. A page of the gallery shows few exemplars of many sheets when it is sorted: small
sheets cost it little, and an exemplar and its textures lie on one."""
SHEET_QUALITY = 80


class PictureWriter:
    """Writes picture files into a folder as pictures are added to it.

    Attributes:
        folder: Where the files go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tiles = 0
        self._sheet: Image.Image | None = None

    def add_thumbnail(self, image: Image.Image) -> int:
        """Put a small copy on the next free tile.

        Args:
            image: Square; another shape is squeezed.

        Returns:
            Number of the tile: TILES_PER_SIDE**2 to a sheet, row by row.
        """
        size = TILES_PER_SIDE * TILE_SIDE
        tile, self._tiles = self._tiles, self._tiles + 1
        if self._sheet is None:
            self._sheet = Image.new("RGB", (size, size))
        row, column = divmod(tile % TILES_PER_SIDE**2, TILES_PER_SIDE)
        small = image.resize((TILE_SIDE, TILE_SIDE), Image.Resampling.LANCZOS)
        self._sheet.paste(small, (column * TILE_SIDE, row * TILE_SIDE))
        if self._tiles % TILES_PER_SIDE**2 == 0:
            self.flush()
        return tile

    def add_full(self, png: bytes) -> str:
        """Write a picture at full size, unless it is there; gives the name of its file."""
        name = f"{hashlib.sha256(png).hexdigest()[:20]}.png"
        path = self.folder / name
        if not path.exists():
            path.write_bytes(png)
        return name

    def flush(self) -> None:
        """Write the sheet that is being filled, if there is one."""
        if self._sheet is not None:
            number = (self._tiles - 1) // TILES_PER_SIDE**2
            # 4:4:4: colours do not run from one thumbnail into the next.
            self._sheet.save(
                self.folder / f"sheet-{number}.jpg", quality=SHEET_QUALITY, subsampling=0
            )
            self._sheet = None
