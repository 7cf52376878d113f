from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config import RunConfig
from pipeline.downloads import fetch, load_network
from pipeline.manifest import ManifestError, load_manifest
from pipeline.reading import read_image_bytes
from pipeline.storage import ObjectPath
from texsynth import WeightsError
from texsynth.decoding import ImageError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TEXSYNTH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_local_file_is_its_own_copy(tmp_path: Path) -> None:
    assert fetch(tmp_path / "a") == tmp_path / "a"


def test_an_object_is_fetched_once_until_it_changes(
    bucket: ObjectPath, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = bucket / "deep" / "a.csv"
    place.write_bytes(b"first")
    first = fetch(place)
    assert (first.name, first.read_bytes()) == ("a.csv", b"first")
    assert first.is_relative_to(cache)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.downloads.download", lambda *_: pytest.fail("fetched twice"))
        assert fetch(place) == first
    place.write_bytes(b"other")
    assert fetch(place).read_bytes() == b"other"
    assert first.read_bytes() == b"first"
    with pytest.raises(FileNotFoundError, match=r"no-such\.csv"):
        fetch(bucket / "no-such.csv")


def test_weights_of_a_bucket_are_those_of_the_file(bucket: ObjectPath, weights_file: Path) -> None:
    (bucket / weights_file.name).upload(weights_file)
    stored, local = load_network(f"{bucket}/{weights_file.name}"), load_network(str(weights_file))
    assert stored.weights_id == local.weights_id
    assert stored.weights_sha256 == local.weights_sha256
    with pytest.raises(WeightsError, match=r"weights '\w+://.*/absent\.pth': .*no such object"):
        load_network(f"{bucket}/absent.pth")


def test_a_manifest_of_a_bucket_has_its_root_there(
    bucket: ObjectPath, make_manifest: Callable[..., Path], quick_config: Callable[..., RunConfig]
) -> None:
    local = make_manifest(["a"])
    place = bucket / "list" / "manifest.csv"
    place.upload(local)
    image = local.parent / "images" / "a.png"
    (bucket / "list" / "images" / "a.png").upload(image)
    manifest = load_manifest(str(place))
    assert (manifest.path, manifest.root) == (place, f"{bucket}/list")
    assert manifest.sha256 == load_manifest(local).sha256
    (row,) = manifest.table.to_pylist()
    assert read_image_bytes(row["path"], manifest.root) == image.read_bytes()
    with pytest.raises(ManifestError, match=r"manifest '\w+://.*/absent\.csv': no such file"):
        load_manifest(str(bucket / "absent.csv"))


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("../secret.png", "leaves the root"),
        ("%2e%2e/secret.png", "leaves the root"),
        ("s3://other/secret.png", "does not begin with the root"),
        ("absent.png", "no such object"),
        ("large.png", "expected at most"),
        ("empty.png", "is empty"),
    ],
)
def test_an_image_that_is_not_to_be_read(
    bucket: ObjectPath, monkeypatch: pytest.MonkeyPatch, path: str, reason: str
) -> None:
    monkeypatch.setattr("pipeline.reading.EXTRA_BYTES", 0)
    (bucket / "secret.png").write_bytes(b"secret")
    (bucket / "root" / "large.png").write_bytes(b"0" * 100)
    (bucket / "root" / "empty.png").write_bytes(b"")
    with pytest.raises(ImageError, match=reason):
        read_image_bytes(path, f"{bucket}/root", max_pixels=10)
