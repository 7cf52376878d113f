from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from pipeline.object_store import StorageError
from pipeline.rundir import RunDirectory
from pipeline.session import RunBusyError, StopWatch, hold_run, is_held, load_session, request_stop

HOLDER = """
import sys, time
from pathlib import Path
from pipeline.rundir import RunDirectory
from pipeline.session import hold_run
with hold_run(RunDirectory(Path(sys.argv[1]))):
    print("held", flush=True)
    time.sleep(60)
"""


def hold_elsewhere(run: RunDirectory) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, str(run.path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_two_at_once_are_refused_and_a_crash_leaves_no_lock(run: RunDirectory) -> None:
    with hold_elsewhere(run) as other:
        assert is_held(run)
        with pytest.raises(RunBusyError, match=f"worked on by process {other.pid} on "):
            hold_run(run).__enter__()
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert not is_held(run)
    crashed = load_session(run)
    assert crashed is not None
    assert (crashed.pid, crashed.state) == (other.pid, "running")
    with hold_run(run) as session:
        assert is_held(run)
        assert (session.id != crashed.id, session.forgiven) == (True, None)
    assert not is_held(run)
    with hold_run(run) as another:
        assert another.forgiven == session.id


def test_looking_at_the_lock_refuses_nobody(run: RunDirectory) -> None:
    for _ in range(20):
        assert not is_held(run)
        with hold_run(run):
            pass


def test_the_file_tells_who_holds_the_run_and_how_it_ended(run: RunDirectory) -> None:
    assert load_session(run) is None
    with contextlib.suppress(ZeroDivisionError), hold_run(run) as session:
        assert load_session(run) == session
        assert (session.pid, session.state) == (os.getpid(), "running")
        request_stop(run, session)
        stopping = load_session(run)
        assert stopping is not None
        assert (stopping.id, stopping.state) == (session.id, "stopping")
        raise ZeroDivisionError
    ended = load_session(run)
    assert ended is not None
    assert (ended.id, ended.state) == (session.id, "ended")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"id": 1}', "\x00"])
def test_a_damaged_file_is_no_session(run: RunDirectory, text: str) -> None:
    run.session.write_text(text)
    assert load_session(run) is None
    with hold_run(run) as session:
        assert load_session(run) == session


def test_an_actor_stops_when_asked_to_or_when_another_session_has_begun(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = StopWatch(run)
    with hold_run(run) as session:
        asked, passed_by = StopWatch(run), StopWatch(run)
        assert not asked.stopped(now=True)
        request_stop(run, session)
        assert not asked.stopped()
        assert asked.stopped(now=True)
    with hold_run(run):
        assert passed_by.stopped(now=True)
        assert asked.stopped()
        monkeypatch.setattr("pipeline.session.POLL_SECONDS", 0.0)
        current = StopWatch(run)
        assert not current.stopped()
        run.session.unlink()
        assert not current.stopped()
    assert not outside.stopped(now=True)


def test_where_a_store_does_not_answer_another_session_is_left_alone(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver that was away cannot know whether another has followed it."""

    def fail(*_: object) -> bytes:
        raise StorageError("no line")

    with hold_run(run) as session:
        written = run.session.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(type(run.session), "read_bytes", fail)
            with pytest.raises(StorageError):
                request_stop(run, session)
            with pytest.raises(StorageError):
                StopWatch(run)
        assert run.session.read_bytes() == written
        request_stop(run, session)
        assert run.session.read_bytes() != written
