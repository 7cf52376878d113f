"""A texture that is not accepted is tried again: nothing is lost, the best is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

import pipeline.committed
from pipeline.actor import SynthesisActor
from pipeline.attempts import AttemptFile
from pipeline.committed import read_committed
from pipeline.config import RunConfig
from pipeline.finalize import finalize
from pipeline.replay import load_row, replay_row
from pipeline.run import retry_run, run_manifest
from pipeline.rundir import RunDirectory
from pipeline.schema import row_schema
from pipeline.shards import commit_rows
from pipeline.tasks import task_seed
from pipeline.tries import Tries, is_other_try, keep_better
from pipeline.verify import verify_run

MakeManifest = Callable[..., Path]
MakeConfig = Callable[..., RunConfig]
Row = dict[str, Any]
NEVER = {"flag_rules": {"noisy": "task_id LIKE 'a%'"}}
"""Textures of the exemplar a are not accepted, whatever they are."""
TASK = "a-c0-v0"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def go(
    make_manifest: MakeManifest, quick_config: MakeConfig, tmp_path: Path
) -> Callable[..., dict[str, Row]]:
    """Runs a, b and c, of which c is broken; gives the rows by task."""
    manifest = make_manifest(["a", "b", "c"], broken=["c"])

    def run(**values: Any) -> dict[str, Row]:
        config = quick_config(**(NEVER | values))
        run_manifest(manifest, tmp_path / "run", config, Console(quiet=True))
        return rows_of(RunDirectory(tmp_path / "run"))

    return run


def rows_of(run: RunDirectory) -> dict[str, Row]:
    return {row["task_id"]: row for row in read_committed(run)[0].to_pylist()}


def assert_best_of(row: Row, count: int) -> None:
    """The row is that of its try with the lowest loss, and knows all of them."""
    tries = row["tries"]
    assert len({one["seed"] for one in tries}) == len(tries) == count
    best = min(tries, key=lambda one: one["delivered_loss"])
    for name in ("seed", "float_loss", "delivered_loss", "evaluations", "accepted"):
        assert row[name] == best[name]
    assert all((one["status"], one["faults"]) == ("ok", ["noisy"]) for one in tries)
    times = [one["finished_at"] for one in tries]
    assert times == sorted(times)
    assert row["finished_at"] == times[-1]


def test_a_rule_that_is_never_met_is_tried_so_often_and_the_lowest_loss_stays(
    go: Callable[..., dict[str, Row]], tmp_path: Path
) -> None:
    run = RunDirectory(tmp_path / "run")
    rows = go(retry_flagged=3, lanes=1)
    assert {task: row["attempts"] for task, row in rows.items()} == {
        TASK: 4,
        "b-c0-v0": 1,
        "c-c0-v0": 1,
    }
    assert_best_of(rows[TASK], 4)
    assert rows[TASK]["tries"][0]["seed"] == task_seed(0, TASK)
    assert rows["b-c0-v0"]["tries"] is rows["c-c0-v0"]["tries"] is None
    assert [check.problems for check in verify_run(run) if not check.ok] == []
    assert replay_row(run, load_row(run, TASK)).verdict == "identical"
    assert go(retry_flagged=3, lanes=1) == rows
    assert_best_of(go(retry_flagged=4)[TASK], 5)


def test_without_retries_nothing_changes_and_with_them_the_flagged_go_on(
    go: Callable[..., dict[str, Row]],
) -> None:
    first = go()
    assert all((row["attempts"], row["tries"]) == (1, None) for row in first.values())
    later = go(retry_flagged=2)
    assert_best_of(later[TASK], 3)
    assert later[TASK]["tries"][0]["finished_at"] == first[TASK]["finished_at"]
    assert {task: later[task] for task in ("b-c0-v0", "c-c0-v0")} == {
        task: first[task] for task in ("b-c0-v0", "c-c0-v0")
    }


def test_the_first_accepted_one_is_the_last(go: Callable[..., dict[str, Row]]) -> None:
    rule = f"seed = {task_seed(0, TASK)}"
    row = go(retry_flagged=5, flag_rules={"noisy": rule})[TASK]
    assert [one["accepted"] for one in row["tries"]] == [False, True]
    assert (row["seed"], row["accepted"]) == (row["tries"][1]["seed"], True)


def test_killed_between_two_tries_the_count_goes_on(
    go: Callable[..., dict[str, Row]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory(tmp_path / "run")

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Tries, "take_due", die)
        with pytest.raises(KeyboardInterrupt):
            go(retry_flagged=2)
    first = rows_of(run)[TASK]
    assert (first["attempts"], first["tries"]) == (1, None)
    row = go(retry_flagged=2)[TASK]
    assert_best_of(row, 3)
    assert row["tries"][0]["finished_at"] == first["finished_at"]


@pytest.mark.parametrize("quarantined", [False, True])
def test_a_death_in_a_try_costs_no_texture(
    go: Callable[..., dict[str, Row]], tmp_path: Path, *, quarantined: bool
) -> None:
    first = go()[TASK]
    AttemptFile(RunDirectory(tmp_path / "run"), "dead").begin({TASK: 2})
    row = go(retry_flagged=1, max_attempts=1 if quarantined else 3)[TASK]
    if quarantined:
        assert (row["status"], row["attempts"], row["seed"]) == ("ok", 2, first["seed"])
        assert [one["status"] for one in row["tries"]] == ["ok", "quarantined"]
        assert (row["tries"][1]["accepted"], row["tries"][1]["delivered_loss"]) == (False, None)
    else:
        assert row["attempts"] == 3
        assert_best_of(row, 2)


def test_retry_flagged_keeps_the_best_as_well(
    go: Callable[..., dict[str, Row]], tmp_path: Path
) -> None:
    run = RunDirectory(tmp_path / "run")
    go()
    for count in (2, 3):
        retry_run(run, ["flagged"], Console(quiet=True))
        assert_best_of(rows_of(run)[TASK], count)
    textures = pq.read_table(run.textures)
    assert textures.filter(pa.compute.equal(textures["task_id"], TASK)).num_rows == 1


def test_an_actor_that_takes_a_block_over_goes_on_with_its_tries(
    run: RunDirectory,
    make_actor: Callable[..., SynthesisActor],
    make_manifest: MakeManifest,
    quick_config: MakeConfig,
    prepared_block: Callable[[Path, RunConfig], pa.Table],
) -> None:
    config = quick_config(retry_flagged=2, **NEVER)
    block = prepared_block(make_manifest(["a", "b"]), config)
    make_actor(quick_config(**NEVER))(block)
    summary = make_actor(config)(block)
    assert summary["task_id"].to_pylist() == [TASK, TASK]
    assert_best_of(rows_of(run)[TASK], 3)


def test_a_retry_that_fails_costs_no_picture_whose_time_was_up(
    make_manifest: MakeManifest, quick_config: MakeConfig, tmp_path: Path
) -> None:
    run = RunDirectory(tmp_path / "run")
    config = quick_config(evaluations=500, task_timeout=1e-6, lanes=1)
    run_manifest(make_manifest(["a"]), run.path, config, Console(quiet=True))
    first = rows_of(run)[TASK]
    assert (first["status"], first["tries"]) == ("timeout", None)
    source = tmp_path / "images" / "a.png"
    whole = source.read_bytes()
    source.write_bytes(b"no image")
    retry_run(run, ["timeout"], Console(quiet=True))
    source.write_bytes(whole)
    row = rows_of(run)[TASK]
    assert (row["status"], row["attempts"], row["error"]) == ("timeout", 2, None)
    assert [one["status"] for one in row["tries"]] == ["timeout", "failed"]
    assert row["delivered_loss"] == first["delivered_loss"]
    assert [check.problems for check in verify_run(run) if not check.ok] == []
    assert replay_row(run, load_row(run, TASK)).verdict == "identical"


def test_an_actor_scans_the_run_once_for_all_its_retries(
    run: RunDirectory,
    make_actor: Callable[..., SynthesisActor],
    make_manifest: MakeManifest,
    quick_config: MakeConfig,
    prepared_block: Callable[[Path, RunConfig], pa.Table],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = quick_config()
    block = prepared_block(make_manifest(["a", "b", "c"]), config)
    made = make_actor(config)(block)
    place = block.schema.get_field_index("attempts")
    again = block.set_column(place, block.schema.field(place), pa.array([1, 1, 1], pa.int32()))
    seeds = block.schema.get_field_index("seed")
    again = again.set_column(seeds, block.schema.field(seeds), pa.array([7, 8, 9], pa.int64()))
    scans = []
    original = pipeline.committed.scan_committed
    monkeypatch.setattr(
        pipeline.committed, "scan_committed", lambda *args: scans.append(0) or original(*args)
    )
    actor = make_actor(config)
    for start in range(3):
        assert len(actor(again.slice(start, 1))) == 1
    assert len(scans) == 1
    rows = rows_of(run)
    assert made["task_id"].to_pylist() == list(rows)
    assert {(row["attempts"], len(row["tries"])) for row in rows.values()} == {(2, 2)}


def test_rows_that_have_moved_since_the_scan_are_found_again(
    run: RunDirectory, make_table: Callable[..., pa.Table], make_row: Callable[..., Row]
) -> None:
    commit_rows(run, make_table(["a", "b"]))
    tries = Tries(run, row_schema(), 0)
    first, second = ({"task_id": task_id, "attempts": 1} for task_id in "ab")
    tries.begin([first], [first])
    finalize(run, pa.array(["a", "b"]))
    assert not list(run.shards.iterdir())
    tries.begin([second], [second])
    kept = tries.keep(make_row("b", status="failed", attempts=2, seed=5))
    assert (kept["status"], len(kept["tries"])) == ("ok", 2)


def test_what_another_actor_has_made_since_the_scan_counts(
    run: RunDirectory, make_table: Callable[..., pa.Table]
) -> None:
    flat = {"exemplar_kind": "flat"}
    commit_rows(run, make_table(["a", "b"], **flat))
    tries = Tries(run, row_schema(), 3)
    first, second = ({"task_id": task_id, "attempts": 1} for task_id in "ab")
    tries.begin([first], [first])
    commit_rows(run, make_table(["b"], attempts=2, **flat))
    (task,) = tries.begin([second], [])
    assert (task["task_id"], task["attempts"]) == ("b", 2)


def row_like(**values: Any) -> Row:
    row = {"task_id": TASK, "seed": 1, "attempts": 1, "tries": None, "finished_at": None}
    row |= {"status": "ok", "accepted": False, "image": {}, "float_loss": 1.0, "evaluations": 1.0}
    faults = ("copy", "shifted_copy", "sibling_duplicate", "clipped", "noisy", "off_colour")
    row |= dict.fromkeys((*faults, "structure_lost", "not_a_texture"), False)
    return row | {"delivered_loss": 5.0} | values


NONE = {"image": None, "float_loss": None, "delivered_loss": None}


@pytest.mark.parametrize(
    ("made", "is_kept"),
    [
        ({"delivered_loss": 4.0}, True),
        ({"delivered_loss": 5.0}, False),
        ({"delivered_loss": 6.0}, False),
        ({"delivered_loss": 6.0, "accepted": True}, True),
        ({"delivered_loss": 4.0, "status": "timeout"}, False),
        ({"status": "failed", "accepted": None, **NONE}, False),
    ],
)
def test_what_is_better(made: Row, *, is_kept: bool) -> None:
    earlier, made = row_like(), row_like(seed=2, attempts=2, **made)
    kept = keep_better(earlier, made)
    assert (kept["seed"], kept["attempts"]) == (2 if is_kept else 1, 2)
    assert [one["seed"] for one in kept["tries"]] == [1, 2]


@pytest.mark.parametrize(
    ("earlier", "made", "expected"),
    [
        ({}, {"seed": 2}, True),
        ({}, {}, False),
        ({"status": "timeout"}, {}, False),
        ({"status": "timeout"}, {"status": "timeout"}, True),
        ({"status": "timeout"}, {"status": "quarantined", **NONE}, True),
        ({"status": "timeout", **NONE}, {"status": "failed", **NONE}, False),
        ({"status": "failed", **NONE}, {"status": "timeout", "seed": 2}, False),
    ],
)
def test_what_replaces_a_row_and_what_is_held_against_it(
    earlier: Row, made: Row, *, expected: bool
) -> None:
    assert is_other_try(row_like(**earlier), row_like(attempts=2, **made)) is expected
