"""`texsynth status` and `texsynth failures`, from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.resume import write_tasks
from pipeline.rundir import RunDirectory
from pipeline.session import hold_run
from pipeline.shards import commit_rows

MakeTable = Callable[..., pa.Table]
Call = Callable[..., tuple[int, str, str]]


WATCH = """
import pipeline.cli.status
pipeline.cli.status.WATCH_SECONDS = 0.05
from pipeline.cli import main
main()
"""


@pytest.fixture
def begun(run: RunDirectory, make_table: MakeTable) -> RunDirectory:
    write_tasks(run, pa.table({"task_id": ["a", "b"], "category": ["bark", "bark"]}))
    commit_rows(run, make_table(["a"], status="failed", error="what \x1b[2J\nwhere"))
    return run


def test_the_state_of_a_run(call: Call, begun: RunDirectory) -> None:
    code, out, err = call("status", begun.path)
    assert (code, err) == (0, "")
    assert "tasks: 0 ok, 1 failed of 2, 1 missing" in out
    assert r"what \x1b[2J" in out
    code, out, _ = call("status", begun.path, "--json")
    assert (code, json.loads(out)["missing"]) == (0, 1)


def test_a_watch_ends_with_the_run(call: Call, begun: RunDirectory, make_table: MakeTable) -> None:
    command = [sys.executable, "-c", WATCH, "status", str(begun.path), "--watch", "--json"]
    with hold_run(begun):
        watch = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert watch.stdout is not None
        assert json.loads(watch.stdout.readline())["state"] == "running"
        commit_rows(begun, make_table(["b"]))
    lines = [json.loads(line) for line in watch.communicate(timeout=60)[0].splitlines()]
    assert watch.returncode == 0
    assert (lines[-1]["state"], lines[-1]["missing"]) == ("incomplete", 0)
    assert call("status", begun.path, "--watch")[0] == 0


def test_the_state_of_a_run_waits_for_no_large_library(begun: RunDirectory) -> None:
    program = (
        "import sys\nfrom pipeline.cli import main\n"
        "try:\n    main()\nfinally:\n    print({'ray', 'torch'} & set(sys.modules))"
    )
    for command in ("status", "failures"):
        arguments = [sys.executable, "-c", program, command, str(begun.path)]
        ended = subprocess.run(arguments, capture_output=True, text=True, check=False)
        assert ended.stdout.endswith("set()\n"), ended


def test_failures_are_listed_and_give_code_3(call: Call, begun: RunDirectory) -> None:
    code, out, err = call("failures", begun.path)
    assert (code, err) == (3, "")
    assert r"1 failed: what \x1b[2J" in out
    assert out.endswith(f"again: texsynth retry {begun.path} --retry failed\n")
    code, out, _ = call("failures", begun.path, "--task", "a")
    assert code == 3
    assert out.endswith("error:\nwhat \\x1b[2J\nwhere\n")
    code, out, _ = call("failures", begun.path, "--json")
    assert (code, json.loads(out)["error"]) == (3, "what \x1b[2J\nwhere")
    (begun.shards / "part-\x1b.parquet").write_bytes(b"cut")
    code, out, err = call("failures", begun.path, "--status", "timeout, quarantined")
    assert (code, out) == (0, "no failures\n")
    assert r"part-\x1b.parquet" in err


@pytest.mark.parametrize("command", ["status", "failures"])
def test_what_is_no_run_is_code_2(call: Call, tmp_path: Path, command: str) -> None:
    code, out, err = call(command, tmp_path)
    assert (code, out) == (2, "")
    reason = "is no run directory, expected a folder that `texsynth run` made"
    assert err == f"error: {str(tmp_path)!r} {reason}\n"
    assert call(command, "--help")[0] == 0
    assert list(tmp_path.iterdir()) == []


def test_unknown_failures_are_code_2(call: Call, begun: RunDirectory) -> None:
    assert call("failures", begun.path, "--status", "ok")[0] == 2
    assert call("failures", begun.path, "--task", "none")[0] == 2
