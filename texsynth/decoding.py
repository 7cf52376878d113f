"""From an image file's bytes to upright RGB, whatever kind of image it is.

Deterministic: the same bytes give the same pixels.
"""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

DEFAULT_MAX_PIXELS = 100_000_000
# Only raster formats: Pillow would start Ghostscript for an EPS file. TGA is last, because it has
# no signature and is tried on everything.
IMAGE_FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "AVIF", "GIF", "BMP", "JPEG2000", "PPM", "TGA")
# What Pillow's decoders raise on damaged data (warnings, where Python makes errors of them).
DECODER_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, EOFError),
    *(RuntimeError, AssertionError, AttributeError, struct.error, zlib.error),
    *(Image.DecompressionBombError, Warning),
)
_TRANSPOSE_OF_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_warning_filters = threading.Lock()


class ImageError(ValueError):
    """An image file is missing, damaged, too large, or of a kind that has no RGB meaning."""


def load_image(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """Decode an image file to RGB, upright, as a viewer shows it.

    * The EXIF orientation is applied; of an animation the first frame is taken.
    * Transparency is laid over white, so that colours hidden under it never come into a texture.
    * 16-bit gray is scaled from 0..65535, float gray from the smallest of 0..1, 0..255 and 0..65535
      that holds all values; of 16-bit colour Pillow keeps the upper 8 bits.
    * Colour profiles are not applied.

    Args:
        data: the file's bytes.
        max_pixels: a larger image, or a TIFF with larger tiles, is refused by its header, before it
            is decoded. Pillow's own limit, about 179 million, always holds too. An AVIF file can
            hold a frame larger than its header says: the limit there is the decoder's, 268 million.

    Raises:
        ImageError: empty, truncated or damaged data, no known format, or too many pixels.
    """
    if not data:
        raise ImageError("image file is empty")
    try:
        image = _open(data)
        width, height = image.size
        if width * height > max_pixels:
            raise ImageError(f"image of {width}x{height} px: expected at most {max_pixels} pixels")
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            _refuse_large_tiles(data, image.tag_v2.offset, max_pixels)
        image.load()
        return convert_rgb(_orient(image))
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        formats = ", ".join(_formats())
        raise ImageError(
            f"image file of {len(data)} bytes cannot be decoded: none of {formats}"
        ) from error
    except DECODER_ERRORS as error:
        raise ImageError(f"image file of {len(data)} bytes cannot be decoded: {error}") from error


def image_suffixes() -> frozenset[str]:
    """Return the file name suffixes, lower case with a dot, of what `load_image` reads."""
    formats = _formats()
    return frozenset(s for s, name in Image.registered_extensions().items() if name in formats)


def _formats() -> list[str]:
    Image.init()
    return [name for name in IMAGE_FORMATS if name in Image.OPEN]


@contextmanager
def _without_warnings() -> Iterator[None]:
    # Pillow warns of damaged metadata, and of more than 89 million pixels, where max_pixels
    # decides; damaged pixels are errors. The filters belong to the process, hence the lock.
    with _warning_filters, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _open(data: bytes) -> Image.Image:
    with _without_warnings():
        return Image.open(io.BytesIO(data), formats=_formats())


def _refuse_large_tiles(data: bytes, offset: int, max_pixels: int) -> None:
    """Refuse tiles of a TIFF above the limit: libtiff makes room for a whole one, however small.

    Args:
        data: the file's bytes.
        offset: where the directory begins. It is read here, because releases of Pillow differ in
            the value that they keep of a repeated tag.
        max_pixels: of a tile.

    Raises:
        ImageError: for a larger tile, or a size that is no number.
    """
    order = "<" if data[:2] == b"II" else ">"
    big = 43 in data[2:4]
    count_format, entry_format = ("Q", "HHQ8s") if big else ("H", "HHI4s")
    (entries,) = struct.unpack_from(order + count_format, data, offset)
    start = offset + struct.calcsize(order + count_format)
    step = struct.calcsize(order + entry_format)
    largest = {TiffImagePlugin.TILEWIDTH: 1, TiffImagePlugin.TILELENGTH: 1}
    for position in range(start, min(start + entries * step, len(data) - step + 1), step):
        tag, kind, _, value = struct.unpack_from(order + entry_format, data, position)
        if tag in largest:
            number = {1: "B", 3: "H", 4: "I"} | ({16: "Q"} if big else {})
            if kind not in number:
                raise ImageError(f"TIFF tag {tag} has type {kind}: expected a whole number")
            largest[tag] = max(largest[tag], struct.unpack_from(order + number[kind], value)[0])
    width, height = largest.values()
    if width * height > max_pixels:
        raise ImageError(f"tiles of {width}x{height} px: expected at most {max_pixels} pixels")


def _orient(image: Image.Image) -> Image.Image:
    # Not ImageOps.exif_transpose: it also rewrites the EXIF block, which fails on odd tags.
    try:
        with _without_warnings():
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except DECODER_ERRORS:  # damaged EXIF beside good pixels: viewers show such images as stored
        return image
    transpose = _TRANSPOSE_OF_ORIENTATION.get(orientation)
    return image if transpose is None else image.transpose(transpose)


def convert_rgb(image: Image.Image) -> Image.Image:
    """RGB of a decoded picture: deep gray scaled, transparency over white."""
    if image.mode == "F" or image.mode.startswith("I"):
        return _convert_deep_gray(image)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _convert_deep_gray(image: Image.Image) -> Image.Image:
    """Scale 16-bit, 32-bit integer (as 16-bit) and float gray to 8 bits, rounded."""
    values = np.asarray(image).astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 65535):  # also NaN
        raise ImageError(f"gray image with values {low:g} to {high:g}: expected 0 to 65535")
    white = next(w for w in (1, 255, 65535) if high <= w) if image.mode == "F" else 65535
    return Image.fromarray(np.rint(values * (255 / white)).astype(np.uint8)).convert("RGB")
