from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipeline.tail
from pipeline.committed import UnreadableFileError
from pipeline.object_store import StorageError
from pipeline.rundir import RunDirectory
from pipeline.shards import commit_rows
from pipeline.tail import (
    CommittedTasks,
    ShardTail,
    begin_block,
    forget_begun_blocks,
    read_row_columns,
)

MakeTable = Callable[..., pa.Table]
COLUMNS = ("task_id", "attempts")


def test_every_row_comes_once(run: RunDirectory, make_table: MakeTable) -> None:
    commit_rows(run, make_table(["a"]))
    tail = ShardTail(run, COLUMNS)
    assert tail.new_rows().to_pylist() == [{"task_id": "a", "attempts": 1}]
    assert tail.new_rows().column_names == list(COLUMNS)
    commit_rows(run, make_table(["b", "c"], attempts=2))
    assert tail.new_rows()["task_id"].to_pylist() == ["b", "c"]
    assert len(tail.new_rows()) == 0


def test_what_is_present_can_count_as_read(run: RunDirectory, make_table: MakeTable) -> None:
    commit_rows(run, make_table(["a"]))
    tail = ShardTail(run, COLUMNS, skip_present=True)
    commit_rows(run, make_table(["b"]))
    assert tail.new_rows()["task_id"].to_pylist() == ["b"]


def test_a_run_that_has_no_shards_yet_has_no_rows(tmp_path: Path) -> None:
    assert len(ShardTail(RunDirectory(tmp_path / "none"), COLUMNS).new_rows()) == 0


def test_an_unreadable_shard_is_a_problem_once(run: RunDirectory, make_table: MakeTable) -> None:
    broken = run.shards / "part-0.parquet"
    broken.write_bytes(b"no parquet")
    commit_rows(run, make_table(["a"]))
    tail = ShardTail(run, COLUMNS)
    assert tail.new_rows()["task_id"].to_pylist() == ["a"]
    assert len(tail.new_rows()) == 0
    assert [problem.path for problem in tail.problems] == [broken]


def test_rows_come_after_all_where_a_store_did_not_answer(
    run: RunDirectory, make_table: MakeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    for task in ("a", "b", "c", "d"):
        commit_rows(run, make_table([task]))
    tail = ShardTail(run, COLUMNS)
    read = pipeline.tail.read_row_columns
    *_, silent, _ = sorted(run.shards.iterdir())

    def fail(path: Path, columns: Sequence[str]) -> pa.Table:
        if path == silent:
            raise StorageError(f"{path}: no line")
        return read(path, columns)

    monkeypatch.setattr(pipeline.tail, "read_row_columns", fail)
    with pytest.raises(StorageError):
        tail.new_rows()
    monkeypatch.undo()
    assert sorted(tail.new_rows()["task_id"].to_pylist()) == ["a", "b", "c", "d"]
    assert not tail.problems


def test_a_shard_that_vanishes_is_passed_over(
    run: RunDirectory, make_table: MakeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = commit_rows(run, make_table(["gone"]))
    commit_rows(run, make_table(["a"]))

    def read(path: Path, columns: tuple[str, ...]) -> pa.Table:
        if path == gone:
            path.unlink()
        return read_row_columns(path, columns)

    monkeypatch.setattr(pipeline.tail, "read_row_columns", read)
    tail = ShardTail(run, COLUMNS)
    assert tail.new_rows()["task_id"].to_pylist() == ["a"]
    assert tail.problems == []


def test_files_that_hold_no_rows_of_ours_say_why(
    run: RunDirectory, make_table: MakeTable, damage_column: Callable[[Path, str], None]
) -> None:
    good = commit_rows(run, make_table(["a"]))
    foreign, partial, pipe = (run.shards / f"{name}.parquet" for name in ("f", "p", "pipe"))
    pq.write_table(pa.table({"task_id": ["x"]}), foreign)
    pq.write_table(pq.read_table(good).drop(["attempts"]), partial)
    os.mkfifo(pipe)
    damage_column(good, "task_id")
    for path, reason in (
        (foreign, "schema version: got None"),
        (partial, "got task_id: string, expected task_id, attempts"),
        (pipe, "no regular file"),
        (good, "OSError|ArrowInvalid"),
    ):
        with pytest.raises(UnreadableFileError, match=reason):
            read_row_columns(path, COLUMNS)


def test_a_block_is_known_by_its_first_task_and_its_attempts(run: RunDirectory) -> None:
    block = [{"task_id": name, "attempts": 0} for name in "abc"]
    assert not begin_block(run, block)
    assert begin_block(run, block)
    assert begin_block(run, block[:1])
    assert not begin_block(run, block[1:])
    assert not begin_block(run, [block[0] | {"attempts": 1}, *block[1:]])
    forget_begun_blocks(run)
    assert not begin_block(run, block)


def test_tasks_that_have_rows_are_passed_over(run: RunDirectory, make_table: MakeTable) -> None:
    commit_rows(run, make_table(["a", "b"]))
    committed = CommittedTasks(run)
    tasks = [{"task_id": name, "attempts": number} for name, number in (("a", 0), ("b", 1))]
    assert committed.without(tasks) == tasks[1:]
    assert CommittedTasks(run, skip_present=True).without(tasks) == tasks
