from __future__ import annotations

import datetime
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

import pipeline.runlog
from pipeline.rundir import RunDirectory
from pipeline.runlog import ERROR_LENGTH, RunLog, load_last_event

MakeTable = Callable[..., pa.Table]


def lines_of(run: RunDirectory) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.log.read_text("ascii").splitlines()]


def test_a_line_begins_with_its_time_and_event(run: RunDirectory) -> None:
    RunLog(run).event("session_begun", session="s", versions={"torch": "2.6.0"})
    (line,) = lines_of(run)
    assert list(line) == ["time", "event", "session", "versions"]
    assert line["versions"] == {"torch": "2.6.0"}
    assert datetime.datetime.fromisoformat(line["time"]).utcoffset() == datetime.timedelta(0)


def test_a_cut_line_does_not_swallow_the_next(run: RunDirectory) -> None:
    RunLog(run).event("whole")
    with run.log.open("ab") as file:
        file.write(b'{"time": "cut')
    RunLog(run).event("next")
    texts = run.log.read_text().splitlines()
    assert len(texts) == 3
    assert json.loads(texts[2])["event"] == "next"


def test_every_line_is_valid_json_and_fit_for_a_terminal(run: RunDirectory) -> None:
    RunLog(run).event("problem", path=Path("\x1b[2J\x9bä"), loss=float("nan"), list=[float("inf")])
    text = run.log.read_text("ascii")
    assert text.rstrip("\n").isprintable()
    assert lines_of(run)[0] | {"time": ""} == {
        "time": "",
        "event": "problem",
        "path": "\x1b[2J\x9bä",
        "loss": None,
        "list": [None],
    }


def test_a_task_line_has_the_first_line_of_its_error(
    run: RunDirectory, make_table: MakeTable
) -> None:
    log = RunLog(run)
    log.task_events(make_table(["a"], delivered_loss=float("nan"), device="cpu"))
    error = f"{'x' * 1000}\nTraceback"
    log.task_events(make_table(["b"], status="failed", error_type="ImageError", error=error))
    first, second = lines_of(run)
    assert (first["task_id"], first["status"], first["attempts"]) == ("a", "ok", 1)
    assert (first["error"], first["delivered_loss"], first["device"]) == (None, None, "cpu")
    assert (second["error_type"], second["error"]) == ("ImageError", "x" * ERROR_LENGTH)


def test_a_full_disk_is_said_once_and_stops_nothing(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int, line: bytes) -> int:
        raise OSError(28, "No space left on device")

    out = io.StringIO()
    log = RunLog(run, Console(file=out))
    with monkeypatch.context() as patch:
        patch.setattr(pipeline.runlog.os, "write", fail)
        log.event("lost")
        log.event("lost")
    assert out.getvalue().count("No space left on device") == 1
    log.event("written")
    assert [line["event"] for line in lines_of(run)] == ["written"]


def test_the_last_event_of_a_kind_is_found(run: RunDirectory) -> None:
    assert load_last_event(run, "session_") is None
    log = RunLog(run)
    log.event("session_begun", session="a")
    log.event("session_stopped", session="a", signal="SIGTERM")
    log.event("finalized", rows=1)
    with run.log.open("ab") as file:
        file.write(b'[1]\n{"event": "session_')
    found = load_last_event(run, "session_")
    assert found is not None
    assert (found["event"], found["signal"]) == ("session_stopped", "SIGTERM")
    assert load_last_event(run, "problem") is None
