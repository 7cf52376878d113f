from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import ray

from pipeline import job
from pipeline.actor import SynthesisActor
from pipeline.capacity import estimate_actor_bytes
from pipeline.config import RunConfig
from pipeline.rundir import RunDirectory
from texsynth import ConfigError

RUN = [sys.executable, "-c", "from pipeline.cli import main; main()", "run"]
VARIATIONS = 4


def test_killed_under_ray_and_run_again_nothing_is_lost_and_nothing_twice(
    make_manifest: Callable[..., Path], weights_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a run"
    manifest = make_manifest(["a", "b", "c"], broken=["c"])
    options = f"--variations {VARIATIONS} --lanes 1 --flush-seconds 0.1 --size 32 --evaluations 40"
    command = [*RUN, str(manifest), "--out", str(out), "--weights", str(weights_file)]
    command += options.split()
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not list((out / "shards").glob("part-*.parquet")) and first.poll() is None:
            time.sleep(0.02)
    finally:
        first.kill()
    assert first.wait() == -9
    kept = pd.read_parquet(list((out / "shards").glob("part-*.parquet"))).set_index("task_id")
    second = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert second.returncode == 3, second.stderr
    assert "8 ok" in second.stdout
    assert "4 failed" in second.stdout
    frame = pd.read_parquet(out / "textures").set_index("task_id")
    assert frame.index.is_unique
    assert len(frame) == 3 * VARIATIONS
    assert (frame["finished_at"][kept.index] == kept["finished_at"]).all()
    assert (frame.loc[frame["exemplar_id"] == "c", "error_type"] == "ImageError").all()
    assert (out / "_SUCCESS").exists()
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    last = next(n for n, line in reversed([*enumerate(lines)]) if line["event"] == "session_begun")
    blocks = [line for line in lines[last:] if line["event"] == "block"]
    # The actor that was left alone may have committed some more before it ended.
    assert 0 < sum(block["tasks"] for block in blocks) <= len(frame) - len(kept)
    assert all(0 <= block["synthesis_seconds"] < block["seconds"] for block in blocks)


@pytest.mark.parametrize(
    ("values", "nodes", "gpus", "expected"),
    [
        ({}, [2.0], 0, (2, {"num_cpus": 0.5})),
        ({}, [16.0], 0, (16, {"num_cpus": 0.9375})),
        ({"actors": 1}, [2.0], 0, (1, {"num_cpus": 1})),
        ({"actors": 1}, [16.0], 0, (1, {"num_cpus": 15})),
        ({"actors": 2}, [2.0], 0, (2, {"num_cpus": 0.5})),
        ({"actors": 20}, [2.0], 0, (20, {"num_cpus": 0.05})),
        ({}, [1.0], 0, (1, {"num_cpus": 0.25})),
        ({"address": "auto", "actors": 2}, [8.0, 4.0, 0.0], 0, (2, {"num_cpus": 3})),
        ({}, [16.0], 2, (2, {"num_gpus": 1})),
        ({"device": "cpu"}, [16.0], 2, (16, {"num_cpus": 0.9375})),
        ({"device": "cuda", "address": "auto"}, [4.0], 0, (1, {"num_gpus": 1})),
        ({"actors": 4, "address": "auto"}, [4.0], 1, (4, {"num_gpus": 1})),
    ],
)
def test_actors_always_leave_room_for_what_feeds_them(
    monkeypatch: pytest.MonkeyPatch,
    values: dict[str, Any],
    nodes: list[float],
    gpus: int,
    expected: tuple[int, dict[str, float]],
) -> None:
    resources_of = [{"CPU": cpus, "memory": 2.0**36} if cpus else {} for cpus in nodes]
    as_ray = [{"Alive": True, "Resources": resources} for resources in resources_of]
    monkeypatch.setattr(job.ray, "nodes", lambda: as_ray)
    total = {"CPU": sum(nodes)} | ({"GPU": float(gpus)} if gpus else {})
    monkeypatch.setattr(job.ray, "cluster_resources", lambda: total)
    config = RunConfig(**values)
    actors, resources = expected
    if "num_cpus" in resources and config.actors is None:
        # Where the number is ours, so is the memory that each gets.
        resources = resources | {"memory": estimate_actor_bytes(config)}
    assert job._plan_actors(config) == (actors, resources)
    if "num_cpus" in resources:
        assert actors * resources["num_cpus"] + job.PREPARE_CPUS <= sum(nodes)


def test_a_small_node_gets_no_more_actors_than_it_has_cores_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = [{"CPU": 64.0, "memory": 2.0**38}, {"CPU": 4.0, "memory": 2.0**33}]
    as_ray = [{"Alive": True, "Resources": resources} for resources in nodes]
    monkeypatch.setattr(job.ray, "nodes", lambda: as_ray)
    monkeypatch.setattr(job.ray, "cluster_resources", lambda: {"CPU": 68.0})
    actors, resources = job._plan_actors(RunConfig(address="auto", size=128))
    assert actors == 68
    for node in nodes:
        fitting = min(node["CPU"] // resources["num_cpus"], node["memory"] // resources["memory"])
        assert fitting >= node["CPU"]
        assert fitting * resources["memory"] <= node["memory"]


def test_more_actors_than_local_gpus_would_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job.ray, "cluster_resources", lambda: {"CPU": 4.0, "GPU": 1.0})
    with pytest.raises(ConfigError, match="actors is 2, expected at most 1"):
        job._plan_actors(RunConfig(actors=2))


def test_a_cluster_without_workers_yet_needs_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    head = [{"Alive": True, "Resources": {"CPU": 0.0, "memory": 1.0}}]
    monkeypatch.setattr(job.ray, "nodes", lambda: head)
    monkeypatch.setattr(job.ray, "cluster_resources", lambda: {"memory": 1.0})
    with pytest.raises(ConfigError, match="device is None and no node has CPUs or GPUs yet"):
        job._plan_actors(RunConfig(address="auto", actors=8))
    on_gpus = RunConfig(address="auto", actors=8, device="cuda")
    assert job._plan_actors(on_gpus) == (8, {"num_gpus": 1})


TRACE = 'ray::MapWorker()\n  File "x.py", line 1, in f\n    raise error\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"an actor died in its creation\n{TRACE}WeightsError: no file", "WeightsError: no file"),
        ("The node is gone.\n", "RayError: The node is gone."),
        ("", "RayError: RayError('')"),
        (
            f"{TRACE}KeyError: 'a'\n\n{job.CHAINED}\n\n{TRACE}OSError: [Errno 28] full: 'b c'\n\n"
            f"{job.CHAINED}\n\n{TRACE}ray.exceptions.UserCodeException: failed.\nTo change: retry.",
            "OSError: [Errno 28] full: 'b c'",
        ),
    ],
)
def test_what_a_worker_raised_is_said_in_one_line(text: str, expected: str) -> None:
    assert job._innermost(ray.exceptions.RayError(text)) == expected


@pytest.mark.parametrize(
    ("lanes", "size", "pending", "actors", "gpu", "expected"),
    [
        (8, 256, 6400, 1, False, 64),
        ("auto", 256, 320, 1, False, 32),
        ("auto", 128, 5120, 1, True, 512),
        ("auto", 256, 5115, 1, True, 341),
        ("auto", 1024, 6400, 1, True, 64),
        (8, 256, 20, 4, True, 5),
        (8, 256, 3, 4, True, 1),
        (4, 64, 40, 2, False, 20),
        (4, 64, 80, 2, False, 20),
        (4, 64, 1, 1, False, 1),
    ],
)
def test_blocks_are_some_lane_fulls_and_as_many_for_every_actor(
    lanes: Any, size: int, pending: int, actors: int, gpu: bool, expected: int
) -> None:
    config = RunConfig(lanes=lanes, size=size)
    assert job._rows_per_block(config, pending, actors, gpu=gpu) == expected


@pytest.mark.parametrize(("address", "bounded"), [(None, True), ("auto", False)])
def test_threads_of_a_local_ray_are_kept_from_spinning(
    monkeypatch: pytest.MonkeyPatch, address: str | None, bounded: bool
) -> None:
    calls: list[None] = []
    monkeypatch.setattr(job.os, "environ", {})
    monkeypatch.setattr(job.ray, "init", lambda **options: None)
    monkeypatch.setattr(job, "bound_spinning", lambda: calls.append(None))
    job._start_ray(address)
    assert bool(calls) == bounded


def test_rows_are_counted_for_prometheus(
    monkeypatch: pytest.MonkeyPatch,
    make_actor: Callable[[RunConfig], SynthesisActor],
    quick_config: Callable[..., RunConfig],
    run: RunDirectory,
) -> None:
    seen: list[tuple[Any, ...]] = []

    class Meter:
        def __init__(self, name: str, *arguments: Any, **more: Any) -> None:
            self.name = name

        def inc(self, value: float, tags: dict[str, str] | None = None) -> None:
            seen.append((self.name, value, tags))

        observe = inc

    monkeypatch.setattr(job, "Counter", Meter)
    monkeypatch.setattr(job, "Histogram", Meter)
    make_actor(quick_config())
    actor = job.MeteredActor(str(run.path))
    actor.row_ended({"status": "ok", "seconds": 2.5, "evaluations": 40.0})
    actor.row_ended({"status": "failed", "seconds": None, "evaluations": None})
    actor.block_ended({"tasks": 1, "synthesis_seconds": 2.0})
    actor.block_ended({"tasks": 1, "synthesis_seconds": 0.0})
    actor.close()
    assert not run.log.exists()
    assert seen == [
        ("texsynth_tasks", 1, {"status": "ok"}),
        ("texsynth_task_seconds", 2.5, {"status": "ok"}),
        ("texsynth_evaluations", 40.0, None),
        ("texsynth_tasks", 1, {"status": "failed"}),
        ("texsynth_synthesis_seconds", 2.0, None),
    ]
