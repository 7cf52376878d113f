"""What is said of a run that is right, of one that goes on, and of tasks without rows."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.resume import write_tasks
from pipeline.rundir import NotARunError, RunDirectory
from pipeline.schema import compute_flags
from pipeline.session import hold_run
from pipeline.verify import Check, verify_run

Story = Any
ChecksOf = Callable[..., dict[str, Check]]
ProblemsOf = Callable[..., dict[str, str]]


def test_a_right_run_has_no_problem_at_any_time(
    story: Story, checks_of: ChecksOf, problems_of: ProblemsOf
) -> None:
    story.commit(story.ids[:9])
    assert list(problems_of(story.run)) == ["tasks"]
    story.commit(story.ids[9:], status="failed", attempts=1)
    assert problems_of(story.run) == {}
    story.finalize()
    assert problems_of(story.run) == {}
    story.commit(story.ids[9:], attempts=2)
    assert list(problems_of(story.run)) == ["_SUCCESS"]
    story.finalize()
    found = {name: check.found for name, check in checks_of(story.run).items()}
    assert found["files"] == "3 files, 10 rows"
    assert found["tasks"] == "10 of 10 tasks with a row"
    assert found["images"] == "10 PNGs decoded"
    assert found["exemplars"] == "10 sources read"
    assert found["_SUCCESS"] == "10 tasks"


def test_verify_changes_nothing(finished: Story) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.run.path.rglob("*")}
    verify_run(finished.run)
    assert {path: path.stat().st_mtime_ns for path in finished.run.path.rglob("*")} == before


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file", tmp_path / "absent"):
        with pytest.raises(NotARunError, match="is no run directory"):
            verify_run(RunDirectory(path))


def test_rows_that_do_not_count_are_said_and_are_no_problem(
    story: Story, checks_of: ChecksOf
) -> None:
    story.commit(story.ids, status="failed")
    story.commit(story.ids[:3], attempts=2)
    story.commit(story.ids[:1], attempts=3, seed=5)
    write_tasks(story.run, pa.table({"task_id": story.ids[:8]}))
    checks = checks_of(story.run)
    assert all(check.ok for check in checks.values())
    assert checks["tasks"].found == (
        "8 of 8 tasks with a row; 2 rows of tasks that are not in tasks.parquet; 4 superseded rows"
    )
    assert "1 row made again with another seed" in checks["seeds"].found


def test_missing_tasks_are_named_with_the_command_that_does_them(
    story: Story, checks_of: ChecksOf
) -> None:
    story.commit(story.ids[:2])
    check = checks_of(story.run)["tasks"]
    assert check.problems[0] == "task 't02' has no row"
    assert len(check.problems) == 8
    assert f"texsynth run {story.record.manifest} --out '{story.run.path}'" in check.mend


def test_only_the_first_problems_are_named(story: Story, checks_of: ChecksOf) -> None:
    write_tasks(story.run, pa.table({"task_id": [f"n{number}" for number in range(1234)]}))
    problems = checks_of(story.run)["tasks"].problems
    assert (len(problems), problems[-1]) == (11, "and 1,224 more")


def test_a_run_that_goes_on_is_no_problem(
    finished: Story, checks_of: ChecksOf, problems_of: ProblemsOf
) -> None:
    run = finished.run
    finished.ids.append("new")
    write_tasks(run, pa.table({"task_id": finished.ids}))
    finished.commit(finished.ids[:1], attempts=2)
    (run.shards / "_tmp-part-0.parquet.1-aa.tmp").write_bytes(b"PAR1")
    with hold_run(run):
        checks = checks_of(run)
        assert all(check.ok for check in checks.values())
        assert f"process {os.getpid()} on " in checks["process"].found
        assert "1 still to come; 1 superseded row" in checks["tasks"].found
        assert "1 temporary file of writers at work" in checks["folders"].found
        run.metrics.unlink()
        assert checks_of(run)["metrics.parquet"].ok
    assert set(problems_of(run)) == {"tasks", "_SUCCESS", "metrics.parquet"}
    found = checks_of(run)["folders"].found
    assert "1 temporary file of dead writers: the next run removes them" in found


def test_beside_a_process_that_commits_and_finalizes_there_is_no_problem(
    story: Story, problems_of: ProblemsOf
) -> None:
    run = story.run
    begun, ended = threading.Event(), threading.Event()

    def work() -> None:
        with hold_run(run):
            begun.set()
            for number in range(1, 1000):
                story.commit(story.ids[:5], attempts=number)
                story.commit(story.ids[5:], attempts=number)
                story.finalize()
                if ended.wait(0.1):
                    return

    thread = threading.Thread(target=work)
    thread.start()
    try:
        # Before the thread has the lock a missing row is one that nobody is about to write.
        assert begun.wait(30)
        found = [problems_of(run, images=False) for _ in range(5)]
    finally:
        ended.set()
        thread.join()
    assert [problems for problems in found if problems] == []
    assert problems_of(run) == {}


def test_neither_ray_nor_torch_is_imported(finished: Story) -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline.cli.verify import verify; "
        f"print(verify(Path({str(finished.run.path)!r}), images=False)); "
        "sys.exit(bool({'ray', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_flags_of_the_story_are_those_of_the_schema(story: Story) -> None:
    table = story.table(story.ids)
    assert compute_flags(table).equals(table)
    assert table["below_threshold"].to_pylist() == [True] * 10
