from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipeline.snapshot
from pipeline.committed import UnreadableFileError, read_committed
from pipeline.finalize import finalize
from pipeline.rundir import RunDirectory
from pipeline.shards import commit_rows
from pipeline.snapshot import RowReader, load_task_columns, read_each_file_once

MakeTable = Callable[..., pa.Table]
COLUMNS = ["task_id", "category", "attempts", "status"]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that rows were read from."""
    names: list[str] = []
    read = pipeline.snapshot.read_row_columns

    def spy(path: Path, columns: tuple[str, ...]) -> pa.Table:
        names.append(path.name)
        return read(path, columns)

    monkeypatch.setattr(pipeline.snapshot, "read_row_columns", spy)
    return names


def test_it_agrees_with_the_committed_rows_at_every_stage(
    run: RunDirectory, make_table: MakeTable
) -> None:
    reader = RowReader(run, COLUMNS)

    def agrees() -> bool:
        rows, problems = reader.read()
        expected, _ = read_committed(run, COLUMNS)
        once, problems_once = read_each_file_once(run, COLUMNS)
        assert once.sort_by("task_id").equals(rows.sort_by("task_id"))
        assert problems == problems_once == []
        return bool(rows.equals(expected.replace_schema_metadata()))

    assert agrees()
    commit_rows(run, make_table(["a", "b", "c"], status="failed"))
    assert agrees()
    commit_rows(run, make_table(["b"], attempts=2, category="wool"))
    assert agrees()
    finalize(run, pa.array(["a", "b", "c"]))
    assert agrees()
    commit_rows(run, make_table(["a"], attempts=2))
    assert agrees()
    assert reader.read()[0].num_rows == 3


def test_files_that_are_not_ours_are_named_and_others_read(
    run: RunDirectory, make_table: MakeTable
) -> None:
    commit_rows(run, make_table(["a"]))
    commit_rows(run, make_table(["b"]))
    damaged, foreign = run.shards / "part-0.parquet", run.shards / "part-1.parquet"
    damaged.write_bytes(b"damaged")
    pq.write_table(pa.table({"task_id": ["c"]}), foreign)
    rows, problems = read_each_file_once(run, ["status", "task_id"])
    assert sorted(rows["task_id"].to_pylist()) == ["a", "b"]
    assert rows.column_names == ["status", "task_id"]
    assert [problem.path for problem in problems] == [damaged, foreign]


def test_a_file_that_goes_away_means_another_look(
    run: RunDirectory, make_table: MakeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = commit_rows(run, make_table(["a"]))
    listing = [[gone, run.shards / "gone.parquet"], [gone]]
    monkeypatch.setattr(pipeline.snapshot, "list_files", lambda run: listing.pop(0))
    rows, problems = read_each_file_once(run, ["task_id"])
    assert (rows["task_id"].to_pylist(), problems, listing) == (["a"], [], [])
    monkeypatch.setattr(pipeline.snapshot, "list_files", lambda run: [run.shards / "gone.parquet"])
    with pytest.raises(FileNotFoundError):
        read_each_file_once(run, ["task_id"])


def test_a_file_is_read_once_until_it_changes(
    run: RunDirectory, make_table: MakeTable, reads: list[str]
) -> None:
    first = commit_rows(run, make_table(["a"]))
    reader = RowReader(run, COLUMNS)
    reader.read()
    second = commit_rows(run, make_table(["b"]))
    reader.read()
    assert reads == [first.name, second.name]
    second.write_bytes(b"damaged")
    rows, (problem,) = reader.read()
    assert (rows["task_id"].to_pylist(), problem.path) == (["a"], second)
    second.unlink()
    assert reader.read()[1] == []


def test_the_metrics_stand_for_what_was_finalized(
    run: RunDirectory, make_table: MakeTable, reads: list[str]
) -> None:
    commit_rows(run, make_table(["a", "b"]))
    finalize(run, pa.array(["a", "b"]))
    assert len(RowReader(run, COLUMNS).read()[0]) == 2
    assert reads == ["metrics.parquet"]


@pytest.mark.parametrize("wrong", ["metrics", "texture", "lost"])
def test_metrics_of_other_rows_are_not_believed(
    run: RunDirectory, make_table: MakeTable, wrong: str
) -> None:
    commit_rows(run, make_table(["a", "b"]))
    finalize(run, pa.array(["a", "b"]), rows_per_file=1)
    first, _ = sorted(run.textures.iterdir())
    if wrong == "lost":
        first.unlink()
    else:
        (run.metrics if wrong == "metrics" else first).write_bytes(b"damaged")
    rows, problems = RowReader(run, COLUMNS).read()
    assert rows["task_id"].to_pylist() == (["a", "b"] if wrong == "metrics" else ["b"])
    assert [p.path for p in problems] == ([first] if wrong == "texture" else [])


def test_a_file_that_a_finalize_moves_on_is_looked_for_again(
    run: RunDirectory, make_table: MakeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_rows(run, make_table(["a"]))
    listing = pipeline.snapshot.list_files

    def overtaken(run: RunDirectory) -> list[Path]:
        files = listing(run)
        finalize(run, pa.array(["a"]))
        return files

    monkeypatch.setattr(pipeline.snapshot, "list_files", overtaken)
    rows, problems = RowReader(run, COLUMNS).read()
    assert (rows["task_id"].to_pylist(), problems) == (["a"], [])


def test_tasks_that_cannot_be_read_are_one_problem(run: RunDirectory) -> None:
    for content in (None, b"cut", pa.table({"other": [1]}), pa.table({"task_id": [[1]]})):
        if isinstance(content, bytes):
            run.tasks.write_bytes(content)
        elif content is not None:
            pq.write_table(content, run.tasks)
        with pytest.raises(UnreadableFileError, match=r"tasks\.parquet"):
            load_task_columns(run, ("task_id",))
    pq.write_table(pa.table({"task_id": ["a"], "other": [1]}), run.tasks)
    assert load_task_columns(run, ("task_id",)).to_pylist() == [{"task_id": "a"}]
