"""From a file's bytes to an exemplar: decode, crop a square, resize.

Everything is deterministic: the same bytes and arguments give the same pixels.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from texsynth.decoding import DEFAULT_MAX_PIXELS, load_image

CropMode = Literal["centre", "reference", "random"]


@dataclass(frozen=True, kw_only=True)
class Crop:
    """An exemplar and where it was cut; lengths in px of the oriented source.

    Attributes:
        pixels: [size, size, 3], RGB, 0 to 255.
        left: left edge of the square.
        top: its upper edge.
        side: its side before it was resized.
        source_width: width of the whole source.
        source_height: its height.
        upscaled: the square was smaller than `size`.
        sha256: of the file's bytes, in hex.
    """

    pixels: NDArray[np.uint8]
    left: int
    top: int
    side: int
    source_width: int
    source_height: int
    upscaled: bool
    sha256: str


def prepare_crop(
    data: bytes,
    *,
    size: int,
    mode: CropMode = "centre",
    index: int = 0,
    seed: int = 0,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> Crop:
    """Cut a square out of an image file and resize it to `size` with Lanczos, which is antialiased.

    * `centre`: the largest square in the middle.
    * `reference`: the left square of a landscape, the top square of a portrait. The reference
      implementation takes the left one always, and fails on portraits.
    * `random`: side uniform from `size` (or the short side, if smaller) to the short side, then a
      uniform position, drawn from sha256("SEED:INDEX:SHA256_OF_THE_FILE"): each image gets its own.

    Args:
        data: the file's bytes.
        size: side of the exemplar, px, at least 1.
        mode: as above.
        index: number of the random crop, from 0; used by `random` only.
        seed: the run's seed; used by `random` only.
        max_pixels: as for `load_image`.

    Raises:
        ImageError: the file cannot be decoded.
        ValueError: `size` or `index` is out of range.
    """
    if size < 1 or index < 0:
        raise ValueError(f"crop size {size}, index {index}: expected at least 1 and at least 0")
    image = load_image(data, max_pixels=max_pixels)
    checksum = hashlib.sha256(data).hexdigest()
    width, height = image.size
    left, top, side = 0, 0, min(width, height)
    if mode == "centre":
        left, top = (width - side) // 2, (height - side) // 2
    elif mode == "random":
        left, top, side = _draw_square(width, height, size, f"{seed}:{index}:{checksum}")
    return Crop(
        pixels=np.array(cut_square(image, left, top, side, size)),
        left=left,
        top=top,
        side=side,
        source_width=width,
        source_height=height,
        upscaled=side < size,
        sha256=checksum,
    )


def cut_square(image: Image.Image, left: int, top: int, side: int, size: int) -> Image.Image:
    """Cut a square of `side` px out of an image and make it `size` px, as `prepare_crop` does."""
    square = image.crop((left, top, left + side, top + side))
    return square if side == size else square.resize((size, size), Image.Resampling.LANCZOS)


def _draw_square(width: int, height: int, size: int, key: str) -> tuple[int, int, int]:
    digest = hashlib.sha256(key.encode()).digest()
    draws = [int.from_bytes(digest[k : k + 8], "big") for k in (0, 8, 16)]
    largest = min(width, height)
    smallest = min(size, largest)
    side = smallest + draws[0] % (largest - smallest + 1)
    return draws[1] % (width - side + 1), draws[2] % (height - side + 1), side
