from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pipeline.committed import FileProblem
from pipeline.evidence import OpenAttempt
from pipeline.session import Session
from pipeline.status import RunStatus
from pipeline.status_text import CATEGORIES_LISTED, align, status_lines
from pipeline.tally import CategoryCounts, LastError, SlowTask

EVIL = "\x1b[2J\x9b1m\u202e\n"


def counts(category: str | None) -> CategoryCounts:
    return CategoryCounts(
        category=category, tasks=10, ok=7, failed=1, timeout=0, quarantined=0, missing=2
    )


def attempt(task_id: str, host: str = "node-1") -> OpenAttempt:
    begun_at = "2026-01-01T00:00:00+00:00"
    return OpenAttempt(task_id=task_id, number=2, begun_at=begun_at, host=host, actor="node-1-9-a")


@pytest.fixture
def status() -> RunStatus:
    return RunStatus(
        run="runs/r",
        time="2026-01-01T00:00:00+00:00",
        state="running",
        stopped_by=None,
        session=Session(id="s", host="node-1", pid=7, begun_at="2026-01-01T00:00:00+00:00"),
        manifest="m.csv",
        tasks=10,
        statuses={"ok": 7, "failed": 1, "timeout": 0, "quarantined": 0},
        missing=2,
        other_rows=0,
        left=2,
        waiting=None,
        actors=1,
        actors_wanted="1:8",
        in_flight=(attempt("b"),),
        died=(),
        categories=(counts("bark"), counts(None)),
        textures_per_minute=1.25,
        seconds_left=96.0,
        last_error=LastError(task_id="a", error_type="E", line="what", finished_at="then"),
        slowest=(SlowTask(task_id="a", seconds=9.04, evaluations=None),),
        problems=(FileProblem(Path("runs/r/x"), "empty"),),
        next_step="texsynth status runs/r --watch",
    )


def test_all_that_is_known_is_said(status: RunStatus) -> None:
    assert status_lines(status) == [
        "runs/r: running",
        "session: s, process 7 on node-1, begun 2026-01-01T00:00:00+00:00",
        "tasks: 7 ok, 1 failed of 10, 2 missing",
        "pace: 1.2 textures/min, 2 tasks left, about 1 min 36 s",
        "actors: 1 at work (--actors 1:8)",
        "in flight: 1",
        "  b, attempt 2, since 2026-01-01T00:00:00+00:00 on node-1",
        "last error: a at then: E: what",
        "problems: 1",
        "  runs/r/x: empty",
        "next: texsynth status runs/r --watch",
        "",
        "slowest task  seconds  evaluations",
        "a                 9.0",
        "",
        "category  tasks  ok  failed  timeout  quarantined  missing",
        "bark         10   7       1        0            0        2",
        "(none)       10   7       1        0            0        2",
    ]


def test_what_is_not_known_is_not_said(status: RunStatus) -> None:
    bare = dataclasses.replace(
        status,
        state="stopped",
        stopped_by="SIGTERM",
        session=None,
        tasks=None,
        missing=None,
        other_rows=3,
        textures_per_minute=None,
        in_flight=(),
        died=(attempt("b", host=""),),
        categories=(),
        last_error=None,
        slowest=(),
        problems=(),
    )
    assert status_lines(bare) == [
        "runs/r: stopped by SIGTERM; what is committed is kept",
        "tasks: 7 ok, 1 failed of an unknown number of",
        "rows of tasks that the manifest does not have: 3",
        "died without a row: 1",
        "  b, attempt 2, since 2026-01-01T00:00:00+00:00",
        "next: texsynth status runs/r --watch",
    ]


def test_long_lists_are_cut_and_say_so(status: RunStatus) -> None:
    long = dataclasses.replace(
        status,
        in_flight=tuple(attempt(str(number)) for number in range(13)),
        categories=tuple(counts(str(number)) for number in range(CATEGORIES_LISTED + 2)),
    )
    lines = status_lines(long)
    assert "in flight: 13" in lines
    assert "  and 3 more" in lines
    assert lines[-1] == "and 2 more"


def test_nothing_that_a_terminal_obeys_is_printed(status: RunStatus) -> None:
    evil = dataclasses.replace(
        status,
        run=EVIL,
        manifest=EVIL,
        session=Session(id=EVIL, host=EVIL, pid=1, begun_at=EVIL),
        in_flight=(attempt(EVIL, host=EVIL),),
        died=(attempt(EVIL),),
        categories=(counts(EVIL),),
        last_error=LastError(task_id=EVIL, error_type=EVIL, line=EVIL, finished_at=EVIL),
        slowest=(SlowTask(task_id=EVIL, seconds=1.0, evaluations=1.0),),
        problems=(FileProblem(Path(EVIL), EVIL),),
        next_step=EVIL,
    )
    lines = status_lines(evil)
    assert all(line.isprintable() for line in lines)
    assert "\n".join(lines).count(r"\x1b[2J\x9b1m\u202e\n") == 16


def test_wide_characters_stay_in_their_columns() -> None:
    assert align([["木目", "1"], ["bark", "10"]], left=1) == ["木目   1", "bark  10"]
