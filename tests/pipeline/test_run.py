from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from rich.console import Console

import pipeline.run
from pipeline.config import RunConfig
from pipeline.config_file import config_yaml
from pipeline.manifest import ManifestError
from pipeline.outcome import RunOutcome
from pipeline.preflight import THRESHOLDS, RunDirectoryError
from pipeline.resume import RunMismatchError
from pipeline.run import finalize_run, retry_run, run_manifest
from pipeline.rundir import NotARunError, RunDirectory
from texsynth import ConfigError, WeightsError

MakeConfig = Callable[..., RunConfig]
MakeManifest = Callable[..., Path]
# Kills its process while the fourth shard is half written.
KILLED_RUN = """
import os, signal, sys
from pathlib import Path
from rich.console import Console
import pipeline.shards
from pipeline.config import RunConfig
from pipeline.config_file import load_config
from pipeline.run import run_manifest

calls, original = [], pipeline.shards.open_row_writer

def open_row_writer(path, schema):
    calls.append(path)
    if len(calls) == 4:
        path.write_bytes(b"PAR1 half a shard")
        os.kill(os.getpid(), signal.SIGKILL)
    return original(path, schema)

pipeline.shards.open_row_writer = open_row_writer
config = load_config(RunConfig(), file=Path(sys.argv[3]))
run_manifest(Path(sys.argv[1]), Path(sys.argv[2]), config, Console())
"""


pytestmark = pytest.mark.usefixtures("one_thread")


def do(manifest: Path, out: Path, config: RunConfig) -> RunOutcome:
    return run_manifest(manifest, out, config, Console(file=io.StringIO()))


def textures(out: Path) -> pd.DataFrame:
    """The rows of a finished run, each task once, and the same in the metrics."""
    frame = pd.read_parquet(out / "textures").set_index("task_id")
    assert frame.index.is_unique
    assert not list((out / "shards").iterdir())
    metrics = pd.read_parquet(out / "metrics.parquet")
    assert sorted(metrics["task_id"]) == sorted(frame.index)
    return frame


def test_a_run_from_manifest_to_success(
    make_manifest: MakeManifest, quick_config: MakeConfig, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    outcome = do(make_manifest(["a", "b"]), out, quick_config(variations=2))
    assert (outcome.tasks, outcome.done_now, outcome.missing) == (4, 4, 0)
    assert (outcome.statuses, outcome.errors, outcome.complete) == ({"ok": 4}, {}, True)
    assert set(textures(out)["status"]) == {"ok"}
    assert json.loads((out / "_SUCCESS").read_text()) == {"tasks": 4}
    record = json.loads((out / "run.json").read_text())
    assert record["manifest"] == str(tmp_path / "manifest.csv")
    assert record["config"]["synthesis"]["evaluations"] == 10
    assert pq.read_table(out / "pending.parquet").num_rows == 4


def test_a_finished_directory_does_no_work(
    make_manifest: MakeManifest,
    quick_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    manifest, out = make_manifest(["a", "b"]), tmp_path / "run"
    do(manifest, out, quick_config())
    kept = [p for p in out.rglob("*.*") if p.suffix in (".parquet", ".safetensors", ".jsonl")]
    before = {path: path.stat().st_mtime_ns for path in [*kept, out / "run.json", out / "_SUCCESS"]}

    def refuse(*args: Any) -> None:
        raise AssertionError("nothing was to be done")

    monkeypatch.setattr(pipeline.run, "_execute", refuse)
    outcome = do(manifest, out, quick_config())
    assert (outcome.done_now, outcome.complete) == (0, True)
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_killed_in_a_write_and_run_again_nothing_is_lost_and_nothing_twice(
    make_manifest: MakeManifest, quick_config: MakeConfig, tmp_path: Path
) -> None:
    manifest, out = make_manifest(["a", "b", "c"], broken=["c"]), tmp_path / "run"
    config = quick_config(variations=4, lanes=2, flush_seconds=0.001)
    (tmp_path / "config.yaml").write_text(config_yaml(config))
    arguments = [str(manifest), str(out), str(tmp_path / "config.yaml")]
    killed = subprocess.run([sys.executable, "-c", KILLED_RUN, *arguments], timeout=120)
    assert killed.returncode == -9
    assert list((out / "shards").glob("_tmp-*"))
    committed = pd.read_parquet(list((out / "shards").glob("part-*.parquet"))).set_index("task_id")
    assert 3 <= len(committed) < 12
    assert not (out / "_SUCCESS").exists()
    outcome = do(manifest, out, config)
    assert (outcome.done_now, outcome.missing) == (12 - len(committed), 0)
    assert outcome.statuses == {"ok": 8, "failed": 4}
    frame = textures(out)
    assert len(frame) == 12
    assert (frame["finished_at"][committed.index] == committed["finished_at"]).all()
    assert not list(out.rglob("_tmp-*"))


def test_failed_rows_are_kept_until_a_retry_mends_them(
    make_manifest: MakeManifest, quick_config: MakeConfig, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    manifest = make_manifest(["a", "b", "c"], broken=["b"], absent=["c"])
    first = do(manifest, out, quick_config())
    assert (first.statuses, first.complete, first.missing) == ({"ok": 1, "failed": 2}, False, 0)
    assert all(error.startswith("ImageError: image 'images/") for error in first.errors)
    assert sum(first.errors.values()) == 2
    assert (out / "_SUCCESS").exists()
    make_manifest(["a", "b", "c"], absent=["c"])
    assert do(manifest, out, quick_config()).done_now == 0
    second = do(manifest, out, quick_config(retry="failed"))
    assert (second.done_now, second.statuses) == (2, {"ok": 2, "failed": 1})
    frame = textures(out)
    assert frame["attempts"].to_dict() == {"a-c0-v0": 1, "b-c0-v0": 2, "c-c0-v0": 2}
    assert frame["status"]["b-c0-v0"] == "ok"


def test_more_rows_and_variations_extend_a_run(
    make_manifest: MakeManifest, quick_config: MakeConfig, tmp_path: Path
) -> None:
    manifest, out = make_manifest(["a", "b"]), tmp_path / "run"
    do(manifest, out, quick_config(limit=1))
    begun = json.loads((out / "run.json").read_text())["created_at"]
    old = textures(out)
    assert do(manifest, out, quick_config()).done_now == 1
    outcome = do(manifest, out, quick_config(variations=2))
    assert (outcome.tasks, outcome.done_now) == (4, 2)
    frame = textures(out)
    assert frame["finished_at"][old.index].equals(old["finished_at"])
    assert json.loads((out / "_SUCCESS").read_text()) == {"tasks": 4}
    record = json.loads((out / "run.json").read_text())
    assert (record["created_at"], record["config"]["variations"]) == (begun, 2)


@pytest.mark.parametrize("name", THRESHOLDS)
def test_other_thresholds_are_refused_where_rows_have_flags(
    make_manifest: MakeManifest, quick_config: MakeConfig, tmp_path: Path, name: str
) -> None:
    manifest, out = make_manifest(["a"]), tmp_path / "run"
    do(manifest, out, quick_config())
    before = out.joinpath("run.json").read_bytes()
    value = {"noisy": "evaluations > 5"} if name == "flag_rules" else 0.25
    with pytest.raises(RunMismatchError, match=f"{name} is {value}, .* flagged with"):
        do(manifest, out, quick_config(**{name: value}))
    assert out.joinpath("run.json").read_bytes() == before


def test_a_numbered_device_is_refused_under_ray(
    make_manifest: MakeManifest, quick_config: MakeConfig, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="'cuda:1' with executor 'ray'"):
        do(make_manifest(["a"]), tmp_path / "run", quick_config(executor="ray", device="cuda:1"))
    assert not (tmp_path / "run").exists()


def test_another_configuration_is_refused_and_its_differences_named(
    make_manifest: MakeManifest, quick_config: MakeConfig, tmp_path: Path
) -> None:
    manifest, out = make_manifest(["a"]), tmp_path / "run"
    do(manifest, out, quick_config())
    before = (out / "run.json").read_text()
    with pytest.raises(RunMismatchError) as caught:
        do(manifest, out, quick_config(seed=1, synthesis={"spectrum": "gray"}))
    assert "  seed: 0 -> 1\n" in str(caught.value)
    assert '  synthesis.spectrum: "colour" -> "gray"\n' in str(caught.value)
    manifest.write_text(manifest.read_text().replace("note", "remark", 1))
    with pytest.raises(RunMismatchError, match=r"'note'.*'remark'"):
        do(manifest, out, quick_config())
    assert (out / "run.json").read_text() == before
    outcome = do(make_manifest(["a"]), out, quick_config(lanes=1, flush_seconds=3.0))
    assert outcome.done_now == 0


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"weights": "absent.safetensors"}, WeightsError, "absent.safetensors"),
        ({"root": "absent"}, ManifestError, "absent"),
        ({"device": "cuda:99"}, ConfigError, "device is 'cuda:99', this machine has"),
        ({"synthesis": {"levels": 9}}, ConfigError, "levels is 9, too many for 32x32 px"),
        ({"synthesis": {"taps": ["pool5"]}}, ValueError, "pool5"),
    ],
)
def test_nothing_is_written_before_all_is_checked(
    make_manifest: MakeManifest,
    quick_config: MakeConfig,
    tmp_path: Path,
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        do(make_manifest(["a"]), tmp_path / "run", quick_config(**changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("column", ["status", "pixels", "attempts", "task_id"])
def test_a_manifest_column_that_a_row_needs_is_refused(
    make_manifest: MakeManifest, quick_config: MakeConfig, tmp_path: Path, column: str
) -> None:
    manifest = make_manifest(["a"])
    manifest.write_text(manifest.read_text().replace("note", column, 1))
    with pytest.raises(ManifestError, match=f"column '{column}'"):
        do(manifest, tmp_path / "run", quick_config())
    assert not (tmp_path / "run").exists()


def test_a_place_that_holds_something_else_is_refused(
    make_manifest: MakeManifest, quick_config: MakeConfig, tmp_path: Path
) -> None:
    manifest = make_manifest(["a"])
    with pytest.raises(RunDirectoryError, match="is a file, expected a folder or nothing"):
        do(manifest, manifest, quick_config())
    (tmp_path / "mine" / "textures").mkdir(parents=True)
    with pytest.raises(RunDirectoryError, match=r"no run\.json but holds 'textures'"):
        do(manifest, tmp_path / "mine", quick_config())
    # What a run that was killed before its run.json leaves is no obstacle, nor a hidden file.
    (tmp_path / "begun" / "shards").mkdir(parents=True)
    (tmp_path / "begun" / "_tmp-run.json.1-ab.tmp").touch()
    (tmp_path / "begun" / ".keep").touch()
    assert do(manifest, tmp_path / "begun", quick_config()).complete


def test_random_crops_are_tasks_of_their_own(
    make_manifest: MakeManifest, quick_config: MakeConfig, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    do(make_manifest(["a"]), out, quick_config(crop="random", crops=3))
    frame = textures(out)
    assert sorted(frame["crop"]) == [0, 1, 2]
    assert len(set(zip(frame["crop_left"], frame["crop_top"], frame["crop_side"], strict=True))) > 1


def test_a_damaged_shard_is_named_and_its_tasks_are_done_again(
    make_manifest: MakeManifest, quick_config: MakeConfig, tmp_path: Path
) -> None:
    manifest, out = make_manifest(["a", "b"]), tmp_path / "run"
    do(manifest, out, quick_config())
    (part,) = (out / "textures").iterdir()
    part.write_bytes(part.read_bytes()[:-100])
    outcome = do(manifest, out, quick_config())
    assert (outcome.done_now, outcome.missing) == (2, 0)
    assert len(outcome.problems) == 1
    assert outcome.statuses == {"ok": 2}


def test_retry_and_finalize_go_by_the_directory_alone(
    make_manifest: MakeManifest, quick_config: MakeConfig, tmp_path: Path
) -> None:
    manifest, out = make_manifest(["a", "b"], broken=["b"]), tmp_path / "run"
    do(manifest, out, quick_config())
    make_manifest(["a", "b"])
    manifest.unlink()
    for folder in ("attempts", "checkpoints", "shards"):
        (out / folder).rmdir()
    run = RunDirectory(out)
    outcome = retry_run(run, ["failed"], Console(file=io.StringIO()))
    assert (outcome.done_now, outcome.statuses) == (1, {"ok": 2})
    assert textures(out)["attempts"].to_dict() == {"a-c0-v0": 1, "b-c0-v0": 2}
    (out / "metrics.parquet").unlink()
    assert finalize_run(run).rows == 2
    assert len(textures(out)) == 2
    with pytest.raises(NotARunError, match="is no run directory"):
        retry_run(RunDirectory(tmp_path / "images"), ["failed"], Console())


def test_a_small_texture_is_measured_for_copies_all_the_same(
    make_manifest: MakeManifest, quick_config: MakeConfig, tmp_path: Path
) -> None:
    manifest, out = make_manifest(["a"]), tmp_path / "run"
    do(manifest, out, quick_config(size=16))
    (row,) = pd.read_parquet(out / "metrics.parquet").to_dict("records")
    known = ("displacement_score", "layout_correlation", "chroma_noise", "exemplar_chroma_noise")
    assert all(np.isfinite(row[name]) for name in known)
    assert pd.isna(row["verbatim_share"])
    assert row["copy"] in (True, False)
