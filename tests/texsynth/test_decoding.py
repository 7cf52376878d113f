"""Files made to exhaust memory: small ones that claim, or unpack to, far more than they are."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

from texsynth.decoding import ImageError, load_image

SIDE = 60_000
MAX_GROWTH_MIB = 100  # Pillow unpacks text of 64 MiB at most
MAX_SECONDS = 2.0
HARMLESS = {"png-pixels-without-end", "tiff-bytes"}  # no more is unpacked than there are pixels
MEASURE = """
import json, re, sys, time
from pathlib import Path
from texsynth.decoding import ImageError, load_image

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

load_image(Path(sys.argv[1]).read_bytes())
for path in map(Path, sys.argv[2:]):
    data = path.read_bytes()
    before, begun, outcome = peak(), time.process_time(), "decoded"
    try:
        load_image(data)
    except ImageError as error:
        outcome = str(error)
    print(json.dumps([path.name, peak() - before, time.process_time() - begun, outcome]))
"""


def encode(file_format: str, **options: object) -> bytearray:
    file = io.BytesIO()
    image = Image.effect_noise((16, 16), 60).convert("RGB")
    image.save(file, file_format, **options)
    return bytearray(file.getvalue())


def patched(data: bytearray, position: int, layout: str, *values: int) -> bytes:
    assert position > 0
    struct.pack_into(layout, data, position, *values)
    return bytes(data)


@cache
def packed_zeros(mebibytes: int) -> bytes:
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(mebibytes)) + packer.flush()


def png(side: int, before: bytes = b"", after: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(16 * 49)))
    parts = (b"\x89PNG\r\n\x1a\n", header, before, pixels, after, chunk(b"IEND", b""))
    return b"".join(parts)


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def tiff(
    tags: Sequence[tuple[int, int]], width: int = 16, data: bytes = b"", order: str = "<"
) -> bytes:
    """A TIFF whose tags, all of one LONG, come on top of those that it needs; 277 to 325."""
    fixed = {256: width, 257: width, 258: 8, 259: 8, 262: 1, 277: 1}
    entries = sorted([*fixed.items(), *tags], key=lambda entry: entry[0])
    start = 8 + 2 + 12 * len(entries) + 4
    offsets = [(tag, start if tag in (273, 324) else value) for tag, value in entries]
    packed = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in offsets)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    return head + struct.pack(f"{order}H", len(entries)) + packed + bytes(4) + data


def tiled(width: int, length: int, order: str = "<") -> bytes:
    data = packed_zeros(300)
    tags = [(322, width), (323, length), (324, 0), (325, len(data))]
    return tiff(tags, data=data, order=order)


def make_bombs() -> dict[str, bytes]:
    zeros = packed_zeros(300)
    jpeg, gif, frame, webp = encode("JPEG"), encode("GIF"), encode("GIF"), encode("WEBP")
    animation = encode("WEBP", save_all=True, append_images=[Image.new("RGB", (16, 16), "red")])
    jpeg2000, lying = encode("JPEG2000"), encode("JPEG2000")
    avif = encode("AVIF") if "AVIF" in Image.SAVE else bytearray()
    texts = b"".join(chunk(b"zTXt", b"%d\0\0" % k + packed_zeros(1)) for k in range(400))
    bombs = {
        "png": png(SIDE),
        "png-profile": png(16, chunk(b"iCCP", b"p\0\0" + zeros)),
        "png-text": png(16, chunk(b"zTXt", b"p\0\0" + zeros)),
        "png-unicode-text": png(16, chunk(b"iTXt", b"p\0\1\0\0\0" + zeros)),
        "png-text-behind-the-pixels": png(16, after=chunk(b"zTXt", b"p\0\0" + zeros)),
        "png-many-texts": png(16, texts),
        "png-pixels-without-end": png(16).replace(
            chunk(b"IDAT", zlib.compress(bytes(16 * 49))), chunk(b"IDAT", zeros)
        ),
        "jpeg": patched(jpeg, jpeg.find(b"\xff\xc0") + 5, ">HH", SIDE, SIDE),
        "tiff": tiff([(273, 0), (278, SIDE), (279, len(zeros))], width=SIDE, data=zeros),
        "tiff-rows": tiff([(273, 0), (278, 2**31), (279, len(zeros))], data=zeros),
        "tiff-bytes": tiff([(273, 0), (278, 16), (279, 2**31)], data=zeros),
        "tiff-tile": tiled(17_000, 17_000),
        "tiff-tile-big-endian": tiled(17_000, 17_000, order=">"),
        "tiff-wide-tile": tiled(2**24, 16),
        "gif": patched(gif, 6, "<HH", SIDE, SIDE),
        "gif-frame": patched(frame, frame.rfind(b"\x2c\0\0\0\0\x10") + 5, "<HH", SIDE, SIDE),
        "webp": patched(webp, webp.find(b"\x9d\x01\x2a") + 3, "<HH", 16_383, 16_383),
        "webp-animation": patched(animation, animation.find(b"VP8X") + 12, "<IH", 2**24 - 1, 255),
        "bmp": patched(encode("BMP"), 18, "<ii", SIDE, SIDE),
        "jpeg2000": patched(
            bytearray(patched(jpeg2000, jpeg2000.find(b"\xff\x51") + 6, ">II", SIDE, SIDE)),
            *(jpeg2000.find(b"ihdr") + 4, ">II", SIDE, SIDE),
        ),
        "jpeg2000-lying": patched(lying, lying.find(b"\xff\x51") + 6, ">II", SIDE, SIDE),
        "ppm": f"P6\n{SIDE} {SIDE}\n255\n123".encode(),
        "ppm-plain": f"P3\n{SIDE} {SIDE}\n255\n1 2 3".encode(),
        "ppm-long-number": b"P3\n9000 9000\n255\n" + b"1" * 20_000_000,
        "tga": patched(encode("TGA"), 12, "<HH", SIDE, SIDE),
    }
    if avif:
        bombs["avif"] = patched(avif, avif.find(b"ispe") + 8, ">II", 16_000, 16_000)
    return bombs


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures as Linux does")
def test_a_bomb_takes_neither_memory_nor_time(tmp_path: Path) -> None:
    bombs = make_bombs()
    flat = io.BytesIO()
    Image.new("RGB", (8000, 8000)).save(flat, "PNG")
    warm, *paths = (tmp_path / name for name in ("warm", *bombs, "honest"))
    for path in (warm, *paths):
        path.write_bytes({"warm": png(16), "honest": flat.getvalue(), **bombs}[path.name])
    command = [sys.executable, "-c", MEASURE, *map(str, (warm, *paths))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    measured = [json.loads(line) for line in done.stdout.splitlines()]
    assert [name for name, *_ in measured] == [*bombs, "honest"]
    *refused, honest = measured
    assert honest[1] > 2 * MAX_GROWTH_MIB  # so the measure sees what is decoded
    assert honest[3] == "decoded"
    assert sum(growth_mib for _, growth_mib, _, _ in refused) < MAX_GROWTH_MIB, refused
    assert max(seconds for _, _, seconds, _ in refused) < MAX_SECONDS, refused
    assert {name for name, *_, outcome in refused if outcome == "decoded"} == HARMLESS


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiles_are_held_against_the_limit(order: str) -> None:
    tile = bytes(32 * 48)
    data = zlib.compress(tile)
    tags = [(322, 32), (323, 48), (324, 0), (325, len(data))]
    file = tiff(tags, data=data, order=order)
    assert load_image(file, max_pixels=32 * 48).size == (16, 16)
    with pytest.raises(ImageError, match="tiles of 32x48 px: expected at most 1535 pixels"):
        load_image(file, max_pixels=32 * 48 - 1)
    for extra in ((322, 17_000), (323, 2**20)):
        for repeated in ([extra, *tags], [*tags, extra]):
            with pytest.raises(ImageError, match=r"tiles of .* px: expected at most"):
                load_image(tiff(repeated, data=data, order=order), max_pixels=10_000)


def test_tiles_of_a_big_tiff_are_held_against_the_limit() -> None:
    def big(side: int, kind: int) -> bytes:
        needed = {256: 16, 257: 16, 258: 8, 259: 1, 262: 1, 277: 1, 324: 400, 325: side**2}
        kinds = {tag: (4, value) for tag, value in needed.items()}
        kinds |= {322: (kind, side), 323: (kind, side)}
        packed = b"".join(struct.pack("<HHQQ", t, k, 1, v) for t, (k, v) in sorted(kinds.items()))
        head = struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, len(kinds))
        return (head + packed).ljust(400, b"\0") + bytes(side**2)

    for kind in (4, 16):
        assert load_image(big(32, kind), max_pixels=1024).size == (16, 16)
        with pytest.raises(ImageError, match="tiles of 32x32 px"):
            load_image(big(32, kind), max_pixels=1023)
    with pytest.raises(ImageError, match="TIFF tag 322 has type 9: expected a whole number"):
        load_image(big(32, 9))
