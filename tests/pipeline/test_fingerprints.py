"""Hashes of pictures: which are the same again, and the nearest of many."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from pipeline.fingerprints import (
    HASH_BITS,
    HASH_SIDE,
    MAX_DISTANCE,
    ORIENTATIONS,
    REDUCED_SIDE,
    Fingerprint,
    ImageSource,
    find_nearest,
    hash_picture,
    load_fingerprints,
)
from texsynth.decoding import ImageError

BYTES = HASH_BITS // 8


def picture_of(seed: int, size: tuple[int, int] = (96, 64)) -> Image.Image:
    """Blobs of colour, as different from those of another seed as photographs are."""
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def distance(first: Image.Image, second: Image.Image) -> int:
    return int(find_nearest(hash_picture(first)[None], hash_picture(second)[:1])[1][0])


EDITS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "quality 30": lambda image: as_jpeg(image, 30),
    "half size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "cropped": lambda image: ImageOps.crop(image, 1),
    "gray": lambda image: image.convert("L").convert("RGB"),
    "mirrored": ImageOps.mirror,
    "upside down": ImageOps.flip,
    "turned": lambda image: image.transpose(Image.Transpose.ROTATE_90),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_picture_again_is_near(edit: str) -> None:
    for seed in range(5):
        picture = picture_of(seed)
        assert distance(EDITS[edit](picture), picture) <= MAX_DISTANCE
        assert distance(EDITS[edit](picture), picture_of(seed + 100)) > MAX_DISTANCE


def test_stripes_are_known_again_and_told_apart() -> None:
    def stripes(period: int) -> Image.Image:
        columns = (np.arange(240) // period % 2 * 255).astype(np.uint8)
        return Image.fromarray(np.broadcast_to(columns[None], (160, 240)).copy()).convert("RGB")

    assert distance(as_jpeg(stripes(24), 30), stripes(24)) <= MAX_DISTANCE
    assert distance(stripes(24), stripes(50)) > MAX_DISTANCE


def test_the_orientations_are_all_eight() -> None:
    hashes = hash_picture(picture_of(0))
    assert hashes.shape == (8, BYTES)
    assert len({bits.tobytes() for bits in hashes}) == 8


@settings(max_examples=30)
@given(
    queries=st.integers(0, 5),
    others=st.integers(1, 6),
    seed=st.integers(0, 2**32),
    small=st.booleans(),
)
def test_the_nearest_is_that_of_a_loop_over_pairs(
    queries: int, others: int, seed: int, *, small: bool
) -> None:
    generator = np.random.default_rng(seed)
    # With few different bytes there are ties.
    top = 2 if small else 256
    ours = generator.integers(0, top, (queries, len(ORIENTATIONS), BYTES), np.uint8)
    theirs = generator.integers(0, top, (others, BYTES), np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.fingerprints.BLOCK_QUERIES", 2)
        patch.setattr("pipeline.fingerprints.BLOCK_OTHERS", 2)
        nearest, distances = find_nearest(ours, theirs)
    for index, query in enumerate(ours):
        loop = [
            min(bin(int.from_bytes(bytes(way ^ other))).count("1") for way in query)
            for other in theirs
        ]
        assert (distances[index], nearest[index]) == (min(loop), loop.index(min(loop)))


def test_the_hash_is_that_of_the_library() -> None:
    first, second = (picture_of(seed).convert("L") for seed in (1, 2))
    side = (REDUCED_SIDE, REDUCED_SIDE)
    small, other = (one.resize(side, Image.Resampling.LANCZOS) for one in (first, second))
    expected = min(
        (imagehash.dhash(turned, HASH_SIDE) - imagehash.dhash(other, HASH_SIDE))
        + (imagehash.dhash_vertical(turned, HASH_SIDE) - imagehash.dhash_vertical(other, HASH_SIDE))
        for turned in [small, *(small.transpose(way) for way in Image.Transpose)]
    )
    assert distance(picture_of(1), picture_of(2)) == expected


def test_files_are_read_once_and_bad_ones_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture_of(0).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    (tmp_path / "link.png").symlink_to("/etc/hostname")
    read: list[str] = []
    original = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, *more: (read.append(path.name), original(path, *more))[1]
    )
    names = ["a.png", "b.png", "absent.png", "../a.png", "link.png", "a.png"]
    sources = [ImageSource(path=n, root=str(tmp_path), allow_outside_root=False) for n in names]
    found = load_fingerprints(sources)
    assert sorted(read) == ["a.png", "b.png"]
    assert isinstance(found[sources[0]], Fingerprint)
    reasons = [str(found[source]) for source in sources[1:5]]
    assert all(isinstance(found[source], ImageError) for source in sources[1:5])
    words = ("cannot be decoded", "No such file", "leaves the root", "leads outside the root")
    assert [word in reason for word, reason in zip(words, reasons, strict=True)] == [True] * 4
