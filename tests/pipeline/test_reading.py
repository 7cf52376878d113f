from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

import pipeline.reading
from pipeline.cli import app
from pipeline.config import RunConfig
from pipeline.reading import find_escape, read_image_bytes
from texsynth.decoding import ImageError

OUTSIDE = "expected --allow-outside-root"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with an image in it, another image beside it, and one in its subfolder."""
    for name in ("secret.png", "root/a b.png", "root/sub/c.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "root"


def test_files_below_the_root_are_read(root: Path) -> None:
    for path in ("a b.png", "sub/../a b.png", "./a b.png"):
        assert read_image_bytes(path, str(root)) == b"root/a b.png"
    assert read_image_bytes("a b.png", f"{root}/") == b"root/a b.png"
    assert read_image_bytes("a b.png", f"file://{root}/") == b"root/a b.png"
    assert read_image_bytes("a%20b.png", f"file://{root}") == b"root/a b.png"
    assert read_image_bytes(f"file://{root}/a%20b.png", f"file://{root}") == b"root/a b.png"


def test_a_file_system_of_fsspec() -> None:
    fsspec = pytest.importorskip("fsspec")
    with fsspec.open("memory://bucket/a.png", "wb") as file:
        file.write(b"content")
    assert read_image_bytes("a.png", "memory://bucket") == b"content"
    assert read_image_bytes("memory://bucket/a.png", "memory://bucket") == b"content"


def test_anything_is_read_where_the_user_allows_it(root: Path) -> None:
    secret = root.parent / "secret.png"
    (root / "link.png").symlink_to(secret)
    for path in (str(secret), secret.as_uri(), "../secret.png", "link.png"):
        for place in (str(root), root.as_uri()):
            assert read_image_bytes(path, place, allow_outside_root=True) == b"secret.png"


@pytest.mark.parametrize(
    "path",
    [
        *("{outside}/secret.png", "{root}/a b.png", "../secret.png", "sub/../../secret.png"),
        *("file://{outside}/secret.png", "file://{root}/a%20b.png", "local://{root}/a b.png"),
        *(
            "s3://bucket/a.png",
            "http://127.0.0.1/a.png",
            "simplecache::file://{outside}/secret.png",
        ),
        *("\\secret.png", "..\\secret.png", "sub\\..\\..\\secret.png", "C:\\a.png", "C:/a.png"),
    ],
)
def test_a_path_that_leaves_a_folder_is_refused(root: Path, path: str) -> None:
    path = path.format(root=root, outside=root.parent)
    assert find_escape(path, str(root))
    with pytest.raises(ImageError, match=OUTSIDE):
        read_image_bytes(path, str(root))


@pytest.mark.parametrize(
    "path",
    [
        *("../secret.png", "%2e%2e/secret.png", "%2E./secret.png", "sub/..%2f..%2fsecret.png"),
        *("%252e%252e/secret.png", "..%5csecret.png", "..\\secret.png", "%2fsecret.png"),
        *("{base}/../secret.png", "{base}/%2e%2e/secret.png", "{base}x/secret.png", "{base}"),
        *("/etc/hostname", "local://{base}/a b.png", "FILE{rest}/a b.png"),
        *("a b.png?x=1", "a b.png#x", "a::b.png", ".\t./secret.png", "{base}/a::/etc/hostname"),
    ],
)
@pytest.mark.parametrize("end", ["", "/"])
def test_a_path_that_leaves_a_uri_is_refused(root: Path, path: str, end: str) -> None:
    base = root.as_uri()
    path = path.format(base=base, rest=base.removeprefix("file"))
    assert find_escape(path, base + end)
    with pytest.raises(ImageError, match=OUTSIDE):
        read_image_bytes(path, base + end)


@pytest.mark.parametrize(
    ("path", "root"),
    [
        *[("a..b.png", "/r"), ("%2e%2e/a.png", "/r"), ("%2Fa.png", "/r"), ("a#1?.png", "/r")],
        *[("a/../b.png", "/r"), ("...", "/r"), ("a\\b.png", "/r"), ("s3:/a.png", "/r")],
        *[("a%20b.png", "s3://b/r"), ("s3://b/r/a/../b.png", "s3://b/r/"), ("a.png", "file:///")],
    ],
)
def test_a_path_that_stays_is_taken(path: str, root: str) -> None:
    assert find_escape(path, root) == ""


def test_links_are_followed_before_the_place_is_judged(root: Path) -> None:
    (root / "link.png").symlink_to(root.parent / "secret.png")
    (root / "up").symlink_to(root.parent)
    (root / "inside.png").symlink_to("sub/c.png")
    (root / "gone.png").symlink_to(root.parent / "absent.png")
    for path in ("link.png", "up/secret.png", "gone.png", "up/root/../secret.png"):
        for place in (str(root), root.as_uri(), f"local://{root}"):
            with pytest.raises(ImageError, match=rf"leads outside the root '.*', {OUTSIDE}"):
                read_image_bytes(path, place)
    assert read_image_bytes("inside.png", str(root)) == b"root/sub/c.png"
    assert read_image_bytes("up/root/sub/c.png", str(root)) == b"root/sub/c.png"


def test_the_root_may_be_a_link(root: Path) -> None:
    (root.parent / "link").symlink_to(root)
    assert read_image_bytes("a b.png", str(root.parent / "link")) == b"root/a b.png"
    with pytest.raises(ImageError, match=OUTSIDE):
        read_image_bytes("../secret.png", str(root.parent / "link"))


def test_only_regular_files_are_opened(root: Path) -> None:
    os.mkfifo(root / "pipe.png")
    begun = time.monotonic()
    for path in ("pipe.png", "/dev/zero", "/dev/stdin", "sub"):
        for place in (str(root), root.as_uri()):
            with pytest.raises(ImageError, match="a folder, a device or a pipe, expected a reg"):
                read_image_bytes(path, place, allow_outside_root=True)
    assert time.monotonic() - begun < 5


def test_a_file_larger_than_any_image_is_refused_unread(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.reading, "EXTRA_BYTES", 100)
    (root / "fits.png").write_bytes(bytes(900))
    (root / "large.png").write_bytes(bytes(901))
    with (root / "huge.png").open("wb") as file:
        file.truncate(2**40)
    assert len(read_image_bytes("fits.png", str(root), max_pixels=100)) == 900
    for name, size in (("large.png", 901), ("huge.png", 2**40)):
        with pytest.raises(ImageError, match=rf"{name}' .*: it has {size} bytes, expected at most"):
            read_image_bytes(name, str(root), max_pixels=100)
    with pytest.raises(ImageError, match=f"it has {2**40} bytes, expected at most 800000100"):
        read_image_bytes("huge.png", str(root))


def test_a_stream_is_read_no_further_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setattr(pipeline.reading, "EXTRA_BYTES", 100)
    for name, size in (("fits", 900), ("large", 901)):
        with fsspec.open(f"memory://bucket/{name}.png", "wb") as file:
            file.write(bytes(size))
    assert len(read_image_bytes("fits.png", "memory://bucket", max_pixels=100)) == 900
    with pytest.raises(ImageError, match="it has more than 900 bytes, expected at most that"):
        read_image_bytes("large.png", "memory://bucket", max_pixels=100)


def test_a_file_that_cannot_be_read_is_named(root: Path) -> None:
    (root / "empty.png").touch()
    (root / "loop.png").symlink_to("loop.png")
    with pytest.raises(ImageError, match=r"empty\.png' is empty"):
        read_image_bytes("empty.png", str(root))
    for path in ("absent.png", "sub", "nul\0.png", "loop.png", f"{'x' * 5000}.png"):
        with pytest.raises(ImageError, match="cannot be read"):
            read_image_bytes(path, str(root))
    for path in (f"file://{root}/absent.png", "no-such://x/y", "file://host/x"):
        with pytest.raises(ImageError, match="cannot be read"):
            read_image_bytes(path, str(root), allow_outside_root=True)


def test_where_files_may_lie_changes_no_texture() -> None:
    allowed, not_allowed = (RunConfig(allow_outside_root=value) for value in (True, False))
    assert RunConfig() == not_allowed != allowed
    assert allowed.identity("w", "0") == not_allowed.identity("w", "0")


def test_the_flag_has_no_opposite(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        app(["run", "--help"])
    text = capsys.readouterr().out
    assert "--allow-outside-root" in text
    assert "--no-allow-outside-root" not in text
