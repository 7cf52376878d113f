from __future__ import annotations

import json
from collections.abc import Callable

import pyarrow as pa
import pytest

from pipeline.failures import COLUMNS, failures_json, load_failures
from pipeline.failures_text import failure_text, failures_lines
from pipeline.resume import write_tasks
from pipeline.rundir import RunDirectory
from pipeline.shards import commit_rows

MakeTable = Callable[..., pa.Table]
TRACE = "\nno such file\nTraceback:\n  here\x1b[2J\n"


@pytest.fixture
def failed(run: RunDirectory, make_table: MakeTable) -> RunDirectory:
    ids = ["a", "b", "c", "d", "e", "f", "ok"]
    write_tasks(run, pa.table({"task_id": ids}))
    values = {"status": "failed", "error_type": "ImageError", "error": TRACE}
    commit_rows(run, make_table(ids[:4], **values))
    commit_rows(run, make_table(["e"], status="timeout"))
    commit_rows(run, make_table(["f"], status="quarantined", attempts=3, error="died \x1b[2J"))
    commit_rows(run, make_table(["ok"]))
    commit_rows(run, make_table(["of an earlier manifest"], **values))
    return run


def test_rows_are_grouped_by_what_went_wrong_and_listed(failed: RunDirectory) -> None:
    assert failures_lines(failed, load_failures(failed)) == [
        "4 failed: ImageError: no such file",
        "  a, b, c, ...",
        "1 timeout: ",
        "  e",
        r"1 quarantined: died \x1b[2J",
        "  f",
        "",
        "task  path          status       attempts  error",
        "a     images/a.jpg  failed       1         ImageError: no such file",
        "b     images/b.jpg  failed       1         ImageError: no such file",
        "c     images/c.jpg  failed       1         ImageError: no such file",
        "d     images/d.jpg  failed       1         ImageError: no such file",
        "e     images/e.jpg  timeout      1",
        r"f     images/f.jpg  quarantined  3         died \x1b[2J",
        "",
        f"again: texsynth retry {failed.path} --retry failed,timeout,quarantined",
    ]


def test_some_statuses_only(failed: RunDirectory) -> None:
    found = load_failures(failed, ["timeout", "quarantined"])
    assert [row["task_id"] for row in found.rows] == ["e", "f"]
    assert failures_lines(failed, found)[-1].endswith("--retry timeout,quarantined")


def test_one_task_with_its_whole_error(failed: RunDirectory) -> None:
    (row,) = load_failures(failed, task="b").rows
    lines = failure_text(row).split("\n")
    assert {"task_id: b", "path: images/b.jpg", "error_type: ImageError"} <= set(lines)
    assert lines[-5:] == ["error:", "", "no such file", "Traceback:", r"  here\x1b[2J"]


def test_json_has_every_row_with_its_whole_error(failed: RunDirectory) -> None:
    text = failures_json(load_failures(failed).rows)
    rows = [json.loads(line) for line in text.splitlines()]
    assert [row["task_id"] for row in rows] == list("abcdef")
    assert list(rows[0]) == list(COLUMNS)
    assert rows[0]["error"] == TRACE
    assert rows[0]["finished_at"] == "2026-01-02T03:04:05+00:00"
    assert "\x1b" not in text


def test_no_failures_are_said(run: RunDirectory, make_table: MakeTable) -> None:
    commit_rows(run, make_table(["a"]))
    found = load_failures(run)
    assert failures_lines(run, found) == ["no failures"]
    assert [problem.path for problem in found.problems] == [run.tasks]


def test_what_cannot_be_listed_is_refused(failed: RunDirectory) -> None:
    for statuses in (["ok"], ["failed", "banana"], []):
        with pytest.raises(ValueError, match="expected some of failed, timeout, quarantined"):
            load_failures(failed, statuses)
    with pytest.raises(ValueError, match="task 'ok': no row with status failed or timeout"):
        load_failures(failed, task="ok")
