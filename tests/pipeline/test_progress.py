from __future__ import annotations

import io
import time
from collections.abc import Callable

import pyarrow as pa
import pytest
from rich.console import Console

import pipeline.progress
from pipeline.progress import RunProgress
from pipeline.rundir import RunDirectory
from pipeline.shards import commit_rows

MakeTable = Callable[..., pa.Table]


def console(terminal: bool = False) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=terminal, width=100), file


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


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.4, "3 s"), (62, "1 min 2 s"), (3661, "1 h 1 min"), (59.9, "1 min 0 s")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert pipeline.progress._duration(seconds) == text
