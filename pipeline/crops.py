"""From a file's bytes to an exemplar: decode, orient, make RGB, crop a square, resize.

Everything is deterministic: the same bytes and arguments give the same pixels.
"""

import hashlib
import io
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.fs
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

CropMode = Literal["centre", "reference", "random"]

DEFAULT_MAX_PIXELS = 100_000_000
# Only raster formats: Pillow would start Ghostscript for an EPS file. TGA is last, because it has
# no signature and is tried on everything.
IMAGE_FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "AVIF", "GIF", "BMP", "JPEG2000", "PPM", "TGA")
# What Pillow's decoders raise on damaged data (warnings, where Python makes errors of them).
DECODER_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, EOFError),
    *(RuntimeError, struct.error, zlib.error, Image.DecompressionBombError, Warning),
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


def load_image(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """Decode an image file to RGB, upright, as a viewer shows it.

    * The EXIF orientation is applied; of an animation the first frame is taken.
    * Transparency is laid over white, so that colours hidden under it never come into a texture.
    * 16-bit gray is scaled from 0..65535, float gray from the smallest of 0..1, 0..255 and 0..65535
      that holds all values; of 16-bit colour Pillow keeps the upper 8 bits.
    * Colour profiles are not applied.

    Args:
        data: the file's bytes.
        max_pixels: a larger image is refused by its header, before it is decoded. Pillow's own
            limit, about 179 million, always holds too.

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
        image.load()
        return _convert_rgb(_orient(image))
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        formats = ", ".join(_formats())
        raise ImageError(
            f"image file of {len(data)} bytes cannot be decoded: none of {formats}"
        ) from error
    except DECODER_ERRORS as error:
        raise ImageError(f"image file of {len(data)} bytes cannot be decoded: {error}") from error


def read_image_bytes(path: str, root: str = "") -> bytes:
    """Return the bytes of an image file.

    Args:
        path: relative to `root`, or a URI (anything with "://") of a file system that pyarrow or
            fsspec knows.
        root: a folder or a URI.

    Raises:
        ImageError: missing, unreadable or empty.
    """
    location = path if "://" in path or not root else f"{root.rstrip('/')}/{path}"
    try:
        data = _read_uri(location) if "://" in location else Path(location).read_bytes()
    except (OSError, ValueError, ImportError) as error:
        raise ImageError(f"image '{location}' cannot be read: {error}") from error
    if not data:
        raise ImageError(f"image '{location}' is empty")
    return data


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


def _orient(image: Image.Image) -> Image.Image:
    # Not ImageOps.exif_transpose: it also rewrites the EXIF block, which fails on odd tags.
    try:
        with _without_warnings():
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except DECODER_ERRORS:  # damaged EXIF beside good pixels: viewers show such images as stored
        return image
    transpose = _TRANSPOSE_OF_ORIENTATION.get(orientation)
    return image if transpose is None else image.transpose(transpose)


def _convert_rgb(image: Image.Image) -> Image.Image:
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


def _draw_square(width: int, height: int, size: int, key: str) -> tuple[int, int, int]:
    digest = hashlib.sha256(key.encode()).digest()
    draws = [int.from_bytes(digest[k : k + 8], "big") for k in (0, 8, 16)]
    largest = min(width, height)
    smallest = min(size, largest)
    side = smallest + draws[0] % (largest - smallest + 1)
    return draws[1] % (width - side + 1), draws[2] % (height - side + 1), side


def _read_uri(uri: str) -> bytes:
    try:
        filesystem, path = pa.fs.FileSystem.from_uri(uri)
    except pa.ArrowInvalid:  # not one of pyarrow's own: http, memory, ...
        import fsspec  # type: ignore[import-untyped]

        with fsspec.open(uri, "rb") as file:
            return bytes(file.read())
    with filesystem.open_input_stream(path) as stream:
        return bytes(stream.read())
