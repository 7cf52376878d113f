"""What an actor does when tasks fail, time runs out, memory runs out, or its process has died."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import pipeline.actor
import pipeline.lane_work
from pipeline.actor import ActorStartError, SynthesisActor
from pipeline.attempts import AttemptFile, keep_earlier_attempts, load_attempts
from pipeline.config import RunConfig
from pipeline.lane_checkpoints import checkpoint_path, load_checkpoint
from pipeline.lane_work import DeviceLostError
from pipeline.rundir import RunDirectory
from pipeline.session import hold_run, request_stop
from pipeline.tail import begin_block
from texsynth import Synthesis
from texsynth.sensitivity import PROBE_COST

MakeActor = Callable[[RunConfig], SynthesisActor]
MakeConfig = Callable[..., RunConfig]
MakeManifest = Callable[..., Path]
PreparedBlock = Callable[[Path, RunConfig], pa.Table]
Rows = dict[str, dict[str, Any]]

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.faults]


def rows_of(run: RunDirectory) -> Rows:
    return {row["task_id"]: row for row in pq.read_table(run.shards).to_pylist()}


@pytest.fixture
def recorded_lanes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(tasks, lanes) of every synthesis that is begun."""
    original, calls = pipeline.lane_work.prepare_synthesis, []

    def prepare(exemplars: Any, seeds: Any, *rest: Any, lanes: int, **more: Any) -> Any:
        calls.append((len(seeds), lanes))
        return original(exemplars, seeds, *rest, lanes=lanes, **more)

    monkeypatch.setattr(pipeline.lane_work, "prepare_synthesis", prepare)
    return calls


@pytest.fixture
def broken_advance(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes `advance` raise while a condition on the work holds."""
    original = Synthesis.advance

    def install(condition: Callable[[Synthesis], bool], error: BaseException) -> None:
        def advance(work: Synthesis, *rest: Any) -> list[Any]:
            if condition(work):
                raise error
            return original(work, *rest)

        monkeypatch.setattr(Synthesis, "advance", advance)

    return install


@pytest.mark.parametrize("error", [MemoryError("full"), torch.OutOfMemoryError("CUDA: full")])
def test_out_of_memory_halves_the_lanes_and_keeps_them_halved(
    run: RunDirectory,
    make_actor: MakeActor,
    make_manifest: MakeManifest,
    quick_config: MakeConfig,
    prepared_block: PreparedBlock,
    recorded_lanes: list[tuple[int, int]],
    broken_advance: Callable[..., None],
    error: BaseException,
) -> None:
    config = quick_config(lanes=4)
    broken_advance(lambda work: work._lanes > 1, error)
    block = prepared_block(make_manifest("abcde"), config)
    actor = make_actor(config)
    actor(block.slice(0, 4))
    actor(block.slice(4))
    assert {row["status"] for row in rows_of(run).values()} == {"ok"}
    assert recorded_lanes == [(4, 4), (4, 2), (4, 1), (1, 1)]


def test_a_task_for_which_there_is_never_memory_is_tried_once_more_and_fails(
    run: RunDirectory,
    make_actor: MakeActor,
    make_manifest: MakeManifest,
    quick_config: MakeConfig,
    prepared_block: PreparedBlock,
    recorded_lanes: list[tuple[int, int]],
    broken_advance: Callable[..., None],
) -> None:
    config = quick_config(lanes=1)
    failures = []

    def first_task(work: Synthesis) -> bool:
        failures.append((work.beginning == [0] and not failures) or len(recorded_lanes) == 2)
        return failures[-1]

    broken_advance(first_task, torch.OutOfMemoryError("CUDA: full"))
    make_actor(config)(prepared_block(make_manifest("ab"), config))
    rows = rows_of(run)
    assert [rows[f"{name}-c0-v0"]["status"] for name in "ab"] == ["failed", "ok"]
    assert rows["a-c0-v0"]["error_type"] == "OutOfMemoryError"
    assert "after OutOfMemoryError beside other tasks" in rows["a-c0-v0"]["error"]
    assert recorded_lanes == [(2, 1), (1, 1), (1, 1)]


def test_an_error_blames_those_at_work_and_the_others_keep_their_lanes(
    run: RunDirectory,
    make_actor: MakeActor,
    make_manifest: MakeManifest,
    quick_config: MakeConfig,
    prepared_block: PreparedBlock,
    recorded_lanes: list[tuple[int, int]],
    broken_advance: Callable[..., None],
) -> None:
    config = quick_config(lanes=2)
    broken_advance(lambda work: len(recorded_lanes) == 1, ZeroDivisionError("a defect"))
    make_actor(config)(prepared_block(make_manifest("abcde"), config))
    assert {row["status"] for row in rows_of(run).values()} == {"ok"}
    assert recorded_lanes == [(5, 2), (1, 1), (1, 1), (3, 2)]


def test_a_task_past_its_time_keeps_its_best_image(
    run: RunDirectory,
    make_actor: MakeActor,
    make_manifest: MakeManifest,
    quick_config: MakeConfig,
    prepared_block: PreparedBlock,
) -> None:
    config = quick_config(task_timeout=1e-6, evaluations=500)
    make_actor(config)(prepared_block(make_manifest("a"), config))
    row = rows_of(run)["a-c0-v0"]
    assert (row["status"], row["stop_reason"], row["error"]) == ("timeout", "time_limit", None)
    assert row["evaluations"] < 500
    assert math.isfinite(row["delivered_loss"])
    assert row["image"]["bytes"].startswith(b"\x89PNG")


def died_before(run: RunDirectory, *numbers: dict[str, int]) -> None:
    """Leave what actors leave whose processes died, as the driver of the next session does."""
    for number in numbers:
        AttemptFile(run, None).begin(number)
    keep_earlier_attempts(run, {})


@pytest.mark.parametrize("begun", [False, True])
def test_a_death_of_this_session_is_seen_by_who_gets_its_block_again(
    run: RunDirectory,
    make_actor: MakeActor,
    make_manifest: MakeManifest,
    quick_config: MakeConfig,
    prepared_block: PreparedBlock,
    *,
    begun: bool,
) -> None:
    config = quick_config(max_attempts=1)
    block = prepared_block(make_manifest("ab"), config)
    AttemptFile(run, None).begin({"b-c0-v0": 1})
    if begun:
        begin_block(run, block.to_pylist())
    summary = make_actor(config)(block)
    statuses = dict(zip(summary["task_id"].to_pylist(), summary["status"].to_pylist(), strict=True))
    # Nobody can have died in a block that nobody has begun.
    assert statuses == {"a-c0-v0": "ok", "b-c0-v0": "quarantined" if begun else "ok"}


def test_suspects_are_tried_in_smaller_groups_the_last_time_alone_and_then_no_more(
    run: RunDirectory,
    make_actor: MakeActor,
    make_manifest: MakeManifest,
    quick_config: MakeConfig,
    prepared_block: PreparedBlock,
    recorded_lanes: list[tuple[int, int]],
) -> None:
    config = quick_config(lanes=4)
    names = "abcdefghij"
    once, twice, thrice = ([f"{name}-c0-v0" for name in part] for part in ("abcd", "ef", "g"))
    died_before(run, dict.fromkeys(once, 1), dict.fromkeys(twice, 1), dict.fromkeys(twice, 2))
    died_before(run, dict.fromkeys(thrice, 3))
    summary = make_actor(config)(prepared_block(make_manifest(names), config))
    assert len(summary) == len(names)
    assert recorded_lanes == [(3, 4), (2, 2), (2, 2), (1, 1), (1, 1)]
    rows = rows_of(run)
    assert {task: row["attempts"] for task, row in rows.items()} == {
        **dict.fromkeys((f"{name}-c0-v0" for name in "hij"), 1),
        **dict.fromkeys(once, 2),
        **dict.fromkeys([*twice, *thrice], 3),
    }
    quarantined = rows.pop("g-c0-v0")
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert (quarantined["status"], quarantined["error_type"]) == (
        "quarantined",
        "ProcessDeathError",
    )
    assert "died 3 times while" in quarantined["error"]


def test_attempts_are_counted_before_work_and_forgotten_with_the_row(
    run: RunDirectory,
    make_actor: MakeActor,
    make_manifest: MakeManifest,
    quick_config: MakeConfig,
    prepared_block: PreparedBlock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = quick_config(lanes=2, flush_seconds=60.0)
    original, seen = Synthesis.advance, []

    def advance(work: Synthesis, *rest: Any) -> list[Any]:
        attempts, problems = load_attempts(run)
        assert not problems
        seen.append({task: attempt.number for task, attempt in attempts.items()})
        return original(work, *rest)

    monkeypatch.setattr(Synthesis, "advance", advance)
    make_actor(config)(prepared_block(make_manifest("abc"), config))
    first = {"a-c0-v0": 1, "b-c0-v0": 1}
    assert seen[0] == first
    assert seen[-1] == first | {"c-c0-v0": 1}
    assert load_attempts(run)[0] == {}
    assert not list(run.attempts.glob("*.json"))


def test_a_block_that_ends_in_an_error_counts_as_no_death(
    run: RunDirectory,
    make_actor: MakeActor,
    make_manifest: MakeManifest,
    quick_config: MakeConfig,
    prepared_block: PreparedBlock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_space(*arguments: Any) -> Any:
        raise OSError(28, "No space left on device")

    config = quick_config()
    actor = make_actor(config)
    block = prepared_block(make_manifest("ab"), config)
    monkeypatch.setattr("pipeline.shards.commit_rows", no_space)
    with pytest.raises(OSError, match="No space left"):
        actor(block)
    assert not list(run.attempts.glob("*.json"))
    monkeypatch.undo()
    actor._writer.flush()
    assert {row["attempts"] for row in rows_of(run).values()} == {1}


def test_a_stopped_session_leaves_checkpoints_from_which_the_next_goes_on(
    run: RunDirectory,
    make_actor: MakeActor,
    make_manifest: MakeManifest,
    quick_config: MakeConfig,
    prepared_block: PreparedBlock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.session.POLL_SECONDS", 0.0)
    config = quick_config(lanes=1, evaluations=60)
    block = prepared_block(make_manifest("abc"), config)
    original, calls = Synthesis.advance, []
    with hold_run(run) as session:
        actor = make_actor(config)

        def advance(work: Synthesis, *rest: Any) -> list[Any]:
            calls.append(work)
            if len(calls) == 11:
                request_stop(run, session)
            return original(work, *rest)

        monkeypatch.setattr(Synthesis, "advance", advance)
        assert actor(block)["task_id"].to_pylist() == ["a-c0-v0"]
        assert len(actor(block)) == 0
        assert not list(run.attempts.glob("*.json"))
    monkeypatch.setattr(Synthesis, "advance", original)
    saved = load_checkpoint(run, block.to_pylist()[1], [(32, 32)])
    assert saved is not None
    assert 0 < saved.spent < 60
    with hold_run(run):
        assert make_actor(config)(block)["task_id"].to_pylist() == ["b-c0-v0", "c-c0-v0"]
    rows = rows_of(run)
    assert rows["a-c0-v0"]["resumed_at"] == rows["c-c0-v0"]["resumed_at"] == []
    resumed = rows["b-c0-v0"]
    assert resumed["resumed_at"] == [saved.spent]
    assert (resumed["attempts"], resumed["evaluations"]) == (1, 60)
    spent = [point["evaluations"] for point in resumed["loss_curve"]]
    assert spent[0] == PROBE_COST + 1
    assert spent == sorted(spent)
    assert min(spent) < saved.spent < max(spent)
    assert not list(run.checkpoints.iterdir())


def test_lanes_are_checkpointed_as_they_go(
    run: RunDirectory,
    make_actor: MakeActor,
    make_manifest: MakeManifest,
    quick_config: MakeConfig,
    prepared_block: PreparedBlock,
    broken_advance: Callable[..., None],
) -> None:
    """As by a kill: no word of farewell is left."""

    class KilledError(BaseException):
        pass

    config = quick_config(evaluations=60, lane_checkpoint_seconds=1e-6)
    block = prepared_block(make_manifest("a"), config)
    actor = make_actor(config)
    broken_advance(lambda work: bool(work.progress()[:1]) and spent_of(work) >= 30, KilledError())
    with pytest.raises(KilledError):
        actor(block)
    saved = load_checkpoint(run, block.to_pylist()[0], [(32, 32)])
    assert saved is not None
    assert saved.spent >= 30


def spent_of(work: Synthesis) -> float:
    return work.progress()[0].point.evaluations


@pytest.mark.parametrize("damage", ["truncated", "foreign", "other level"])
def test_a_checkpoint_that_is_not_understood_is_passed_over(
    run: RunDirectory,
    make_actor: MakeActor,
    make_manifest: MakeManifest,
    quick_config: MakeConfig,
    prepared_block: PreparedBlock,
    monkeypatch: pytest.MonkeyPatch,
    damage: str,
) -> None:
    config = quick_config(evaluations=30, lane_checkpoint_seconds=1e-6)
    block = prepared_block(make_manifest("a"), config)
    monkeypatch.setattr(pipeline.actor, "remove_checkpoint", lambda run, task_id: None)
    make_actor(config)(block)
    path = checkpoint_path(run, "a-c0-v0")
    data = path.read_bytes()
    changed = {"truncated": data[:-50], "foreign": b"no tensors"}
    changed["other level"] = data.replace(b'\\"level\\": 0', b'\\"level\\": 7')
    assert changed[damage] != data
    path.write_bytes(changed[damage])
    for shard in run.shards.iterdir():
        shard.unlink()
    make_actor(config)(block)
    row = rows_of(run)["a-c0-v0"]
    assert (row["status"], row["resumed_at"]) == ("ok", [])


class Answers:
    """A device that answers, or does not."""

    def __init__(self, alive: bool) -> None:
        self.alive = alive

    def ones(self, *arguments: Any, **more: Any) -> torch.Tensor:
        if not self.alive:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return torch.zeros(1)


@pytest.mark.parametrize("alive", [True, False])
def test_a_device_that_is_lost_ends_the_process_instead_of_failing_all_tasks(
    run: RunDirectory,
    make_actor: MakeActor,
    make_manifest: MakeManifest,
    quick_config: MakeConfig,
    prepared_block: PreparedBlock,
    monkeypatch: pytest.MonkeyPatch,
    broken_advance: Callable[..., None],
    alive: bool,
) -> None:
    config = quick_config(lanes=2)
    block = prepared_block(make_manifest("abc"), config)
    actor = make_actor(config)
    advances = []

    def second(work: Synthesis) -> bool:
        advances.append(work)
        return len(advances) == 1

    broken_advance(second, RuntimeError("CUDA error: an illegal memory access was encountered"))
    monkeypatch.setattr(pipeline.lane_work, "is_on_gpu", lambda network: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(pipeline.lane_work.torch, "ones", Answers(alive).ones)
    if alive:
        assert set(actor(block)["status"].to_pylist()) == {"ok"}
        return
    with pytest.raises(DeviceLostError, match="no longer answers: CUDA error"):
        actor(block)
    assert not list(run.shards.iterdir())


def test_what_kills_the_process_before_work_is_an_attempt_too(
    run: RunDirectory,
    make_actor: MakeActor,
    make_manifest: MakeManifest,
    quick_config: MakeConfig,
    prepared_block: PreparedBlock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = quick_config(lanes=1)
    seen = []

    def load(run: RunDirectory, task: dict[str, Any], sizes: Any) -> None:
        seen.append({name: attempt.number for name, attempt in load_attempts(run)[0].items()})

    monkeypatch.setattr(pipeline.lane_work, "load_checkpoint", load)
    make_actor(config)(prepared_block(make_manifest("ab"), config))
    assert seen == [{"a-c0-v0": 1, "b-c0-v0": 1}] * 2


def test_a_row_that_does_not_fit_is_a_failed_row(
    run: RunDirectory,
    make_actor: MakeActor,
    make_manifest: MakeManifest,
    quick_config: MakeConfig,
    prepared_block: PreparedBlock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = quick_config()
    actor = make_actor(config)
    original = actor._maker.texture
    monkeypatch.setattr(actor._maker, "texture", lambda *a: original(*a) | {"height": "tall"})
    assert actor(prepared_block(make_manifest("a"), config))["status"].to_pylist() == ["failed"]
    row = rows_of(run)["a-c0-v0"]
    assert (row["status"], row["error_type"], row["image"]) == ("failed", "SchemaError", None)
    assert "Traceback" in row["error"]


def test_actors_that_die_before_they_are_ready_are_not_started_for_ever(
    run: RunDirectory, make_actor: MakeActor, quick_config: MakeConfig
) -> None:
    config = quick_config()
    make_actor(config).close()
    for _ in range(3):
        mark = AttemptFile(run, None)
        values = json.loads(mark._path.read_bytes())
        # No process has this number.
        mark._path.write_text(json.dumps(values | {"pid": 2**22 + 1}))
    with pytest.raises(ActorStartError, match="3 actors died on this machine before they were"):
        make_actor(config)
