"""Fingerprints of image files: which are the same file, and which the same picture again.

A picture again (another size, another quality, a little cropped, turned or mirrored) is found by
difference hashes, of rows and of columns, from `imagehash`: whether each pixel of a small gray
version is brighter than the one before it. Of the library's hashes these are the ones that also
know stripes and grids again, whose DCT is nearly all zeros (measured: benchmarks/near_duplicates).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.reading import read_image_bytes
from texsynth.decoding import DEFAULT_MAX_PIXELS, ImageError, load_image

REDUCED_SIDE = 128
"""Of the square that is hashed in all orientations, px: it is made once."""
HASH_SIDE = 12
"""Side of the grid of a hash: 144 bits for rows, as many for columns."""
HASH_BITS = 2 * HASH_SIDE**2
MAX_DISTANCE = 48
"""Bits in which two hashes of one picture differ at most; measured: benchmarks/near_duplicates."""
ORIENTATIONS = (None, *Image.Transpose)
BLOCK_QUERIES, BLOCK_OTHERS = 256, 4096
"""Of images compared at once: their distances take 32 MiB."""

Hashes = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """Where an image file is.

    Attributes:
        path: relative to `root`, or what `read_image_bytes` takes.
        root: folder or URI.
        allow_outside_root: read it wherever it lies.
    """

    path: str
    root: str
    allow_outside_root: bool


@dataclass(frozen=True)
class Fingerprint:
    """What an image file is known again by.

    Attributes:
        sha256: of the file's bytes.
        hashes: [8, HASH_BITS / 8], of the picture upright, then turned and mirrored.
    """

    sha256: str
    hashes: Hashes


def load_fingerprints(
    sources: Collection[ImageSource], *, max_pixels: int = DEFAULT_MAX_PIXELS
) -> dict[ImageSource, Fingerprint | ImageError]:
    """Read every image once, on all cores; one image per core is in memory.

    Args:
        sources: where they are.
        max_pixels: larger images are refused.

    Returns:
        The fingerprint of each, or why there is none.
    """

    def load(source: ImageSource) -> Fingerprint | ImageError:
        try:
            return _load_fingerprint(source, max_pixels)
        except ImageError as error:
            return error
        except MemoryError:
            return ImageError(f"image '{source.path}' does not fit into memory")

    distinct = list(dict.fromkeys(sources))
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return dict(zip(distinct, threads.map(load, distinct), strict=True))


def hash_picture(image: Image.Image) -> Hashes:
    """[8, HASH_BITS / 8] bytes of difference hashes, one for each of ORIENTATIONS."""
    small = image.convert("L").resize((REDUCED_SIDE, REDUCED_SIDE), Image.Resampling.LANCZOS)
    turned = [small if way is None else small.transpose(way) for way in ORIENTATIONS]
    bits = [
        [imagehash.dhash(one, HASH_SIDE).hash, imagehash.dhash_vertical(one, HASH_SIDE).hash]
        for one in turned
    ]
    return np.packbits(np.array(bits).reshape(len(ORIENTATIONS), HASH_BITS), axis=1)


def find_nearest(queries: Hashes, others: Hashes) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Of other pictures the one that is most like each, in the orientation in which it is.

    With bits as -1 and 1, a b^T = HASH_BITS - 2 distance: a matrix product compares all pairs, and
    is exact in float32.

    Args:
        queries: [N, 8, HASH_BITS / 8], all orientations.
        others: [M, HASH_BITS / 8], upright; M at least 1.

    Returns:
        [N] which of the others, the first of equal ones, and [N] their distances, 0 to HASH_BITS.
    """
    nearest = np.zeros(len(queries), np.intp)
    distances = np.full(len(queries), HASH_BITS + 1)
    for start in range(0, len(others), BLOCK_OTHERS):
        theirs = _signs(others[start : start + BLOCK_OTHERS]).T
        for begin in range(0, len(queries), BLOCK_QUERIES):
            here = slice(begin, begin + BLOCK_QUERIES)
            ours = _signs(queries[here]).reshape(-1, HASH_BITS)
            products = (ours @ theirs).reshape(-1, len(ORIENTATIONS), theirs.shape[1])
            block = (HASH_BITS - products.max(axis=1).astype(np.int64)) // 2
            best = block.argmin(axis=1)
            found = block[np.arange(len(block)), best]
            closer = found < distances[here]
            nearest[here] = np.where(closer, start + best, nearest[here])
            distances[here] = np.where(closer, found, distances[here])
    return nearest, distances


def _load_fingerprint(source: ImageSource, max_pixels: int) -> Fingerprint:
    data = read_image_bytes(
        source.path,
        source.root,
        allow_outside_root=source.allow_outside_root,
        max_pixels=max_pixels,
    )
    picture = load_image(data, max_pixels=max_pixels)
    return Fingerprint(hashlib.sha256(data).hexdigest(), hash_picture(picture))


def _signs(hashes: Hashes) -> NDArray[np.float32]:
    """[..., HASH_BITS], -1 or 1."""
    return np.unpackbits(hashes, axis=-1).astype(np.float32) * 2 - 1
