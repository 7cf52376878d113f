"""Where a manifest's path leads, and the bytes of the image file there.

A manifest may come from anyone. Unless the user allows more, only what lies below its root is read,
links followed; and never anything but a regular file of a size that an image can need.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pipeline.object_store import locate_uri
from pipeline.storage import ObjectPath, is_uri
from texsynth.decoding import DEFAULT_MAX_PIXELS, ImageError

OUTSIDE_FLAG = "--allow-outside-root"
# Four channels of 16 bits, not compressed: the most that Pillow makes an image of.
BYTES_PER_PIXEL = 8
# Beside the pixels: colour profiles, metadata, thumbnails, further frames.
EXTRA_BYTES = 64 * 2**20
CHUNK_BYTES = 2**20
# In a URI: options and credentials (?), cut off (#), another file system (::), dropped (controls).
MISLEADING = re.compile(r"[?#\x00-\x1f\x7f]|::")
# A URI is decoded once when it is opened, and perhaps once more by a server.
DECODINGS = 3


def find_escape(path: str, root: str) -> str:
    """Say how a path leaves the root, by its text alone; empty if it does not.

    Below a folder neither absolute paths nor URIs are taken. Below a URI a path may be a URI that
    begins with the root and "/". There ".." is also found if it is percent-encoded, and what can
    name another place ("?", "#", "::", control characters) is not taken. Backslashes count as "/".

    Args:
        path: of an image, not empty.
        root: a folder or a URI.
    """
    base = root if root.endswith("/") else f"{root}/"
    if "://" in path:
        if "://" not in root or not path.startswith(base):
            return "is a URI that does not begin with the root"
        path = path[len(base) :]
    if "://" in root and MISLEADING.search(path):
        return "has '?', '#', '::' or a control character, and the root is a URI"
    for _ in range(DECODINGS if "://" in root else 1):
        plain = path.replace("\\", "/")
        if re.match(r"/|[A-Za-z]:/", plain):
            return "is absolute"
        if posixpath.normpath(plain).split("/")[0] == "..":
            return "leaves the root"
        path = unquote(path)
    return ""


def leads_outside(path: Path, root: Path) -> bool:
    """Whether a local path does not lie in a local folder once the links in both are followed."""
    return not path.resolve().is_relative_to(root.resolve())


def read_image_bytes(
    path: str,
    root: str,
    *,
    allow_outside_root: bool = False,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> bytes:
    """Return the bytes of an image file.

    Args:
        path: relative to `root`, or a URI (anything with "://") of a file system that fsspec
            knows. With `allow_outside_root` also an absolute path.
        root: a folder or a URI.
        allow_outside_root: read the file wherever it lies.
        max_pixels: of an image that will be taken; bounds the size of its file.

    Raises:
        ImageError: missing, unreadable, empty, no regular file, too large, or outside the root.
    """
    location = _join(root, path)
    max_bytes = BYTES_PER_PIXEL * max_pixels + EXTRA_BYTES
    try:
        if not allow_outside_root and (escape := find_escape(path, root)):
            raise ImageError(f"the path {escape}, expected {OUTSIDE_FLAG} or one below '{root}'")
        place = _locate(location)
        if isinstance(place, Path):
            if not allow_outside_root:
                _require_inside(place, root)
            data = _read_regular_file(place, max_bytes)
        else:
            with place() as stream:
                data = _read_at_most(stream, max_bytes)
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise ImageError(f"image '{location}' cannot be read: {error}") from error
    if not data:
        raise ImageError(f"image '{location}' is empty")
    return data


def _join(root: str, path: str) -> str:
    if "://" in path or Path(path).is_absolute():
        return path
    if "://" in root:
        return f"{root}{path}" if root.endswith("/") else f"{root}/{path}"
    return str(Path(root, path))


def _locate(location: str) -> Path | Callable[[], Any]:
    """A local path, or what opens a stream of bytes in another file system."""
    if "://" not in location:
        return Path(location)
    if is_uri(location):
        return ObjectPath(location).open
    return locate_uri(location)


def _require_inside(place: Path, root: str) -> None:
    base = _locate(root)
    if not isinstance(base, Path) or leads_outside(place, base):
        raise ImageError(f"it leads outside the root '{root}', expected {OUTSIDE_FLAG}")


def _read_regular_file(place: Path, max_bytes: int) -> bytes:
    """Opens nothing that could wait, such as a pipe, or never end, such as a device."""
    if place.exists() and not place.is_file():
        raise ImageError("it is a folder, a device or a pipe, expected a regular file")
    size = place.stat().st_size
    if size > max_bytes:
        raise ImageError(f"it has {size} bytes, expected at most {max_bytes}, {_limit()}")
    with place.open("rb") as stream:
        return _read_at_most(stream, max_bytes)


def _read_at_most(stream: Any, max_bytes: int) -> bytes:
    chunks: list[bytes] = []
    left = max_bytes + 1
    while left > 0 and (chunk := stream.read(min(left, CHUNK_BYTES))):
        chunks.append(chunk)
        left -= len(chunk)
    if left <= 0:
        raise ImageError(f"it has more than {max_bytes} bytes, expected at most that, {_limit()}")
    return b"".join(chunks)


def _limit() -> str:
    return f"{BYTES_PER_PIXEL} for each of max_pixels and {EXTRA_BYTES} beside them"
