"""Actors that leave before the end of a block: what they leave behind, and who tells them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from pipeline.actor import SynthesisActor
from pipeline.attempts import load_attempts
from pipeline.cluster import leaving, metered_actor
from pipeline.cluster.leaving import LeaveWatch
from pipeline.committed import read_committed
from pipeline.config import RunConfig
from pipeline.rundir import RunDirectory

pytestmark = pytest.mark.usefixtures("one_thread")

MakeActor = Callable[[RunConfig], SynthesisActor]


@pytest.fixture
def block(
    make_manifest: Callable[..., Path],
    quick_config: Callable[..., RunConfig],
    prepared_block: Callable[[Path, RunConfig], pa.Table],
) -> tuple[RunConfig, pa.Table]:
    """Three tasks for one lane, each of several looks."""
    config = quick_config(lanes=1, evaluations=40, synthesis={"levels": 1})
    return config, prepared_block(make_manifest(["a", "b", "c"]), config)


def rows_of(run: RunDirectory) -> dict[str, dict[str, Any]]:
    return {row["task_id"]: row for row in read_committed(run)[0].to_pylist()}


@pytest.mark.parametrize("when", ["in a task", "between two tasks"])
def test_what_an_actor_leaves_is_done_by_another_without_a_suspicion(
    make_actor: MakeActor, block: tuple[RunConfig, pa.Table], run: RunDirectory, when: str
) -> None:
    config, tasks = block
    first, calls = make_actor(config), []

    def leave_later(*values: Any) -> None:
        calls.append(values)
        if len(calls) == 2 or when == "between two tasks":
            first.leave("spot")

    name = "advanced" if when == "in a task" else "row_ended"
    setattr(first, name, leave_later)
    summary = first(tasks)
    assert first.leaving == "spot"
    assert summary["task_id"].to_pylist() == sorted(rows_of(run))
    assert len(summary) < 3
    # Nothing says that anybody has died, and the texture in the making is kept.
    assert load_attempts(run) == ({}, [])
    kept = [path.stem for path in run.checkpoints.iterdir()]
    assert bool(kept) == (when == "in a task")
    begun = {task: row["finished_at"] for task, row in rows_of(run).items()}
    make_actor(config)(tasks)
    rows = rows_of(run)
    assert sorted(rows) == ["a-c0-v0", "b-c0-v0", "c-c0-v0"]
    assert {(row["status"], row["attempts"]) for row in rows.values()} == {("ok", 1)}
    assert {task: rows[task]["finished_at"] for task in begun} == begun
    assert sum(bool(row["resumed_at"]) for row in rows.values()) == len(kept)


def test_one_that_is_to_leave_begins_nothing(
    make_actor: MakeActor, block: tuple[RunConfig, pa.Table], run: RunDirectory
) -> None:
    config, tasks = block
    actor = make_actor(config)
    actor.leave("first")
    actor.leave("second")
    assert (len(actor(tasks)), rows_of(run), actor.leaving) == (0, {}, "first")


class ExitedError(Exception):
    """In place of the end of the process."""


@pytest.fixture
def metered(
    make_actor: MakeActor,
    block: tuple[RunConfig, pa.Table],
    run: RunDirectory,
    monkeypatch: pytest.MonkeyPatch,
) -> metered_actor.MeteredActor:
    def end(code: int) -> None:
        raise ExitedError(code)

    make_actor(block[0])
    monkeypatch.setattr(metered_actor, "ActorMetrics", lambda name: Silent())
    monkeypatch.setattr(metered_actor.os, "_exit", end)
    return metered_actor.MeteredActor(str(run.path))


class Silent:
    def count_row(self, row: Any) -> None: ...

    def count_synthesis(self, *values: Any) -> None: ...


def test_under_ray_the_process_ends_and_the_log_names_the_tasks(
    metered: Any, block: tuple[RunConfig, pa.Table], run: RunDirectory
) -> None:
    metered.row_ended = lambda row: metered.leave("node 7 is being drained")
    with pytest.raises(ExitedError, match=str(metered_actor.EXIT_LEFT)):
        metered(block[1])
    assert list(rows_of(run)) == ["a-c0-v0"]
    told, left = [json.loads(line) for line in run.log.read_text().splitlines()]
    # The driver never gets the summary of this block.
    assert (told["event"], told["tasks"]) == ("block", 1)
    assert (left["event"], left["reason"]) == ("actor_left", "node 7 is being drained")
    assert left["tasks"] == ["b-c0-v0", "c-c0-v0"]


ENDING = """
import atexit, os
from pipeline.cluster import metered_actor
os.write(2, b"before")
atexit.register(os.write, 2, b"after")
atexit.register(metered_actor._close_stderr)
"""


def test_what_bindings_say_when_python_ends_is_not_shown() -> None:
    ended = subprocess.run([sys.executable, "-c", ENDING], capture_output=True, timeout=100)
    assert (ended.returncode, ended.stderr) == (0, b"before")


def test_an_actor_of_a_cluster_ends_without_words(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered: list[Any] = []
    monkeypatch.setattr(SynthesisActor, "__init__", lambda self, *_, **more: None)
    monkeypatch.setattr(SynthesisActor, "_run", run, raising=False)
    monkeypatch.setattr(metered_actor, "ActorMetrics", lambda name: Silent())
    monkeypatch.setattr(metered_actor, "LeaveWatch", lambda leave: object())
    monkeypatch.setattr(metered_actor.atexit, "register", registered.append)
    metered_actor.MeteredActor(watched=True)
    assert registered == [metered_actor._close_stderr]


def test_a_disk_that_takes_nothing_does_not_keep_it_from_ending(
    metered: Any, block: tuple[RunConfig, pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*values: Any) -> None:
        raise OSError(28, "full")

    def leave(row: Any) -> None:
        monkeypatch.setattr(metered._writer, "close", refuse)
        monkeypatch.setattr(metered._committed, "without", refuse)
        metered.leave("spot")

    metered.row_ended = leave
    with pytest.raises(ExitedError):
        metered(block[1])


def test_an_idle_one_ends_at_once(metered: Any, run: RunDirectory) -> None:
    with pytest.raises(ExitedError):
        metered.leave("SIGTERM")
    assert not run.log.exists()
    assert load_attempts(run) == ({}, [])


@pytest.fixture
def on_node(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """This process is on node n1 of Ray; gives the set of the nodes that are drained."""
    draining: set[str] = set()
    context = SimpleNamespace(get_node_id=lambda: "n1")
    monkeypatch.setattr(leaving.ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(leaving, "find_draining_nodes", lambda: draining)
    monkeypatch.setattr(leaving, "POLL_SECONDS", 0.01)
    previous = signal.getsignal(signal.SIGTERM)
    yield draining
    signal.signal(signal.SIGTERM, previous)


def test_the_watch_tells_of_its_own_node_only_and_once(on_node: set[str]) -> None:
    told: list[str] = []
    heard = threading.Event()
    watch = LeaveWatch(lambda reason: (told.append(reason), heard.set())[0])
    on_node.add("n2")
    assert not heard.wait(0.1)
    on_node.add("n1")
    assert heard.wait(20.0)
    watch.close()
    assert told == ["node n1 is being drained"]


def test_the_watch_outlives_a_head_that_does_not_answer(
    on_node: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([RuntimeError("no head"), {"n1"}])
    heard = threading.Event()

    def ask() -> Any:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(leaving, "find_draining_nodes", ask)
    watch = LeaveWatch(lambda reason: heard.set())
    assert heard.wait(20.0)
    watch.close()


def test_a_second_sigterm_does_what_the_first_would_have_done(on_node: set[str]) -> None:
    told: list[str] = []
    first: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: first.append(number))
    watch = LeaveWatch(told.append)
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)
    watch.close()
    assert told == [f"process {os.getpid()} got SIGTERM"]
    assert first == [signal.SIGTERM]
