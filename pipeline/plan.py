"""What a run would cost, before it begins: tasks, evaluations, memory, disk, hours.

The hours come from a calibration on this machine's device, with the lanes that a run would have, or
from what was measured on another one.
"""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from pipeline.calibration import LevelPlan, memory_bytes
from pipeline.capacity import count_cpu_actors
from pipeline.committed import read_committed
from pipeline.config import RunConfig
from pipeline.measured import MeasuredSpeed
from pipeline.pending import KEYS, find_pending
from pipeline.planned_device import estimate_memory, take_from, time_here
from pipeline.preflight import check_run
from pipeline.rundir import RunDirectory
from texsynth import TextureNetwork
from texsynth.config import ConfigError
from texsynth.memory import SHARE_OF_FREE_MEMORY
from texsynth.sensitivity import measuring_cost


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What a run would cost if no plateau ended a task before its budget; times are estimates.

    Args:
        exemplars, categories: of the manifest; `crops` per exemplar, `variations` and
            `blends` per crop.
        tasks, tasks_done, tasks_left: of the run; totals are of those left.
        evaluations_per_task, evaluations_total: in evaluations at full size.
        levels: from coarse to fine.
        device, device_name: where it was measured.
        actors: workers of the run, at most; `devices` is what they keep busy: GPUs, or one CPU
            machine.
        actors_at_least: of an elastic pool, which may have fewer; else as `actors`.
        lanes: of an actor; `lanes_measured` were busy in the calibration.
        lanes_that_fit: in SHARE_OF_FREE_MEMORY of the memory; 0 if not even one does, None if the
            memory is not known.
        history, history_that_fits: of L-BFGS, pairs: that of the run, and the longest up to that
            with which one lane fits; 0 if none does, None if the memory is not known.
        memory_bytes_per_lane: the network not counted.
        memory_bytes_of_device: free memory of a GPU; a CPU's physical memory, because most of what
            is not free there are cached files, which give way; None if not known.
        output_bytes_per_task, output_bytes_total: of the pixels; a PNG is hardly ever larger.
        device_s_per_full_size_evaluation: of one task, on a device with busy lanes.
        device_s_per_task, textures_per_device_hour: if a task spends its whole budget.
        device_hours_total, wall_hours: on one device, and on `devices` of them.
    """

    exemplars: int
    categories: int
    crops: int
    variations: int
    blends: int
    tasks: int
    tasks_done: int
    tasks_left: int
    evaluations_per_task: float
    evaluations_total: float
    levels: tuple[LevelPlan, ...]
    device: str
    device_name: str
    actors: int
    actors_at_least: int
    devices: int
    lanes: int
    lanes_measured: int
    lanes_that_fit: int | None
    history: int
    history_that_fits: int | None
    memory_bytes_per_lane: int
    memory_bytes_of_device: int | None
    output_bytes_per_task: int
    output_bytes_total: int
    device_s_per_full_size_evaluation: float
    device_s_per_task: float
    textures_per_device_hour: float
    device_hours_total: float
    wall_hours: float


def plan_run(
    manifest_path: Path,
    config: RunConfig,
    out: Path | None = None,
    *,
    elsewhere: MeasuredSpeed | None = None,
) -> RunPlan:
    """Count, look at the memory, and time a few evaluations; nothing is written.

    Args:
        manifest_path: CSV or Parquet, see `manifests/README.md`.
        config: resolved.
        out: run directory; its finished tasks cost nothing.
        elsewhere: of a device of the run; by default this machine's is timed.

    Raises:
        ManifestError, ConfigError, TapError, WeightsError: as a run raises them.
        RunDirectoryError, RunMismatchError: if `out` is not this run's.
    """
    device = _choose_device(config) if elsewhere is None else "cpu"
    run = None if out is None else RunDirectory(out)
    checked = check_run(manifest_path, config, run)
    tasks = checked.tasks.read(["task_id", "category"])
    left = len(tasks) if run is None else _count_left(run, tasks, config)
    counts = {
        "exemplars": len(tasks) // (config.crops * (config.variations + config.blends)),
        "categories": pc.count_distinct(tasks["category"]).as_py(),
        "crops": config.crops,
        "variations": config.variations,
        "blends": config.blends,
        "tasks": len(tasks),
        "tasks_done": len(tasks) - left,
        "tasks_left": left,
    }
    return _estimate(counts, config, checked.network.to(device), elsewhere)


def _choose_device(config: RunConfig) -> str:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device = config.device or ("cuda" if count else "cpu")
    if device != "cpu" and int(device.partition(":")[2] or 0) >= count:
        raise ConfigError(
            f"device is {device!r}, this machine has {count} CUDA devices; a plan is measured here"
        )
    return device


def _count_left(run: RunDirectory, tasks: pa.Table, config: RunConfig) -> int:
    """Tasks that a run would do."""
    committed, _ = read_committed(run, KEYS)
    ids, again = tasks["task_id"], config.retry_flagged
    return len(find_pending(ids, committed, config.retry, retry_flagged=again))


def _estimate(
    counts: dict[str, Any],
    config: RunConfig,
    network: TextureNetwork,
    elsewhere: MeasuredSpeed | None,
) -> RunPlan:
    """The plan for so many tasks."""
    synthesis = config.resolve_synthesis()
    size, left = config.texture_size, counts["tasks_left"]
    # A device that was measured elsewhere has an actor to itself, as a GPU has.
    counted_on = network.device if elsewhere is None else torch.device("cuda")
    actors, devices = _count_actors(config, counted_on)
    actors = min(max(1, actors), max(1, left))
    least, _ = config.actor_bounds or (actors, actors)
    devices = max(1, min(devices, actors))
    memory = estimate_memory(config, network, devices / actors, elsewhere)
    busy = max(1, math.ceil(left / actors))
    if elsewhere is None:
        speed = time_here(config, network, busy, sharing=actors // devices)
    else:
        speed = take_from(elsewhere, config, busy, memory["lanes_that_fit"])
    # Weights are measured at every level, in evaluations that no level has for its descent.
    more = measuring_cost(synthesis)
    seconds = sum(
        (level.evaluations_per_task + more) * level.device_s_per_evaluation
        for level in speed.levels
    )
    if synthesis.time_limit_s is not None:
        seconds = min(seconds, synthesis.time_limit_s * devices / (speed.lanes_measured * actors))
    return RunPlan(
        **counts,
        **memory,
        **dataclasses.asdict(speed) | {"levels": speed.levels},
        evaluations_per_task=synthesis.evaluations,
        evaluations_total=left * synthesis.evaluations,
        actors=actors,
        actors_at_least=min(least, actors),
        devices=devices,
        output_bytes_per_task=3 * math.prod(size),
        output_bytes_total=left * 3 * math.prod(size),
        device_s_per_full_size_evaluation=speed.levels[-1].device_s_per_evaluation,
        device_s_per_task=seconds,
        textures_per_device_hour=3600 / seconds,
        device_hours_total=left * seconds / 3600,
        wall_hours=left * seconds / 3600 / devices,
    )


def _count_actors(config: RunConfig, device: torch.device) -> tuple[int, int]:
    """Actors at most, and the devices that they keep busy: those on CPUs share one machine."""
    on_gpu = device.type == "cuda"
    if config.executor == "inline":
        return 1, 1
    _, most = config.actor_bounds or (0, 0)
    if on_gpu:
        actors = most or torch.cuda.device_count()
        return actors, actors
    node = (os.cpu_count() or 1, SHARE_OF_FREE_MEMORY * memory_bytes(device))
    return most or count_cpu_actors(config, [node]), 1
