"""The safe part of a run: it passes the check, is a good run directory, and nothing is added."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

import pipeline.run_part
import pipeline.shards
from pipeline.config import RunConfig
from pipeline.dealt import DealtManifest, load_dealt_manifest
from pipeline.filtering import FilterError, filter_run
from pipeline.finalize import finalize
from pipeline.leaks import check_leaks
from pipeline.query import load_images, load_metrics
from pipeline.resume import load_tasks
from pipeline.run import finalize_run, run_manifest
from pipeline.rundir import RunDirectory
from pipeline.shards import commit_rows
from pipeline.splits import SPLITS, SplitError
from pipeline.verify import verify_run

Call = Callable[..., tuple[int, str, str]]
IDS = ("a", "again", "copy", "b", "mirrored", "c", "d")
SPLIT = st.sampled_from(["train", "val", "test", None])

pytestmark = pytest.mark.usefixtures("one_thread")


def deal(folder: Path, splits: dict[str, str | None]) -> DealtManifest:
    path = folder / "m.parquet"
    of_row = pa.array(list(splits.values()), pa.string())
    columns = {"exemplar_id": list(splits), "path": list(splits), "split_9": of_row}
    pq.write_table(pa.table(columns), path)
    return load_dealt_manifest(path, partition=9)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(splits=st.fixed_dictionaries(dict.fromkeys(IDS, SPLIT)), split=st.sampled_from(SPLITS))
def test_what_is_left_passes_the_check_and_nothing_more_could_be(
    pictures_run: tuple[RunDirectory, Path], splits: dict[str, str | None], split: str
) -> None:
    run, folder = pictures_run
    out = RunDirectory(folder / "out")
    shutil.rmtree(out.path, ignore_errors=True)
    dealt = deal(folder, splits)
    others = set(SPLITS) - {split}
    # The pictures: a, again and copy are one; b and mirrored are one.
    groups = (("a", "again", "copy"), ("b", "mirrored"), ("c",), ("d",))
    tainted = {n for group in groups for n in group if others & {splits[m] for m in group}}
    safe = {name for name in IDS if splits[name] == split and name not in tainted}
    rows = {"a", "again", "copy", "b", "mirrored", "c"} & safe
    rows |= {"d"} if {"d", "b"} <= safe else set()
    if not rows or not others & set(splits.values()):
        with pytest.raises((FilterError, SplitError)):
            filter_run(run, out.path, dealt, split=split)
        assert not out.path.exists()
        return
    filtered = filter_run(run, out.path, dealt, split=split)
    left = load_metrics(out)
    assert set(left["exemplar_id"]) == rows
    assert len(left) == filtered.kept == len(rows) + ("c" in rows)
    assert filtered.kept + sum(filtered.left_out.values()) == 9
    assert set(left["split"]) == {split}
    assert check_leaks(out, dealt, others).ok
    if split == "train":
        assert check_leaks(out, dealt).ok


@pytest.fixture(scope="module")
def made(weights_file: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A real run, beside its manifest: a to d and a broken e, two textures each, of all splits."""
    folder = tmp_path_factory.mktemp("made")
    lines = ["exemplar_id,path,split_1,split_2"]
    for number, (name, splits) in enumerate(
        {"a": "train,test", "b": "val,train", "c": ",train", "d": ",train", "e": ",train"}.items()
    ):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 48, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
        lines.append(f"{name},{name}.png,{splits}")
    (folder / "e.png").write_bytes(b"no image")
    (folder / "m.csv").write_text("\n".join(lines) + "\n")
    quick = {"weights": str(weights_file), "size": 32, "evaluations": 10, "executor": "inline"}
    config = RunConfig.model_validate(quick | {"variations": 2}).resolved()
    run_manifest(folder / "m.csv", folder / "run", config, Console(file=io.StringIO()))
    return RunDirectory(folder / "run")


def problems(run: RunDirectory) -> list[str]:
    return [line for check in verify_run(run) for line in check.problems]


def test_the_new_directory_is_a_run_that_all_commands_read(
    made: RunDirectory, call: Call, tmp_path: Path
) -> None:
    out = RunDirectory(tmp_path / "parts" / "second")
    before = {path: path.stat().st_mtime_ns for path in made.path.rglob("*")}
    code, said, _ = call("filter", made.path, "--out", out.path, "--partition", "2")
    assert code == 0
    assert "6 textures in" in said
    assert "left out: 2 rows of a parent that is not in train" in said
    assert "left out: 2 rows without a texture" in said
    assert before == {path: path.stat().st_mtime_ns for path in made.path.rglob("*")}
    names = {path.name for path in out.path.iterdir()}
    assert {"textures", "metrics.parquet", "run.json", "tasks.parquet", "_SUCCESS"} <= names
    assert [path.name for path in out.path.parent.iterdir()] == ["second"]
    assert problems(out) == []
    own, theirs = load_metrics(out).set_index("task_id"), load_metrics(made).set_index("task_id")
    assert sorted(own.index) == [f"{name}-c0-v{n}" for name in "bcd" for n in (0, 1)]
    assert set(own["split"]) == {"train"}
    assert list(own["split_1"].fillna("")) == ["val", "val", "", "", "", ""]
    same = [name for name in own if name != "split"]
    pd.testing.assert_frame_equal(own[same], theirs.loc[own.index, same], check_dtype=False)
    images, originals = load_images(out, own.index), load_images(made, own.index)
    assert all(images[name].tobytes() == originals[name].tobytes() for name in own.index)
    assert set(load_tasks(out)["task_id"].to_pylist()) == set(own.index)
    record = json.loads(out.run_json.read_text())
    told = record["filtered"]
    assert (told["run"], told["partition"], told["split"]) == (str(made.path), 2, "train")
    assert (told["rows"], told["accepted_only"]) == (6, False)
    assert (record["config"]["partition"], record["config"]["split"]) == (2, "train")
    manifest = made.path.with_name("m.csv")
    for command in (
        ("leakcheck", out.path, "--against", manifest, "--partition", "2"),
        ("query", out.path, "SELECT count(*) FROM metrics"),
        ("verify", out.path),
        ("finalize", out.path),
        ("status", out.path),
        ("failures", out.path),
        ("reflag", out.path, "--rule", "noisy: evaluations < 0"),
        ("export", out.path, "--all", "--to", "folder", "--out", tmp_path / "exported"),
        ("filter", out.path, "--out", tmp_path / "again", "--partition", "2"),
    ):
        code, _, error = call(*command)
        assert code == 0, (command, error)
    assert problems(RunDirectory(tmp_path / "again")) == []
    assert not finalize_run(out).missing
    assert call("leakcheck", out.path, "--against", manifest, "--partition", "1")[0] == 3


def test_no_rows_are_added_to_it(made: RunDirectory, call: Call, tmp_path: Path) -> None:
    out = tmp_path / "second"
    assert call("filter", made.path, "--out", out, "--partition", "2")[0] == 0
    before = (out / "run.json").read_bytes()
    config = json.loads(before)["config"]
    settings_ = ["--weights", config["weights"], "--size", "32", "--evaluations", "10"]
    selection = ["--partition", "2", "--split", "train", "--executor", "inline"]
    manifest = made.path.with_name("m.csv")
    for command in (
        ("retry", out),
        ("run", manifest, "--out", out, *settings_, *selection),
        ("plan", manifest, "--out", out, *settings_, *selection),
    ):
        code, _, error = call(*command)
        assert code == 2
        assert f"the part of run '{made.path}'" in error
    assert (out / "run.json").read_bytes() == before
    assert problems(RunDirectory(out)) == []


def test_only_accepted_rows_if_asked(made: RunDirectory, tmp_path: Path) -> None:
    dealt = load_dealt_manifest(made.path.with_name("m.csv"), partition=2)
    accepted = load_metrics(made).query("accepted == True and split_2 == 'train'")
    if accepted.empty:
        with pytest.raises(FilterError, match="not accepted"):
            filter_run(made, tmp_path / "out", dealt, accepted_only=True)
    else:
        kept = filter_run(made, tmp_path / "out", dealt, accepted_only=True).kept
        assert kept == len(accepted)


def test_what_is_refused_leaves_nothing(
    pictures_run: tuple[RunDirectory, Path],
    call: Call,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, folder = pictures_run
    splits: dict[str, str | None] = dict.fromkeys(IDS, "train") | {"c": "test"}
    dealt = deal(folder, splits)
    taken = tmp_path / "taken"
    taken.mkdir()
    with pytest.raises(FilterError, match="is there already"):
        filter_run(run, taken, dealt)
    with pytest.raises(FilterError, match="lies in the run"):
        filter_run(run, run.path / "part", dealt)
    code, _, error = call("filter", run.path, "--out", tmp_path / "x", "--partition", "9")
    assert code == 2
    assert "is not there any more; expected it, or another one as --against" in error
    with pytest.raises(FilterError, match=r"1 held-out images .*\n.*'broken'"):
        filter_run(run, tmp_path / "x", deal(folder, splits | {"broken": "val"}))

    def fail(*more: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pipeline.run_part, "finalize", fail)
    with pytest.raises(OSError, match="No space"):
        filter_run(run, tmp_path / "x", dealt)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(("x", "_tmp"))]


def test_rows_whose_parent_cannot_be_compared_are_left_out(
    pictures_run: tuple[RunDirectory, Path], tmp_path: Path
) -> None:
    run, folder = pictures_run
    dealt = deal(folder, dict.fromkeys(IDS, "train") | {"a": "test"})
    (folder / "d").unlink()
    filtered = filter_run(run, tmp_path / "x", dealt)
    assert filtered.left_out["of a parent that cannot be compared"] == 1
    assert set(load_metrics(tmp_path / "x")["exemplar_id"]) == {"b", "mirrored", "c"}


def test_a_damaged_file_of_the_run_is_no_smaller_part(
    pictures_run: tuple[RunDirectory, Path],
    damage_column: Callable[[Path, str], None],
    tmp_path: Path,
) -> None:
    run, folder = pictures_run
    (file,) = run.textures.glob("*.parquet")
    damage_column(file, "image.bytes")
    with pytest.raises(FilterError, match=r"rows of .* could not be read; `texsynth verify`"):
        filter_run(run, tmp_path / "x", deal(folder, dict.fromkeys(IDS, "train") | {"c": "val"}))
    assert not (tmp_path / "x").exists()


def test_an_error_of_writing_is_not_taken_for_one_of_reading(
    pictures_run: tuple[RunDirectory, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, folder = pictures_run
    dealt = deal(folder, dict.fromkeys(IDS, "train") | {"c": "val"})
    calls = []

    def vanished(*_: Any) -> None:
        calls.append(0)
        raise FileNotFoundError(2, "No such file or directory", "shards")

    monkeypatch.setattr(pipeline.shards, "open_row_writer", vanished)
    with pytest.raises(FileNotFoundError):
        filter_run(run, tmp_path / "x", dealt)
    assert len(calls) == 1
    assert not list(tmp_path.glob("*x*"))


def test_rows_that_a_finalize_moves_meanwhile_are_found_again(
    pictures_run: tuple[RunDirectory, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, folder = pictures_run
    dealt = deal(folder, dict.fromkeys(IDS, "train") | {"c": "val"})
    filter_run(run, tmp_path / "expected", dealt)
    stored = pq.read_table(run.textures)
    shutil.rmtree(run.textures)
    for start in range(0, len(stored), 3):
        commit_rows(run, stored.slice(start, 3))
    commit, committed = pipeline.run_part.commit_rows, []

    def commit_and_finalize(*arguments: Any) -> None:
        commit(*arguments)
        committed.append(0)
        if len(committed) == 2:
            finalize(run, stored["task_id"])

    monkeypatch.setattr(pipeline.run_part, "GATHERED_ROWS", 1)
    monkeypatch.setattr(pipeline.run_part, "commit_rows", commit_and_finalize)
    filter_run(run, tmp_path / "x", dealt)
    assert not list(run.shards.iterdir())
    pd.testing.assert_frame_equal(
        load_metrics(tmp_path / "x"), load_metrics(tmp_path / "expected"), check_like=True
    )
    assert len(committed) == len(load_metrics(tmp_path / "x"))


KILLED = """
import os, sys
from pathlib import Path
import pipeline.run_part
from pipeline.cli import main
pipeline.run_part.finalize = lambda *more: os.kill(os.getpid(), 9)
main()
"""


@pytest.mark.slow
def test_what_a_killed_process_has_left_is_removed_by_the_next(
    made: RunDirectory, call: Call, tmp_path: Path
) -> None:
    words = ["filter", str(made.path), "--out", str(tmp_path / "x"), "--partition", "2"]
    killed = subprocess.run([sys.executable, "-c", KILLED, *words], capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    (left,) = tmp_path.iterdir()
    assert list((left / "shards").iterdir())
    assert call(*words)[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert problems(RunDirectory(tmp_path / "x")) == []


def test_two_do_not_write_to_one_place(
    pictures_run: tuple[RunDirectory, Path], tmp_path: Path
) -> None:
    run, folder = pictures_run
    dealt = deal(folder, dict.fromkeys(IDS, "train") | {"c": "val"})
    refusals = []

    def write(_: int) -> None:
        try:
            filter_run(run, tmp_path / "x", dealt)
        except FilterError as error:
            refusals.append(str(error))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert len(refusals) == 3
    assert all("another process" in one or "there already" in one for one in refusals)
    assert [path.name for path in tmp_path.glob("*x*")] == ["x"]
    assert set(load_metrics(tmp_path / "x")["exemplar_id"]) == set(IDS) - {"c"}


def test_a_full_disk_leaves_nothing_behind(
    pictures_run: tuple[RunDirectory, Path], small_disk: Path
) -> None:
    run, folder = pictures_run
    dealt = deal(folder, dict.fromkeys(IDS, "train") | {"c": "val"})
    filler = small_disk / "filler"
    filler.write_bytes(b"0" * (shutil.disk_usage(small_disk).free - 48 * 1024))
    with pytest.raises(OSError, match=r"No space left on device.*_tmp-x"):
        filter_run(run, small_disk / "x", dealt)
    assert [path.name for path in small_disk.iterdir()] == ["filler"]
    filler.unlink()
    filter_run(run, small_disk / "x", dealt)
    assert set(load_metrics(small_disk / "x")["exemplar_id"]) == set(IDS) - {"c"}
