"""How well hashes tell a picture again from other pictures of the same kind.

    python -m benchmarks.near_duplicates --images DIR

takes photographs from the subfolders of DIR, which are their categories. For several hashes it
prints how many edited versions of a photograph are within the largest distance, and how many pairs
of different photographs, of tiles of different photographs, and of tiles of one photograph are,
which are wrong unless they show the same. Then it times what `texsynth leakcheck` does.
"""

from __future__ import annotations

import argparse
import io
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from benchmarks.environment import describe_environment
from pipeline.fingerprints import (
    HASH_BITS,
    MAX_DISTANCE,
    ORIENTATIONS,
    REDUCED_SIDE,
    find_nearest,
    hash_picture,
)
from texsynth.decoding import load_image

DTD_IMAGES = 5640
Picture = Image.Image
Bits = NDArray[np.float32]


@dataclass(frozen=True)
class Candidate:
    """A hash of a gray square, [bits] of 0 and 1, and the largest distance that counts."""

    name: str
    compute: Callable[[Picture], NDArray[np.bool_]]
    most: int


def _dhash(side: int) -> Callable[[Picture], NDArray[np.bool_]]:
    return lambda image: np.concatenate(
        [imagehash.dhash(image, side).hash, imagehash.dhash_vertical(image, side).hash.T]
    ).ravel()


CANDIDATES = (
    Candidate("pHash 8x8", lambda image: imagehash.phash(image).hash.ravel(), 10),
    Candidate("pHash 16x16", lambda image: imagehash.phash(image, 16).hash.ravel(), 60),
    Candidate("dHash, rows, 12x12", lambda image: imagehash.dhash(image, 12).hash.ravel(), 24),
    Candidate("dHash, both, 8x8", _dhash(8), 21),
    Candidate("dHash, both, 12x12 (ours)", _dhash(12), MAX_DISTANCE),
)


def _jpeg(quality: int) -> Callable[[Picture], Picture]:
    def edit(image: Picture) -> Picture:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return load_image(file.getvalue())

    return edit


def _resize(factor: float) -> Callable[[Picture], Picture]:
    return lambda image: image.resize(
        (round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS
    )


def _crop(share: float) -> Callable[[Picture], Picture]:
    """Cuts this share of the side off every border."""
    return lambda image: image.crop(
        (
            round(share * image.width),
            round(share * image.height),
            round((1 - share) * image.width),
            round((1 - share) * image.height),
        )
    )


EDITS: dict[str, Callable[[Picture], Picture]] = {
    "JPEG quality 75": _jpeg(75),
    "JPEG quality 30": _jpeg(30),
    "JPEG quality 10": _jpeg(10),
    "half size": _resize(0.5),
    "quarter size": _resize(0.25),
    "gray": lambda image: image.convert("L").convert("RGB"),
    "brightness 1.3": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "contrast 0.7": lambda image: ImageEnhance.Contrast(image).enhance(0.7),
    "mirrored": ImageOps.mirror,
    "turned by 90 degrees": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "1 % off every border": _crop(0.01),
    "2 % off every border": _crop(0.02),
    "4 % off every border": _crop(0.04),
    "8 % off every border": _crop(0.08),
}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, help="folder of folders of images")
    paths = sorted(parser.parse_args().images.glob("*/*.*"))
    images = [load_image(path.read_bytes()) for path in paths]
    kinds = np.array([path.parent.name for path in paths])
    tiles = [tile for image in images for tile in _cut(image)]
    owners = np.repeat(np.arange(len(images)), 4)
    print("\n".join(describe_environment()))
    print(f"* {len(images)} photographs of {len(set(kinds))} categories, in all orientations")
    versions = {name: _reduce(edit(image) for image in images) for name, edit in EDITS.items()}
    whole, parts = _reduce(images), _reduce(tiles)
    rows = [_measure(one, whole, versions, kinds, (parts, owners)) for one in CANDIDATES]
    print("\n| found again, % | " + " | ".join(f"{c.name}, <= {c.most}" for c in CANDIDATES) + " |")
    print("| --- |" + " --- |" * len(CANDIDATES))
    for name in rows[0]:
        print(f"| {name} | " + " | ".join(row[name] for row in rows) + " |")
    print("\nDifferent photographs that ours takes for one (bits that differ):")
    print("\n".join(_list_pairs(paths, whole)))
    _time(images)


def _cut(image: Picture) -> Iterator[Picture]:
    """Its four quarters."""
    width, height = image.width // 2, image.height // 2
    for left, top in itertools.product((0, width), (0, height)):
        yield image.crop((left, top, left + width, top + height))


def _reduce(images: Iterator[Picture] | Sequence[Picture]) -> list[Picture]:
    size = (REDUCED_SIDE, REDUCED_SIDE)
    return [image.convert("L").resize(size, Image.Resampling.LANCZOS) for image in images]


def _signs(images: Sequence[Picture], candidate: Candidate) -> Bits:
    """[N, bits], -1 or 1."""
    return np.array([candidate.compute(image) for image in images]).astype(np.float32) * 2 - 1


def _turned(images: Sequence[Picture], candidate: Candidate) -> list[Bits]:
    return [
        _signs([one if way is None else one.transpose(way) for one in images], candidate)
        for way in ORIENTATIONS
    ]


def _measure(
    candidate: Candidate,
    whole: Sequence[Picture],
    versions: dict[str, list[Picture]],
    kinds: NDArray[np.str_],
    tiles: tuple[list[Picture], NDArray[np.int64]],
) -> dict[str, str]:
    """A column of the table."""
    turned = _turned(whole, candidate)
    shares = {}
    for name, edited in versions.items():
        signs = _signs(edited, candidate)
        bits = signs.shape[1]
        distances = np.min([(bits - (signs * way).sum(1)) / 2 for way in turned], axis=0)
        shares[name] = f"{100 * (distances <= candidate.most).mean():.1f}"
    one, other = np.triu_indices(len(whole), 1)
    distances = _distances(_signs(whole, candidate), turned)[one, other]
    alike = kinds[one] == kinds[other]
    parts, owners = tiles
    first, second = np.triu_indices(len(parts), 1)
    between = _distances(_signs(parts, candidate), _turned(parts, candidate))[first, second]
    own = owners[first] == owners[second]
    return shares | {
        "pairs of one category": _count(distances[alike], candidate),
        "pairs of two categories": _count(distances[~alike], candidate),
        "tiles of two photographs": _count(between[~own], candidate),
        "tiles of one photograph": _count(between[own], candidate),
    }


def _distances(signs: Bits, turned: Sequence[Bits]) -> Bits:
    """[N, N], the least over all orientations."""
    products: Bits = np.max([signs @ way.T for way in turned], axis=0)
    distances: Bits = (signs.shape[1] - products) / 2
    return distances


def _count(distances: Bits, candidate: Candidate) -> str:
    return f"{int((distances <= candidate.most).sum())} of {len(distances):,}"


def _list_pairs(paths: Sequence[Path], images: Sequence[Picture]) -> Iterator[str]:
    hashes = np.stack([hash_picture(image) for image in images])
    for (i, first), (j, second) in itertools.combinations(enumerate(paths), 2):
        distance = int(find_nearest(hashes[i : i + 1], hashes[j : j + 1, 0])[1][0])
        if distance <= MAX_DISTANCE:
            yield f"* {first.stem}, {second.stem}: {distance}"


def _time(images: Sequence[Picture]) -> None:
    """Processor time, which others on the machine do not lengthen much."""
    begun = time.process_time()
    for image in images:
        hash_picture(image)
    hashing = (time.process_time() - begun) / len(images)
    generator = np.random.default_rng(0)
    shape = (DTD_IMAGES, len(ORIENTATIONS), HASH_BITS // 8)
    queries = generator.integers(0, 256, shape, np.uint8)
    begun = time.process_time()
    find_nearest(queries, queries[:, 0])
    comparing = time.process_time() - begun
    print(f"\nProcessor time: {1e3 * hashing:.1f} ms to hash a decoded photograph, ", end="")
    print(f"{comparing:.1f} s to compare {DTD_IMAGES:,} with {DTD_IMAGES:,}.")


if __name__ == "__main__":
    main()
