"""Finalize where nothing can be renamed: files of two finalizes side by side, one in the end."""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pytest

from pipeline import compaction
from pipeline.committed import Scan, read_committed, read_rows, scan_committed
from pipeline.compaction import Parts, write_parts
from pipeline.finalize import finalize
from pipeline.rundir import RunDirectory
from pipeline.shards import commit_rows
from pipeline.side_by_side import do_side_by_side
from pipeline.storage import ObjectPath

MakeTable = Callable[..., pa.Table]

TASKS = ["a-c0-v0", "b-c0-v0", "c-c0-v0"]
EXPECTED = pa.array(TASKS)


@pytest.fixture
def run(bucket: ObjectPath, make_table: MakeTable) -> RunDirectory:
    """Finalized, two rows in a file."""
    directory = RunDirectory(bucket / "run")
    commit_rows(directory, make_table(TASKS))
    finalize(directory, EXPECTED, rows_per_file=2)
    return directory


def names(folder: object) -> set[str]:
    assert isinstance(folder, ObjectPath)
    return {path.name for path in folder.iterdir()}


def attempts(run: RunDirectory) -> dict[str, int]:
    rows = read_committed(run, ["task_id", "attempts"])[0].to_pylist()
    assert len(rows) == len({row["task_id"] for row in rows})
    return {row["task_id"]: row["attempts"] for row in rows}


def test_a_second_finalize_writes_nothing(run: RunDirectory) -> None:
    before = {path: path.stat().st_mtime for path in [*run.textures.iterdir(), run.success]}
    finalize(run, EXPECTED, rows_per_file=2)
    assert {path: path.stat().st_mtime for path in before} == before
    assert names(run.shards) == set()


def test_new_rows_replace_the_files_of_before(run: RunDirectory, make_table: MakeTable) -> None:
    before = names(run.textures)
    commit_rows(run, make_table(TASKS[:1], attempts=2))
    finalize(run, EXPECTED, rows_per_file=2)
    assert len(names(run.textures)) == 2
    assert not names(run.textures) & before
    assert attempts(run) == {"a-c0-v0": 2, "b-c0-v0": 1, "c-c0-v0": 1}
    assert names(run.shards) == set()
    assert run.success.exists()


def test_no_file_that_may_be_read_is_written_over(run: RunDirectory) -> None:
    before = names(run.textures)
    rules = {"below_threshold": "float_loss < 1"}
    finalize(run, EXPECTED, rows_per_file=2, rules=rules)
    assert len(names(run.textures)) == 2
    assert not names(run.textures) & before


def test_what_is_being_written_when_another_file_fails_is_not_put(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = names(run.textures)
    both, left = threading.Barrier(2, timeout=30), []

    def note(*args: Any, **options: Any) -> Iterator[None]:
        left.append(options.get("ended"))
        return do_side_by_side(*args, **options)

    def read(scan: Scan, rows: pa.Table, columns: Sequence[str]) -> pa.Table:
        both.wait()
        if len(rows) == 2:
            raise OSError(28, "No space left on device")
        assert left[-1].wait(30)
        return read_rows(scan, rows, columns)

    scan, parts = scan_committed(run), Parts(rows=2)
    monkeypatch.setattr(compaction, "compute_sibling_distances", lambda _: pa.nulls(3, "float64"))
    monkeypatch.setattr(compaction, "do_side_by_side", note)
    monkeypatch.setattr(compaction, "read_rows", read)
    with pytest.raises(OSError, match="No space"):
        write_parts(run.textures, scan, parts)
    assert names(run.textures) == before


@pytest.mark.parametrize(
    "step",
    [
        pytest.param("compaction._prove", marks=pytest.mark.slow),
        pytest.param("finalize._write_metrics", marks=pytest.mark.slow),
        "finalize._remove",
        pytest.param("finalize._write_success", marks=pytest.mark.slow),
    ],
)
def test_broken_off_before_a_step_each_task_is_there_once(
    run: RunDirectory, make_table: MakeTable, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    commit_rows(run, make_table(TASKS[1:2], attempts=2))

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"pipeline.{step}", stop)
        with pytest.raises(KeyboardInterrupt):
            finalize(run, EXPECTED, rows_per_file=2)
    wanted = {"a-c0-v0": 1, "b-c0-v0": 2, "c-c0-v0": 1}
    assert attempts(run) == wanted
    assert not run.success.exists()
    finalized = finalize(run, EXPECTED, rows_per_file=2)
    assert (finalized.rows, len(finalized.files)) == (3, 2)
    assert attempts(run) == wanted
    assert names(run.textures) == {path.name for path in finalized.files}


def test_a_damaged_file_is_put_aside_and_named(run: RunDirectory, make_table: MakeTable) -> None:
    damaged = sorted(run.textures.iterdir(), key=str)[0]
    assert isinstance(damaged, ObjectPath)
    damaged.write_bytes(b"no Parquet")
    finalized = finalize(run, EXPECTED, rows_per_file=2)
    assert finalized.missing == ("a-c0-v0", "b-c0-v0")
    assert [problem.path.name for problem in finalized.problems] == [f"{damaged.name}.damaged"]
    assert not run.success.exists()
    commit_rows(run, make_table(TASKS[:2], attempts=2))
    assert finalize(run, EXPECTED, rows_per_file=2).missing == ()
