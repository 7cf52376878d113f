from __future__ import annotations

import io
import json
import time
from collections.abc import Callable

import pyarrow as pa
import pytest
from rich.console import Console

import pipeline.progress
from pipeline.attempts import AttemptFile
from pipeline.progress import RunProgress
from pipeline.rundir import RunDirectory
from pipeline.runlog import RunLog
from pipeline.session import hold_run
from pipeline.shards import commit_rows

MakeTable = Callable[..., pa.Table]


def console(terminal: bool = False) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=terminal, width=100), file


def wait_for(text: str, file: io.StringIO) -> None:
    deadline = time.monotonic() + 20
    while text not in file.getvalue():
        assert time.monotonic() < deadline, file.getvalue()
        time.sleep(0.01)


def test_plain_lines_count_what_is_committed_in_this_run(
    run: RunDirectory, make_table: MakeTable
) -> None:
    commit_rows(run, make_table(["before"]))
    out, file = console()
    with RunProgress(run, 3, out):
        commit_rows(run, make_table(["a", "b"]))
        commit_rows(run, make_table(["c"], status="failed"))
    (line,) = file.getvalue().splitlines()
    assert line.startswith("3/3 tasks, 1 failed, ")
    assert line.endswith(" textures/min")


def commit_tries(run: RunDirectory, make_table: MakeTable, task_id: str, tries: int) -> None:
    """The row of a task after so many tries, none of which was accepted."""
    table = make_table([task_id], attempts=tries)
    told = [{"seed": number, "status": "ok"} for number in range(tries)] if tries > 1 else None
    for name, value in (("accepted", False), ("tries", told)):
        place = table.schema.get_field_index(name)
        field = table.schema.field(place)
        table = table.set_column(place, field, pa.array([value], field.type))
    commit_rows(run, table)


def test_a_texture_that_is_tried_again_is_one_task(
    run: RunDirectory, make_table: MakeTable
) -> None:
    out, file = console()
    with RunProgress(run, 2, out, retry_flagged=2):
        for number in (1, 2, 3):
            commit_tries(run, make_table, "a", number)
        commit_rows(run, make_table(["b"]))
    (line,) = file.getvalue().splitlines()
    assert line.startswith("2/2 tasks, 0 failed, ")


def test_tasks_are_remembered_only_while_another_try_is_to_come(
    run: RunDirectory, make_table: MakeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.progress, "POLL_SECONDS", 0.01)
    out, file = console(terminal=True)
    with RunProgress(run, 9, out, retry_flagged=1) as progress:
        for done, (task_id, tries) in enumerate([("a", 1), ("b", 1), ("a", 2)]):
            commit_tries(run, make_table, task_id, tries)
            wait_for(f"{min(done + 1, 2)}/9", file)
        commit_rows(run, make_table([f"t{number}" for number in range(5)]))
        wait_for("7/9", file)
        assert progress._coming_again == {"b"}


def test_a_line_every_so_often_while_it_runs(
    run: RunDirectory, make_table: MakeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.progress, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(pipeline.progress, "PLAIN_LINE_SECONDS", 0.02)
    out, file = console()
    with RunProgress(run, 2, out):
        commit_rows(run, make_table(["a"]))
        deadline = time.monotonic() + 20
        while "1/2 tasks" not in file.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
    assert "1/2 tasks, 0 failed, " in file.getvalue()
    assert " left" in file.getvalue()


def test_an_unreadable_shard_is_passed_over(run: RunDirectory, make_table: MakeTable) -> None:
    out, file = console()
    with RunProgress(run, 2, out):
        (run.shards / "part-0.parquet").write_bytes(b"no parquet")
        commit_rows(run, make_table(["a"]))
    assert "1/2 tasks" in file.getvalue()


def test_a_terminal_gets_a_bar(run: RunDirectory, make_table: MakeTable) -> None:
    out, file = console(terminal=True)
    with RunProgress(run, 1, out):
        commit_rows(run, make_table(["a"]))
    assert "1/1" in file.getvalue()
    assert "textures/min" in file.getvalue()


def test_a_terminal_shows_what_is_at_work_and_what_went_wrong_last(
    run: RunDirectory, make_table: MakeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.progress, "POLL_SECONDS", 0.01)
    out, file = console(terminal=True)
    with hold_run(run) as session, RunProgress(run, 4, out):
        attempts = AttemptFile(run, session.id)
        attempts.begin({"a": 1, "b": 1})
        wait_for("2 in flight", file)
        commit_rows(run, make_table(["a"], status="failed", error_type="E", error="\x1b[2J\nmore"))
        wait_for(r"last error: a: E: \x1b[2J", file)
        attempts.end(["a", "b"])
    assert "\x1b[2J" not in file.getvalue()


def test_every_row_and_every_unreadable_shard_is_logged_once(
    run: RunDirectory, make_table: MakeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.progress, "POLL_SECONDS", 0.01)
    commit_rows(run, make_table(["before"]))
    out, _ = console()
    with RunProgress(run, 2, out, RunLog(run)):
        commit_rows(run, make_table(["a"]))
        (run.shards / "part-0.parquet").write_bytes(b"no parquet")
        time.sleep(0.1)
        commit_rows(run, make_table(["b"]))
    lines = [json.loads(line) for line in run.log.read_text().splitlines()]
    assert sorted(line["task_id"] for line in lines if line["event"] == "task") == ["a", "b"]
    (problem,) = [line for line in lines if line["event"] == "problem"]
    assert problem["path"].endswith("part-0.parquet")
