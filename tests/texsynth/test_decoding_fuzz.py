"""Thousands of damaged PNG and JPEG files: each is an RGB image or an `ImageError`.

Run as a script, with a seed and a count, this file is the process that decodes them: what kills a
decoder kills that process, and the last number that it printed says which file did it.
"""

from __future__ import annotations

import io
import itertools
import os
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.crops import prepare_crop
from texsynth.decoding import ImageError, load_image

FILES = 6000
SEED = 20_240_607
MAX_SECONDS = 1.0
EVERY_CROPPED = 5
Mutation = Callable[[bytearray, np.random.Generator], bytearray]


def draw_file(random: np.random.Generator) -> bytearray:
    """A PNG or a JPEG of 8 to 48 px, of any mode and with any of their usual options."""
    width, height = random.integers(8, 49, 2)
    pixels = random.integers(0, 256, (height, width, 4), np.uint8)
    if random.random() < 0.5:
        pixels //= 64  # runs and repeats, as in real files
    file_format = "PNG" if random.random() < 0.5 else "JPEG"
    modes = ("RGB", "RGBA", "L", "LA", "P", "1", "I;16") if file_format == "PNG" else JPEG_MODES
    mode = modes[random.integers(len(modes))]
    options: dict[str, Any] = {}
    if random.random() < 0.3:
        options["exif"] = orientation(int(random.integers(1, 9)))
    if file_format == "JPEG":
        options |= {"progressive": bool(random.integers(2)), "quality": int(random.integers(5, 96))}
        options |= {"subsampling": int(random.integers(3)), "comment": b"a comment"}
    elif random.random() < 0.3:
        options |= {"icc_profile": random.bytes(200)}
    file = io.BytesIO()
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(pixels).convert("RGB").convert(mode)
    image.save(file, file_format, **options)
    return bytearray(file.getvalue())


JPEG_MODES = ("RGB", "L", "CMYK")


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def flip_bits(data: bytearray, random: np.random.Generator) -> bytearray:
    for _ in range(random.integers(1, 9)):
        data[random.integers(len(data))] ^= 1 << random.integers(8)
    return data


def truncate(data: bytearray, random: np.random.Generator) -> bytearray:
    return data[: random.integers(len(data))]


def drop_a_piece(data: bytearray, random: np.random.Generator) -> bytearray:
    start = int(random.integers(len(data)))
    del data[start : start + int(random.integers(1, 64))]
    return data


def draw_the_header(data: bytearray, random: np.random.Generator) -> bytearray:
    """Noise behind the signature, where sizes and types are."""
    start = int(random.integers(2, 9))
    noise = random.bytes(int(random.integers(1, 60)))
    data[start : start + len(noise)] = noise
    return data


def splice(data: bytearray, random: np.random.Generator) -> bytearray:
    """Pieces of another file, whole chunks or segments if there are any, come in between."""
    other = draw_file(random)
    mine, others = find_pieces(data), find_pieces(other)
    start, end = others[random.integers(len(others))]
    place = mine[random.integers(len(mine))][random.integers(2)]
    data[place:place] = other[start:end]
    return data


def swap_pieces(data: bytearray, random: np.random.Generator) -> bytearray:
    pieces = find_pieces(data)
    order = random.permutation(len(pieces))
    middle = b"".join(bytes(data[slice(*pieces[k])]) for k in order)
    return data[: pieces[0][0]] + middle + data[pieces[-1][1] :]


def damage_a_piece(data: bytearray, random: np.random.Generator) -> bytearray:
    pieces = find_pieces(data)
    start, end = pieces[random.integers(len(pieces))]
    for _ in range(random.integers(1, 4)):
        data[random.integers(start, end)] = random.integers(256)
    return data


def mend_checksums(data: bytearray) -> None:
    """Let the damage in a PNG's chunks come to the decoder."""
    for start, end in find_pieces(data):
        if data[:4] == b"\x89PNG" and end - start >= 12:
            data[end - 4 : end] = struct.pack(">I", zlib.crc32(data[start + 4 : end - 4]))


MUTATIONS: tuple[Mutation, ...] = (
    *(flip_bits, truncate, drop_a_piece, draw_the_header, splice, swap_pieces, damage_a_piece),
)


def find_pieces(data: bytearray) -> list[tuple[int, int]]:
    """Where the chunks of a PNG or the segments of a JPEG begin and end; else the whole."""
    pieces, start = [], 8
    if data[:4] == b"\x89PNG":
        while start + 12 <= len(data):
            (length,) = struct.unpack_from(">I", data, start)
            end = min(start + 12 + length, len(data))
            pieces.append((start, end))
            start = end
    else:
        marks = [k for k in range(2, len(data) - 1) if data[k] == 0xFF and data[k + 1] > 0xBF]
        pieces = list(itertools.pairwise([*marks, len(data)]))
    return [piece for piece in pieces if piece[0] < piece[1]] or [(0, len(data))]


def draw_damaged(seed: int, number: int) -> bytes:
    random = np.random.default_rng([seed, number])
    data = draw_file(random)
    for _ in range(random.integers(1, 3)):
        if len(data) > 8:
            data = MUTATIONS[random.integers(len(MUTATIONS))](data, random)
    if random.random() < 0.7:
        mend_checksums(data)
    return bytes(data)


def decode(data: bytes, *, cropped: bool) -> bool:
    """Whether there is an image; it is RGB. Any exception but an ImageError comes through."""
    try:
        image = load_image(data, max_pixels=2**20)
        assert image.mode == "RGB"
        assert np.asarray(image).shape == (image.height, image.width, 3)
        if cropped:
            crop = prepare_crop(data, size=16, mode="random", max_pixels=2**20)
            assert crop.pixels.shape == (16, 16, 3)
    except ImageError:
        return False
    return True


def decode_many(seed: int, count: int) -> None:
    """Print the number of each file before it is decoded, then how many were images."""
    images = 0
    for number in range(count):
        data = draw_damaged(seed, number)
        os.write(1, b"%d\n" % number)
        begun = time.thread_time()
        images += decode(data, cropped=number % EVERY_CROPPED == 0)
        seconds = time.thread_time() - begun
        if seconds > MAX_SECONDS:
            raise TimeoutError(f"{seconds:.1f} s, expected at most {MAX_SECONDS} s")
    os.write(1, b"%d images\n" % images)


@pytest.mark.faults
def test_every_damaged_file_is_an_image_or_an_image_error(tmp_path: Path) -> None:
    log = tmp_path / "numbers"
    command = [*(sys.executable, "-W", "error", "-X", "faulthandler"), __file__]
    with log.open("wb") as numbers:
        process = subprocess.Popen(
            [*command, str(SEED), str(FILES)], stdout=numbers, stderr=subprocess.PIPE, text=True
        )
        try:
            _, errors = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            _, errors = process.communicate()
    last = log.read_text().splitlines()[-1:]
    assert process.returncode == 0, f"draw_damaged({SEED}, {last}): {errors[-3000:]}"
    images, word = last[0].split()
    assert word == "images"
    assert FILES // 20 < int(images) < FILES // 2  # so both outcomes are tried


if __name__ == "__main__":
    decode_many(int(sys.argv[1]), int(sys.argv[2]))
