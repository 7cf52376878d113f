from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import pipeline
from pipeline.finalize import finalize
from pipeline.query import load_images, load_metrics
from pipeline.rundir import NotARunError, RunDirectory
from pipeline.shards import commit_rows

MakeTable = Callable[..., pa.Table]
IDS = [f"t{number:03d}" for number in range(100)]


def test_metrics_during_the_run_and_after_it(run: RunDirectory, make_table: MakeTable) -> None:
    assert load_metrics(run).empty
    commit_rows(run, make_table(IDS[:50]))
    during = load_metrics(run)
    assert list(during["task_id"]) == IDS[:50]
    assert "image" not in during
    finalize(run, pa.array(IDS))
    assert load_metrics(run).equals(during)
    commit_rows(run, make_table(IDS[50:]))
    commit_rows(run, make_table(IDS[:1], attempts=2))
    later = load_metrics(run)
    assert list(later["task_id"]) == IDS
    assert later["attempts"].max() == 2


def test_finished_metrics_come_from_one_file(
    run: RunDirectory, make_table: MakeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_rows(run, make_table(IDS))
    finalize(run, pa.array(IDS))
    monkeypatch.delattr("pipeline.query.read_committed")
    assert list(load_metrics(run)["task_id"]) == IDS


def test_damaged_metrics_are_read_from_the_rows(run: RunDirectory, make_table: MakeTable) -> None:
    commit_rows(run, make_table(IDS))
    finalize(run, pa.array(IDS))
    whole = load_metrics(run)
    run.metrics.write_bytes(b"PAR1")
    assert load_metrics(run).equals(whole)


@pytest.mark.parametrize("finished", [False, True])
def test_images_are_the_stored_ones(
    run: RunDirectory, make_table: MakeTable, make_png: Callable[[str], bytes], finished: bool
) -> None:
    commit_rows(run, make_table(IDS))
    if finished:
        finalize(run, pa.array(IDS))
    wanted = ["t099", "t000", "t050", "t099"]
    images = load_images(run, wanted)
    assert list(images) == ["t099", "t000", "t050"]
    for task_id, image in images.items():
        stored = Image.open(io.BytesIO(make_png(task_id)))
        np.testing.assert_array_equal(np.asarray(image), np.asarray(stored))


def test_only_the_row_groups_asked_for_are_read(
    run: RunDirectory, make_table: MakeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_rows(run, make_table(IDS))
    groups = []
    real = pq.ParquetFile.read_row_group

    def counted(self: Any, group: int, *args: Any, **kwargs: Any) -> pa.Table:
        groups.append(group)
        return real(self, group, *args, **kwargs)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    load_images(run, ["t099", "t098"])
    assert groups == [1]


def test_a_task_without_an_image_is_named(run: RunDirectory, make_table: MakeTable) -> None:
    commit_rows(run, make_table(["a"]))
    commit_rows(run, make_table(["b"], status="failed"))
    with pytest.raises(KeyError, match=r"no image of tasks \['b', 'c'\], 2 in all"):
        load_images(run, ["a", "b", "c"])


def test_a_finished_run_with_many_files_is_not_scanned_for_an_image(
    run: RunDirectory,
    make_table: MakeTable,
    make_png: Callable[[str], bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Categories go against the order of ids, so that ids are sorted in no file but their own."""
    for start in range(0, 100, 10):
        commit_rows(run, make_table(IDS[start : start + 10], category=f"c{9 - start // 10}"))
    finalize(run, pa.array(IDS), rows_per_file=7)
    monkeypatch.delattr("pipeline.query.read_from_scan")
    wanted = ["t050", "t003", "t099", "t098"]
    images = load_images(run, wanted)
    assert list(images) == wanted
    for task_id, image in images.items():
        stored = Image.open(io.BytesIO(make_png(task_id)))
        np.testing.assert_array_equal(np.asarray(image), np.asarray(stored))
    with pytest.raises(KeyError, match=r"\['absent'\]"):
        load_images(run, ["t001", "absent"])


def test_images_of_metrics_that_are_not_those_of_the_textures_are_scanned_for(
    run: RunDirectory, make_table: MakeTable, make_png: Callable[[str], bytes]
) -> None:
    commit_rows(run, make_table(IDS[:10]))
    finalize(run, pa.array(IDS), rows_per_file=5)
    metrics = pq.read_table(run.metrics)
    pq.write_table(metrics.take(list(range(9, -1, -1))), run.metrics, row_group_size=5)
    stored = Image.open(io.BytesIO(make_png("t001")))
    found = load_images(run, ["t001"])["t001"]
    np.testing.assert_array_equal(np.asarray(found), np.asarray(stored))


def test_paths_are_taken_and_what_is_no_run_is_refused(
    run: RunDirectory, make_table: MakeTable
) -> None:
    commit_rows(run, make_table(["a"]))
    assert list(load_metrics(run.path)["task_id"]) == ["a"]
    assert list(load_images(str(run.path), ["a"])) == ["a"]
    with pytest.raises(NotARunError):
        load_metrics(run.path / "absent")
    with pytest.raises(NotARunError):
        load_images(run.path / "absent", [])


def test_the_package_exports_them_and_waits_for_no_large_library() -> None:
    assert (pipeline.load_metrics, pipeline.load_images) == (load_metrics, load_images)
    code = (
        "import sys, pipeline; large = {'pandas', 'pyarrow', 'PIL', 'duckdb', 'torch', 'ray'}; "
        "print(large & set(sys.modules)); pipeline.load_metrics; print('pandas' in sys.modules)"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["set()", "True"]
