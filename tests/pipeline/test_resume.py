from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.columns import STATUSES
from pipeline.committed import read_committed
from pipeline.finalize import finalize
from pipeline.pending import KEYS, find_pending, write_pending
from pipeline.resume import (
    RunMismatchError,
    RunRecord,
    RunRecordError,
    compute_fingerprint,
    load_run_record,
    refuse_other_config,
    write_run_record,
)
from pipeline.rundir import RunDirectory
from pipeline.schema import row_schema, rows_to_table
from pipeline.shards import commit_rows
from pipeline.table_stream import stream_table


@pytest.fixture
def record() -> RunRecord:
    return RunRecord(
        config={"synthesis": {"spectrum": "colour"}, "lanes": 4},
        identity={"synthesis": {"spectrum": "colour", "levels": [64, 128]}, "size": 128},
        versions={"torch": "2.6.0"},
        weights="random:0",
        weights_sha256="00",
        manifest="textures.csv",
        manifest_sha256="11",
        root="images",
        carried=pa.schema([("note", pa.string()), ("split_1", pa.dictionary("int8", "string"))]),
        created_at="2026-01-02T03:04:05+00:00",
    )


def tasks_of(*task_ids: str | None) -> pa.Table:
    seeds = pa.array(range(len(task_ids)), pa.int64())
    return pa.table({"task_id": pa.array(task_ids, pa.string()), "seed": seeds})


def committed_of(*rows: tuple[str, str, int]) -> pa.Table:
    names = [("task_id", pa.string()), ("status", pa.string()), ("attempts", pa.int32())]
    names += [("seed", pa.int64()), ("accepted", pa.bool_())]
    values = [dict(zip(("task_id", "status", "attempts"), row, strict=True)) for row in rows]
    return pa.Table.from_pylist(values, schema=pa.schema(names))


def test_run_record_comes_back_as_it_was(run: RunDirectory, record: RunRecord) -> None:
    assert load_run_record(run) is None
    write_run_record(run, record)
    assert load_run_record(run) == record
    assert json.loads(run.run_json.read_text())["fingerprint"] == record.fingerprint


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"fingerprint": "0", "carried": "?"}'])
def test_a_broken_run_record_is_named(run: RunDirectory, text: str) -> None:
    run.run_json.write_text(text)
    with pytest.raises(RunRecordError, match=r"run\.json: no run record"):
        load_run_record(run)


def test_a_run_record_changed_by_hand_is_refused(run: RunDirectory, record: RunRecord) -> None:
    write_run_record(run, record)
    run.run_json.write_text(run.run_json.read_text().replace('"size": 128', '"size": 256'))
    with pytest.raises(RunRecordError, match=f"fingerprint '{record.fingerprint}', expected"):
        load_run_record(run)


def test_fingerprint_is_blind_to_order_and_nothing_else() -> None:
    fingerprint = compute_fingerprint({"a": 1, "b": {"c": (1, 2), "d": "é"}})
    assert fingerprint == compute_fingerprint({"b": {"d": "é", "c": [1, 2]}, "a": 1})
    assert fingerprint == "b6d26458a69195a3"
    assert fingerprint != compute_fingerprint({"a": 1, "b": {"c": [2, 1], "d": "é"}})
    for value, error in ((object(), TypeError), (math.nan, ValueError)):
        with pytest.raises(error):
            compute_fingerprint({"a": value})


def test_another_configuration_is_refused_with_the_difference(record: RunRecord) -> None:
    refuse_other_config(record, replace(record, config={"lanes": 8}, manifest="more.csv"))
    identity = {"synthesis": {"spectrum": "gray", "levels": [64, 128], "step": 1.0}}
    with pytest.raises(RunMismatchError) as error:
        refuse_other_config(record, replace(record, identity=identity))
    assert str(error.value).splitlines()[1:4] == [
        '  synthesis.spectrum: "colour" -> "gray"',
        "  size: 128 -> (absent)",
        "  synthesis.step: (absent) -> 1.0",
    ]


def pending_tasks(tasks: pa.Table, committed: pa.Table, retry: Collection[str] = ()) -> pa.Table:
    return find_pending(tasks["task_id"], committed, retry).select(stream_table(tasks)).read()


def test_what_is_committed_is_not_done_again() -> None:
    committed = committed_of(("a", "ok", 1), ("b", "failed", 3), ("gone", "ok", 1))
    pending = pending_tasks(tasks_of("c", "b", "a", "d"), committed)
    assert pending.drop_columns(["seed"]).to_pylist() == [
        {"task_id": "c", "attempts": 0},
        {"task_id": "d", "attempts": 0},
    ]
    assert pending.schema.field("attempts").type == pa.int32()


def test_retry_counts_on_from_the_row() -> None:
    committed = committed_of(("a", "ok", 1), ("b", "failed", 3), ("c", "timeout", 1))
    pending = pending_tasks(tasks_of("a", "b", "c", "d"), committed, retry=["failed"])
    assert pending.drop_columns(["seed"]).to_pylist() == [
        {"task_id": "b", "attempts": 3},
        {"task_id": "d", "attempts": 0},
    ]


def test_flagged_textures_are_done_again_under_another_seed() -> None:
    columns: dict[str, list[Any]] = {
        "task_id": ["good", "copy", "high", "null", "late", "gone"],
        "status": ["ok", "ok", "ok", "ok", "timeout", "failed"],
        "attempts": [1, 1, 2, 1, 1, 1],
        "seed": [0, 1, 2, 3, 4, 77],
        "accepted": [True, False, False, None, False, False],
    }
    committed = pa.table(columns)
    tasks = pa.table({"task_id": columns["task_id"], "seed": range(6)})
    assert len(pending_tasks(tasks, committed)) == 0
    again = pending_tasks(tasks, committed, ["flagged", "failed"])
    assert again["task_id"].to_pylist() == ["copy", "high", "gone"]
    assert again["attempts"].to_pylist() == [1, 2, 1]
    seeds = again["seed"].to_pylist()
    assert seeds[2] == 77
    assert len({*seeds, 1, 2}) == 5
    assert again.equals(pending_tasks(tasks, committed, ["failed", "flagged"]))


def test_tasks_that_are_not_distinct_are_refused() -> None:
    with pytest.raises(ValueError, match=r"named twice: \['a'\]"):
        pending_tasks(tasks_of("a", "b", "a"), committed_of())
    with pytest.raises(ValueError, match="1 without an id"):
        pending_tasks(tasks_of("a", None), committed_of())
    with pytest.raises(ValueError, match=r"retry: got \['broken'\], expected some of ok, failed"):
        pending_tasks(tasks_of("a"), committed_of(), retry=["broken"])


ids = st.text("abcé", max_size=2)
rows = st.dictionaries(ids, st.tuples(st.sampled_from(STATUSES), st.integers(0, 5)))


@given(st.lists(ids, unique=True), rows, st.sets(st.sampled_from(STATUSES)))
def test_anti_join_against_dictionaries(
    task_ids: list[str], committed: dict[str, tuple[str, int]], retry: set[str]
) -> None:
    expected = []
    for task_id in task_ids:
        status, attempts = committed.get(task_id, (None, 0))
        if status is None or status in retry:
            expected.append({"task_id": task_id, "attempts": attempts})
    table = committed_of(*((task_id, *row) for task_id, row in committed.items()))
    pending = pending_tasks(tasks_of(*task_ids), table, retry)
    assert pending.drop_columns(["seed"]).to_pylist() == expected


def test_killed_and_started_again_nothing_is_lost_or_done_twice(
    run: RunDirectory, make_table: Callable[..., pa.Table]
) -> None:
    tasks = tasks_of(*(f"t{number}" for number in range(6)))

    def left(**values: Any) -> list[tuple[str, int]]:
        table, _ = read_committed(run, KEYS)
        write_pending(run, pending_tasks(tasks, table, **values))
        pending = pq.read_table(run.pending).to_pylist()
        return [(row["task_id"], row["attempts"]) for row in pending]

    assert left() == [(f"t{number}", 0) for number in range(6)]
    commit_rows(run, make_table(["t0", "t3"]))
    commit_rows(run, make_table(["t1"], status="failed"))
    assert left() == [("t2", 0), ("t4", 0), ("t5", 0)]
    commit_rows(run, make_table(["t2", "t4", "t5"]))
    finalize(run, tasks["task_id"])
    assert run.success.exists()
    assert left() == []
    assert run.success.exists()
    assert left(retry=["failed"]) == [("t1", 1)]
    assert not run.success.exists()
    commit_rows(run, make_table(["t1"], attempts=2))
    assert finalize(run, tasks["task_id"]).rows == 6
    assert left(retry=["failed"]) == []


sessions = st.lists(
    st.tuples(
        st.integers(1, 8),
        st.sets(st.sampled_from(STATUSES)),
        st.lists(st.sampled_from(STATUSES), max_size=8),
        st.booleans(),
    ),
    max_size=5,
)


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(sessions=sessions)
def test_sessions_cut_short_against_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory,
    make_row: Callable[..., dict[str, Any]],
    sessions: list[tuple[int, set[str], list[str], bool]],
) -> None:
    """A session has so many tasks, does some again, ends the first ones so, and may finalize."""
    run = RunDirectory(tmp_path_factory.mktemp("run"))
    run.create()
    model: dict[str, tuple[str, int]] = {}
    for count, retry, ends, finalizes in sessions:
        tasks = tasks_of(*(f"t{number}" for number in range(count)))
        committed, _ = read_committed(run)
        pending = pending_tasks(tasks, committed, retry).to_pylist()
        ids = tasks["task_id"].to_pylist()
        left = [task for task in ids if task not in model or model[task][0] in retry]
        assert [(row["task_id"], row["attempts"]) for row in pending] == [
            (task, model.get(task, ("", 0))[1]) for task in left
        ]
        ended = {
            row["task_id"]: (status, row["attempts"] + 1)
            for row, status in zip(pending, ends, strict=False)
        }
        rows = [make_row(task, status=s, attempts=n) for task, (s, n) in ended.items()]
        if rows:
            commit_rows(run, rows_to_table(rows, row_schema()))
        model |= ended
        if finalizes:
            finalize(run, tasks["task_id"])
            assert run.success.exists() == all(task in model for task in ids)
    table, _ = read_committed(run, ["task_id", "status", "attempts"])
    found = {row["task_id"]: (row["status"], row["attempts"]) for row in table.to_pylist()}
    assert found == model
