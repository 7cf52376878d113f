from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import pipeline.prepare
from pipeline.config import RunConfig
from pipeline.crops import prepare_crop
from pipeline.manifest import load_manifest
from pipeline.prepare import PREPARED, ExemplarSource, prepare_tasks
from pipeline.tasks import expand_tasks

MakeConfig = Callable[..., RunConfig]


def tasks_of(path: Path, *, allow_outside_root: bool = False, **counts: int) -> pa.Table:
    manifest = load_manifest(path, allow_outside_root=allow_outside_root)
    return expand_tasks(manifest.table, **({"crops": 1, "variations": 1, "seed": 0} | counts))


def prepared(tasks: pa.Table, path: Path, config: RunConfig) -> list[dict[str, Any]]:
    table = prepare_tasks(tasks, ExemplarSource(str(path.parent), config))
    added = [name for name in PREPARED.names if name not in tasks.schema.names]
    assert table.schema.names == [*tasks.schema.names, *added]
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def test_pixels_and_their_origin(
    make_manifest: Callable[..., Path], quick_config: MakeConfig
) -> None:
    path = make_manifest(["a", "b"])
    rows = prepared(tasks_of(path), path, quick_config())
    for row in rows:
        data = (path.parent / row["path"]).read_bytes()
        crop = prepare_crop(data, size=32)
        pixels = np.frombuffer(row["pixels"], np.uint8).reshape(32, 32, 3)
        np.testing.assert_array_equal(pixels, crop.pixels)
        assert row["exemplar_sha256"] == hashlib.sha256(data).hexdigest()
        assert (row["source_width"], row["source_height"]) == (48, 40)
        assert (row["crop_left"], row["crop_top"], row["crop_side"]) == (4, 0, 40)
        assert (row["upscaled"], row["error_type"], row["error"]) == (False, None, None)
    assert rows[0]["pixels"] != rows[1]["pixels"]


def test_broken_and_missing_images_are_tasks_with_an_error(
    make_manifest: Callable[..., Path], quick_config: MakeConfig
) -> None:
    path = make_manifest(["a", "b", "c"], broken=["b"], absent=["c"])
    good, broken, absent = prepared(tasks_of(path), path, quick_config())
    assert good["error"] is None
    for row, reason in ((broken, "cannot be decoded"), (absent, "No such file")):
        assert row["error_type"] == "ImageError"
        assert row["pixels"] is None
        name = row["exemplar_id"]
        assert row["error"].startswith(f"image 'images/{name}.png' (exemplar '{name}'): ")
        assert reason in row["error"]


def test_what_lies_outside_the_root_is_a_task_with_an_error(
    make_manifest: Callable[..., Path], quick_config: MakeConfig, tmp_path: Path
) -> None:
    manifest = make_manifest(["a", "b"])
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/link.png").symlink_to(tmp_path / "images/a.png")
    manifest.write_text("exemplar_id,path\nx,link.png\ny,../images/b.png\n")
    tasks = tasks_of(manifest, allow_outside_root=True)
    inner = tmp_path / "inner" / manifest.name
    for row in prepared(tasks, inner, quick_config()):
        assert row["error_type"] == "ImageError"
        assert "--allow-outside-root" in row["error"]
        assert row["pixels"] is None
    for row in prepared(tasks, inner, quick_config(allow_outside_root=True)):
        assert row["error"] is None


def test_an_image_is_read_once_for_all_its_variations_and_cut_once_per_crop(
    make_manifest: Callable[..., Path], quick_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_manifest(["a", "b"])
    reads: list[str] = []
    original = pipeline.prepare.read_image_bytes

    def counted(path: str, root: str, **options: Any) -> bytes:
        reads.append(path)
        return original(path, root, **options)

    monkeypatch.setattr(pipeline.prepare, "read_image_bytes", counted)
    config = quick_config(crop="random", crops=2, variations=3)
    rows = prepared(tasks_of(path, crops=2, variations=3), path, config)
    assert reads == ["images/a.png"] * 2 + ["images/b.png"] * 2
    assert len({row["pixels"] for row in rows}) == 4


def test_two_exemplars_of_one_file_keep_their_own_errors_and_checksums(
    make_manifest: Callable[..., Path], quick_config: MakeConfig
) -> None:
    path = make_manifest(["a"])
    right = hashlib.sha256((path.parent / "images/a.png").read_bytes()).hexdigest()
    path.write_text(f"exemplar_id,path,sha256\nx,images/a.png,{right}\ny,images/a.png,{'0' * 64}\n")
    first, second = prepared(tasks_of(path), path, quick_config())
    assert first["error"] is None
    assert second["error_type"] == "ImageError"
    assert f"(exemplar 'y'): sha256 is {right}, the manifest says 000" in second["error"]


def test_an_unforeseen_error_is_recorded_with_its_traceback(
    make_manifest: Callable[..., Path], quick_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **options: Any) -> bytes:
        raise ZeroDivisionError("decoder defect")

    monkeypatch.setattr(pipeline.prepare, "read_image_bytes", fail)
    path = make_manifest(["a"])
    (row,) = prepared(tasks_of(path), path, quick_config())
    assert row["error_type"] == "ZeroDivisionError"
    assert "Traceback" in row["error"]
    assert "decoder defect" in row["error"]
