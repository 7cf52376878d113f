from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save_file

from pipeline.finalize import finalize
from pipeline.inspection import find_file_problems
from pipeline.rundir import RunDirectory
from pipeline.shards import commit_rows

MakeTable = Callable[..., pa.Table]


@pytest.fixture
def names(run: RunDirectory) -> Callable[..., list[str]]:
    def find(*, held: bool = False) -> list[str]:
        problems = find_file_problems(run, held=held)
        assert all(problem.reason for problem in problems)
        return sorted(str(problem.path.relative_to(run.path)) for problem in problems)

    return find


def test_a_whole_run_has_no_problems(
    run: RunDirectory, make_table: MakeTable, names: Callable[..., list[str]]
) -> None:
    commit_rows(run, make_table(["a"]))
    assert names() == []
    finalize(run, pa.array(["a"]))
    run.report.mkdir()
    for path in (run.log, run.run_json, run.session, run.attempts / "earlier.json"):
        path.write_text("{}")
    for hidden in (run.lock, run.shards / ".nfs01"):
        hidden.touch()
    save_file({"image": np.zeros(3, np.float32)}, run.checkpoints / "0.safetensors")
    assert names() == []


def test_everything_that_is_not_as_it_should_be_is_named(
    run: RunDirectory, names: Callable[..., list[str]]
) -> None:
    run.textures.mkdir()
    save_file({"image": np.zeros(3, np.float32)}, run.checkpoints / "cut.safetensors")
    cut = run.checkpoints / "cut.safetensors"
    cut.write_bytes(cut.read_bytes()[:-4])
    wrong = {
        "notes.txt": b"x",
        "part-1.parquet.damaged": b"x",
        "run.json": b"",
        "pending.parquet": b"PAR1cut",
        "metrics.parquet": b"",
        "log.jsonl": b"",
        "report": b"a file",
        "shards/notes": b"x",
        "shards/part-0.parquet": b"",
        "textures/a.png": b"x",
        "attempts/a.json": b"",
        "attempts/a.txt": b"x",
        "checkpoints/a.safetensors": b"no checkpoint",
        "checkpoints/b.safetensors": b"",
        "checkpoints/c.pt": b"x",
    }
    for name, content in wrong.items():
        (run.path / name).write_bytes(content)
    (run.path / "tasks.parquet").symlink_to("nowhere")
    (run.path / "session.json").mkdir()
    os.mkfifo(run.shards / "part-1.parquet")
    more = ["tasks.parquet", "session.json", "shards/part-1.parquet", "checkpoints/cut.safetensors"]
    assert names() == sorted([*wrong, *more])


def test_half_written_files_are_nobodys_fault_while_somebody_writes(
    run: RunDirectory, names: Callable[..., list[str]]
) -> None:
    for folder in (run.path, run.shards, run.checkpoints):
        (folder / "_tmp-x.1.tmp").touch()
    assert names(held=True) == []
    assert names(held=False) == ["_tmp-x.1.tmp", "checkpoints/_tmp-x.1.tmp", "shards/_tmp-x.1.tmp"]


def test_a_success_without_metrics_is_a_problem(
    run: RunDirectory, names: Callable[..., list[str]]
) -> None:
    run.success.write_text("{}")
    assert names() == ["metrics.parquet"]


def test_a_folder_that_cannot_be_listed_is_a_problem(
    run: RunDirectory, names: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = Path.iterdir

    def refuse(path: Path) -> Iterator[Path]:
        if path == run.shards:
            raise PermissionError(13, "Permission denied")
        return listing(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert names() == ["shards"]
