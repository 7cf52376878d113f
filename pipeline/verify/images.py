"""Whether stored textures are whole PNGs, and whether exemplars are still what they were."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections.abc import Mapping
from typing import Any

from PIL import Image

from pipeline.resume import RunRecord
from pipeline.verify.checks import Check, Problems, counted

# What Pillow raises on damaged data (warnings, where Python makes errors of them).
PNG_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError),
    *(struct.error, zlib.error, Image.DecompressionBombError, Warning, MemoryError),
)
RGB_8_BIT = bytes([8, 2])
"""Bit depth and colour type, at this place of every PNG; Pillow makes 8 bits of 16 unasked."""
DEPTH_AT = 24


def find_png_problem(data: bytes, height: int | None, width: int | None) -> str:
    """Say what is wrong with a stored texture; empty if nothing is.

    Args:
        data: A PNG, decoded in full, checksums too.
        height: Of the row, px.
        width: Likewise.
    """
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.size != (width, height):
                return f"PNG of {image.width}x{image.height} px, the row says {width}x{height}"
            if data[DEPTH_AT : DEPTH_AT + 2] != RGB_8_BIT:
                return f"PNG of mode {image.mode}, expected RGB with 8 bits"
            image.verify()
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            image.load()
    except PNG_ERRORS as error:
        return f"no whole PNG: {type(error).__name__}: {error}"
    return ""


def check_exemplars(digests: Mapping[str, set[str]], record: RunRecord) -> Check:
    """Compare the sources that can be read here with what the rows were made from.

    Args:
        digests: SHA-256 that the rows give, by path.
        record: The run's; says where the sources are.
    """
    problems = Problems()
    unread = []
    for path, expected in sorted(digests.items()):
        if len(expected) > 1:
            problems.add(f"{path!r}: rows were made from {len(expected)} different files")
            continue
        data, reason = _read_source(path, record)
        if data is None:
            unread.append(reason)
        elif (got := hashlib.sha256(data).hexdigest()) not in expected:
            problems.add(f"{path!r}: sha256 is {got}, of the rows {min(expected)}")
    found = f"{counted(len(digests) - len(unread), 'source')} read"
    if unread:
        found += (
            f"; not checked: {counted(len(unread), 'source')} cannot be read here ({unread[0]})"
        )
    return problems.check(
        "exemplars",
        found,
        "put the earlier files back: the textures were made from them; new sources belong in a new "
        "run directory",
    )


def _read_source(path: str, record: RunRecord) -> tuple[bytes | None, str]:
    # Brings torch along, which a look at the other files does not need.
    from pipeline.reading import read_image_bytes
    from texsynth.decoding import ImageError

    outside = record.config.get("allow_outside_root") is True
    limit = record.config.get("max_pixels")
    options: dict[str, Any] = {"max_pixels": limit} if isinstance(limit, int) else {}
    try:
        return read_image_bytes(path, record.root, allow_outside_root=outside, **options), ""
    except ImageError as error:
        return None, str(error)
