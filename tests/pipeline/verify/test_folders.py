"""What lies in the folders of a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipeline.attempts import AttemptFile
from pipeline.verify import Check

Story = Any
ChecksOf = Callable[..., dict[str, Check]]
ProblemsOf = Callable[..., dict[str, str]]


def test_attempts_and_checkpoints_are_looked_at(
    finished: Story, checks_of: ChecksOf, problems_of: ProblemsOf
) -> None:
    run = finished.run
    attempts = AttemptFile(run, None)
    attempts.begin({"t00": 2})
    for task in ("t00", "new"):
        metadata = {"some_key": json.dumps({"task_id": task})}
        save_file({"image": np.zeros(2)}, run.checkpoints / f"{task}.safetensors", metadata)
    checks = checks_of(run)
    assert checks["attempts"].found == "1 task begun without a row"
    assert checks["checkpoints"].found == "2 checkpoints, 1 of tasks that have rows already"
    assert all(check.ok for check in checks.values())
    (run.attempts / "x.json").write_text("{")
    (run.checkpoints / "x.safetensors").write_bytes(b"no checkpoint")
    save_file({"image": np.zeros(2)}, run.checkpoints / "y.safetensors")
    problems = problems_of(run)
    assert problems["attempts"].startswith("attempts/x.json: no list of attempts")
    assert "checkpoints/x.safetensors: no checkpoint" in problems["checkpoints"]
    assert "checkpoints/y.safetensors: no checkpoint" in problems["checkpoints"]


def test_foreign_files_are_named_and_in_textures_a_problem(
    finished: Story, checks_of: ChecksOf, problems_of: ProblemsOf
) -> None:
    run = finished.run
    for folder in (run.path, run.shards, run.attempts, run.checkpoints):
        (folder / "notes.txt").write_text("notes")
    (run.textures / "_SUCCESS").write_text("")
    (run.path / "part-0.parquet.damaged").write_text("")
    check = checks_of(run)["folders"]
    assert check.ok
    for name in ("notes.txt", "shards/notes.txt", "attempts/notes.txt", "checkpoints/notes.txt"):
        assert name in check.found
    assert "put aside by a finalize: part-0.parquet.damaged" in check.found
    (run.textures / "notes.txt").write_text("notes")
    (run.textures / "more").mkdir()
    assert problems_of(run) == {
        "folders": "textures/more: not of the run\ntextures/notes.txt: not of the run"
    }


def test_bad_files_in_every_folder_are_named(
    finished: Story, checks_of: ChecksOf, problems_of: ProblemsOf
) -> None:
    run = finished.run
    whole = sorted(run.textures.glob("*.parquet"))[0].read_bytes()
    for folder in (run.shards, run.textures, run.attempts, run.checkpoints):
        for suffix in (".parquet", ".json", ".safetensors"):
            (folder / f"empty{suffix}").write_bytes(b"")
            (folder / f"cut{suffix}").write_bytes(whole[: len(whole) // 2])
            (folder / f"folder{suffix}").mkdir()
    problems = problems_of(run)
    for name in ("empty", "cut", "folder"):
        assert f"shards/{name}.parquet" in problems["files"]
        assert f"textures/{name}.parquet" in problems["files"]
        assert f"attempts/{name}.json" in problems["attempts"]
        assert f"checkpoints/{name}.safetensors" in problems["checkpoints"]
        assert f"textures/{name}.json" in problems["folders"]
    assert "attempts/cut.parquet" in checks_of(run)["folders"].found


def test_a_folder_that_may_not_be_read_is_named(
    finished: Story, monkeypatch: pytest.MonkeyPatch, problems_of: ProblemsOf
) -> None:
    real = Path.iterdir

    def iterdir(path: Path) -> Iterator[Path]:
        if path == finished.run.checkpoints:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    problems = problems_of(finished.run)
    assert list(problems) == ["folders"]
    assert problems["folders"].startswith("checkpoints: cannot be listed: [Errno 13]")
