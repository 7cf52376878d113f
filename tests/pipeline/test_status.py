from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipeline.evidence
from pipeline.attempts import AttemptFile
from pipeline.committed import read_committed
from pipeline.finalize import finalize
from pipeline.pending import find_pending, write_pending
from pipeline.resume import RunRecord, write_run_record, write_tasks
from pipeline.rundir import NotARunError, RunDirectory, write_json_atomic
from pipeline.runlog import RunLog
from pipeline.session import Session, hold_run, request_stop
from pipeline.shards import commit_rows
from pipeline.status import RunStatus, StatusReader, load_status
from pipeline.status_text import status_lines
from pipeline.table_stream import stream_table

MakeTable = Callable[..., pa.Table]
IDS = ("a-1", "a-2", "b-1", "b-2")


def make_run(run: RunDirectory, ids: tuple[str, ...] = IDS) -> pa.Table:
    """What is in a run directory before work starts; gives its tasks."""
    record = RunRecord(
        config={},
        identity={},
        versions={},
        weights="random:0",
        weights_sha256="0",
        manifest="/m.csv",
        manifest_sha256="0",
        root="/",
        carried=pa.schema([]),
        created_at="2026-01-01T00:00:00+00:00",
    )
    write_run_record(run, record)
    categories = [name.split("-")[0] for name in ids]
    tasks = pa.table({"task_id": list(ids), "category": categories, "seed": range(len(ids))})
    write_tasks(run, tasks)
    return tasks


def write_session(run: RunDirectory, state: Any) -> None:
    session = Session(id="s", host="h", pid=1, begun_at="2026-01-01T00:00:00+00:00", state=state)
    write_json_atomic(run.session, dataclasses.asdict(session))


def paths_of(status: RunStatus) -> list[str]:
    return [os.path.relpath(problem.path, status.run) for problem in status.problems]


def test_it_counts_what_is_done_and_what_is_missing(
    run: RunDirectory, make_table: MakeTable
) -> None:
    make_run(run)
    commit_rows(run, make_table(["a-1"], seconds=9.0, evaluations=float("nan")))
    commit_rows(run, make_table(["b-1"], status="failed", error_type="E", error="\n what\nwhere"))
    commit_rows(run, make_table(["b-1"], status="quarantined", attempts=2, error="died"))
    commit_rows(run, make_table(["of an earlier manifest"]))
    status = load_status(run)
    assert (status.tasks, status.missing, status.other_rows) == (4, 2, 1)
    assert status.statuses == {"ok": 1, "failed": 0, "timeout": 0, "quarantined": 1}
    numbers = [dataclasses.astuple(counts) for counts in status.categories]
    assert numbers == [("a", 2, 1, 0, 0, 0, 1), ("b", 2, 0, 0, 0, 1, 1)]
    assert [dataclasses.astuple(task) for task in status.slowest] == [("a-1", 9.0, None)]
    assert status.last_error is not None
    assert dataclasses.astuple(status.last_error) == (
        "b-1",
        None,
        "died",
        "2026-01-02T03:04:05+00:00",
    )
    assert (status.manifest, status.problems, status.session) == ("/m.csv", (), None)


def test_the_last_error_and_the_slowest_tasks_are_those(
    run: RunDirectory, make_table: MakeTable
) -> None:
    ids = tuple(f"a-{number}" for number in range(8))
    make_run(run, ids)
    for number, name in enumerate(ids):
        time = datetime(2026, 1, 1, 0, (3 * number) % 8, tzinfo=UTC)
        values = {"seconds": [float("nan"), None, 5.0, 1.0, 9.0, 7.0, 3.0, 8.0][number]}
        values |= {"finished_at": time, "status": "failed", "error": f"error of {name}"}
        commit_rows(run, make_table([name], **values))
    status = load_status(run)
    assert status.last_error is not None
    assert status.last_error.line == "error of a-5"
    assert [task.seconds for task in status.slowest] == [9.0, 8.0, 7.0, 5.0, 3.0]


def test_a_run_at_work(run: RunDirectory, make_table: MakeTable) -> None:
    tasks = make_run(run)
    commit_rows(run, make_table(["a-1"], status="failed"))
    with hold_run(run) as session:
        pending = find_pending(tasks["task_id"], read_committed(run)[0], ["failed"])
        write_pending(run, pending.select(stream_table(tasks)))
        actor, other = AttemptFile(run, session.id), AttemptFile(run, "an earlier session")
        actor.begin({"a-1": 2, "b-1": 1})
        other.begin({"a-2": 3})
        status = load_status(run)
        assert (status.state, status.left, status.seconds_left) == ("running", 4, None)
        assert {(a.task_id, a.number) for a in status.in_flight} == {("a-1", 2), ("b-1", 1)}
        assert [(a.task_id, a.number) for a in status.died] == [("a-2", 3)]
        assert status.next_step == f"texsynth status {run.path} --watch"
        now = datetime.now(UTC)
        commit_rows(run, make_table(["a-1"], attempts=2, finished_at=now))
        status = load_status(run)
        assert (status.left, status.missing) == (3, 3)
        assert [a.task_id for a in status.in_flight] == ["b-1"]
        assert status.textures_per_minute is not None
        assert status.seconds_left is not None
        assert status.textures_per_minute > 0
        request_stop(run, session)
        assert load_status(run).state == "stopping"


def test_the_pace_is_that_of_ten_minutes_of_this_session(
    run: RunDirectory, make_table: MakeTable
) -> None:
    now = datetime.now(UTC)
    ids = tuple(f"a-{number}" for number in range(6))
    make_run(run, ids)
    for name, minutes, state in (("a-0", 30, "ok"), ("a-1", 4, "ok"), ("a-2", 2, "failed")):
        then = now - timedelta(minutes=minutes)
        commit_rows(run, make_table([name], finished_at=then, status=state))
    with hold_run(run) as session:
        for begun, per_minute, seconds_left in ((60, 0.1, 900), (5, 0.2, 450), (3, 0.0, 540)):
            begun_at = (now - timedelta(minutes=begun)).isoformat()
            changed = dataclasses.replace(session, begun_at=begun_at)
            write_json_atomic(run.session, dataclasses.asdict(changed))
            status = load_status(run)
            assert status.textures_per_minute == pytest.approx(per_minute, rel=0.1)
            assert status.seconds_left == pytest.approx(seconds_left, rel=0.1)
    assert load_status(run).textures_per_minute is None


@pytest.mark.parametrize(
    ("session", "signal", "state"),
    [
        (None, None, "incomplete"),
        ("running", None, "crashed"),
        ("stopping", None, "stopped"),
        ("ended", None, "incomplete"),
        ("ended", "SIGTERM", "stopped"),
    ],
)
def test_a_run_that_nobody_works_on(
    run: RunDirectory, session: str | None, signal: str | None, state: str
) -> None:
    make_run(run)
    if session is not None:
        write_session(run, session)
    log = RunLog(run)
    log.event("session_begun", session="s")
    if signal:
        log.event("session_stopped", session="s", signal=signal)
    log.event("finalized", rows=0)
    status = load_status(run)
    assert (status.state, status.stopped_by) == (state, signal)
    assert status.next_step.startswith(f"texsynth run /m.csv --out {run.path}  (")


def test_a_signal_stopped_the_session_that_it_names(run: RunDirectory) -> None:
    make_run(run)
    write_session(run, "ended")
    RunLog(run).event("session_stopped", session="an earlier one", signal="SIGINT")
    assert load_status(run).state == "incomplete"
    RunLog(run).event("session_stopped", session="s")
    assert (load_status(run).state, load_status(run).stopped_by) == ("stopped", None)


def test_an_attempt_outlives_no_session(run: RunDirectory) -> None:
    make_run(run)
    with hold_run(run) as session:
        AttemptFile(run, session.id).begin({"a-1": 1})
    status = load_status(run)
    assert status.in_flight == ()
    assert [a.task_id for a in status.died] == ["a-1"]


def test_a_finished_run_needs_all_its_tasks(run: RunDirectory, make_table: MakeTable) -> None:
    tasks = make_run(run)
    commit_rows(run, make_table(IDS))
    status = load_status(run)
    assert (status.state, status.next_step) == ("incomplete", f"texsynth finalize {run.path}")
    finalize(run, tasks["task_id"])
    status = load_status(run)
    assert (status.state, status.next_step) == ("finished", f"texsynth report {run.path}")
    make_run(run, (*IDS, "c-1"))
    status = load_status(run)
    assert (status.state, status.missing) == ("incomplete", 1)


def test_a_finished_run_with_failed_rows_can_be_retried(
    run: RunDirectory, make_table: MakeTable
) -> None:
    tasks = make_run(run)
    commit_rows(run, make_table(IDS[:2]))
    commit_rows(run, make_table(IDS[2:3], status="failed"))
    commit_rows(run, make_table(IDS[3:], status="timeout"))
    finalize(run, tasks["task_id"])
    status = load_status(run)
    assert status.next_step == f"texsynth retry {run.path} --retry failed,timeout"


def test_what_is_read_again_has_what_is_new(run: RunDirectory, make_table: MakeTable) -> None:
    make_run(run)
    reader = StatusReader(run)
    assert reader.load().missing == 4
    commit_rows(run, make_table(IDS))
    assert reader.load().missing == 0


DAMAGE = {
    "run.json": b'{"config": 1}',
    "tasks.parquet": b"PAR1",
    "pending.parquet": b"",
    "metrics.parquet": b"cut",
    "session.json": b'{"id": 1, "host": 2, "pid": "x", "begun_at": 3, "state": NaN}',
    "log.jsonl": b"\xff\x00[",
    "_SUCCESS": b"",
    "shards/part-1.parquet": b"cut",
    "textures/part-1.parquet": b"",
    "attempts/a.json": b"[1, 2",
    "checkpoints/a.safetensors": b"cut",
    "foreign": b"x",
}
SILENT = {"log.jsonl"}
"""What is only searched, not judged."""


@pytest.mark.parametrize("name", [*DAMAGE, "everything", "nothing"])
def test_a_damaged_run_has_a_status_that_names_the_damage_and_changes_nothing(
    run: RunDirectory, make_table: MakeTable, name: str
) -> None:
    make_run(run)
    run.textures.mkdir()
    run.lock.touch()
    write_session(run, "running")
    commit_rows(run, make_table(["a-1"]))
    damaged = [] if name == "nothing" else list(DAMAGE) if name == "everything" else [name]
    for each in damaged:
        (run.path / each).write_bytes(DAMAGE[each])
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in run.path.rglob("*")}
    status = load_status(run)
    named = set(paths_of(status)) - ({"metrics.parquet"} if name == "_SUCCESS" else set())
    assert named == set(damaged) - SILENT
    assert status.statuses["ok"] == 1
    values = json.loads(status.to_json(), parse_constant=pytest.fail)
    assert list(values) == [field.name for field in dataclasses.fields(RunStatus)]
    after = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in run.path.rglob("*")}
    assert after == before


@pytest.mark.parametrize(
    "attempts",
    [
        '{"actor": "x", "host": "HOST", "pid": "x", "session": "ID", "tasks": TASKS}',
        '{"actor": "x", "host": "HOST", "pid": 1e99, "session": "ID", "tasks": TASKS}',
        '{"actor": 1, "host": [], "pid": 0.5, "session": {}, "tasks": TASKS}',
        '{"actor": "x", "host": "h", "pid": 1, "session": "s", "tasks": {"a": {"number": 1e999}}}',
    ],
)
def test_odd_attempts_are_no_crash(run: RunDirectory, attempts: str) -> None:
    make_run(run)
    with hold_run(run) as session:
        text = attempts.replace("HOST", session.host).replace("ID", session.id)
        tasks = '{"a-1": {"number": 1, "begun_at": null}}'
        (run.attempts / "x.json").write_text(text.replace("TASKS", tasks))
        status = load_status(run)
    assert status.in_flight == ()
    assert len(status.died) + len(status.problems) == 1


def test_deep_nesting_is_no_crash(run: RunDirectory) -> None:
    make_run(run)
    for path in (run.run_json, run.session, run.log, run.attempts / "x.json"):
        path.write_text("[" * 100_000)
    assert paths_of(load_status(run)) == ["attempts/x.json", "run.json", "session.json"]


def test_where_the_lock_cannot_be_tried_the_session_is_believed(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(run: RunDirectory) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pipeline.evidence, "is_held", refuse)
    make_run(run)
    for state, shown in (("running", "running"), ("ended", "incomplete")):
        write_session(run, state)
        status = load_status(run)
        assert status.state == shown
        assert paths_of(status) == [".lock"]


def test_tasks_without_a_category_are_one_of_their_own(
    run: RunDirectory, make_table: MakeTable
) -> None:
    make_run(run)
    write_tasks(run, pa.table({"task_id": ["a-1", "b-1"], "category": [None, "b"]}))
    commit_rows(run, make_table(["a-1"], category=None))
    status = load_status(run)
    assert [(c.category, c.ok, c.missing) for c in status.categories] == [("b", 0, 1), (None, 1, 0)]
    run.tasks.unlink()
    status = load_status(run)
    assert (status.tasks, status.missing, paths_of(status)) == (None, None, ["tasks.parquet"])
    assert [(c.category, c.ok) for c in status.categories] == [(None, 1)]


def test_a_pending_list_of_something_else_leaves_what_is_missing(run: RunDirectory) -> None:
    make_run(run)
    pq.write_table(pa.table({"task_id": [[1]], "attempts": ["x"]}), run.pending)
    with hold_run(run):
        assert load_status(run).left == 4


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file", tmp_path / "none"):
        with pytest.raises(NotARunError, match="is no run directory"):
            load_status(RunDirectory(path))


def test_who_is_at_work_and_what_is_waited_for(run: RunDirectory) -> None:
    make_run(run)
    log = RunLog(run)
    with hold_run(run) as session:
        log.event("session_begun", session=session.id)
        log.event("waiting_for_workers", text="waiting for a node with a GPU; the cluster has none")
        status = load_status(run)
        assert (status.actors, status.actors_wanted) == (0, None)
        assert status.waiting == "waiting for a node with a GPU; the cluster has none"
        assert status_lines(status)[4:6] == ["actors: 0 at work", status.waiting]
        log.event("workers_came", text="workers have come")
        for number in range(2):
            actor = AttemptFile(run, session.id)
            actor.begin({IDS[2 * number]: 1, IDS[2 * number + 1]: 1})
        status = load_status(run)
        assert (status.actors, len(status.in_flight), status.waiting) == (2, 4, None)
    assert (load_status(run).actors, load_status(run).waiting) == (0, None)


@pytest.mark.parametrize(("config", "wanted"), [({"actors": "1:8"}, "1:8"), ({"actors": []}, None)])
def test_how_many_actors_were_asked_for(run: RunDirectory, config: Any, wanted: Any) -> None:
    make_run(run)
    values = json.loads(run.run_json.read_text())
    write_json_atomic(run.run_json, values | {"config": config})
    assert load_status(run).actors_wanted == wanted
    write_json_atomic(run.run_json, values | {"config": [1]})
    assert load_status(run).actors_wanted is None
