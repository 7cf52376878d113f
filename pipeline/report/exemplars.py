"""An exemplar of a run, cut again from its source file."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from typing import Any

from PIL import Image

from pipeline.crops import cut_square
from pipeline.reading import read_image_bytes
from texsynth.decoding import DEFAULT_MAX_PIXELS, ImageError, load_image


def recut_exemplar(
    row: Mapping[str, Any],
    root: str,
    *,
    size: int | None = None,
    allow_outside_root: bool = False,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> Image.Image:
    """The exemplar of a row, cut again from its source file.

    Args:
        row: Of the run's metrics; a null is None.
        root: Of the paths, as in `run.json`.
        size: Side of the exemplars of the run, px; None where it is the textures' width.
        allow_outside_root: Whether the run took paths that leave the root.
        max_pixels: Of a source that the run took.

    Raises:
        ImageError: The file is missing, cannot be read, or is not the one that the row was made
            from; or the row does not say what was cut.
    """
    box = [row[name] for name in ("crop_left", "crop_top", "crop_side", "width")]
    if any(value is None for value in box):
        raise ImageError("the row does not say what was cut")
    data = read_image_bytes(
        row["path"], root, allow_outside_root=allow_outside_root, max_pixels=max_pixels
    )
    if hashlib.sha256(data).hexdigest() != row["exemplar_sha256"]:
        raise ImageError("the source file has changed since the run")
    left, top, side, width = map(int, box)
    return cut_square(load_image(data, max_pixels=max_pixels), left, top, side, size or width)


def remake_exemplar(
    row: Mapping[str, Any],
    root: str,
    *,
    size: int | None = None,
    allow_outside_root: bool = False,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> bytes:
    """The exemplar of a row as PNG; arguments and errors as of `recut_exemplar`."""
    image = recut_exemplar(
        row, root, size=size, allow_outside_root=allow_outside_root, max_pixels=max_pixels
    )
    return encode_png(image)


def encode_png(image: Image.Image) -> bytes:
    """An image as a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
