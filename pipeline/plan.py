"""What a run would cost, before it begins: tasks, evaluations, memory, disk, hours.

The hours come from a calibration on this machine's device, with the lanes that a run would have.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import torch

from pipeline.calibration import LevelPlan, calibrate, memory_bytes
from pipeline.capacity import count_cpu_actors
from pipeline.committed import read_committed
from pipeline.config import RunConfig
from pipeline.pending import KEYS, find_pending
from pipeline.preflight import check_run
from pipeline.rundir import RunDirectory
from texsynth import TextureNetwork
from texsynth.config import ConfigError
from texsynth.levels import compute_levels
from texsynth.memory import SHARE_OF_FREE_MEMORY, choose_lanes, estimate_lane_bytes


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
        actors: workers of the run; `devices` is what they keep busy: GPUs, or one CPU machine.
        lanes: of an actor; `lanes_measured` were busy in the calibration.
        lanes_that_fit: in SHARE_OF_FREE_MEMORY of the memory; 0 if not even one does.
        memory_bytes_per_lane: the network not counted.
        memory_bytes_of_device: free memory of a GPU; a CPU's physical memory, because most of what
            is not free there are cached files, which give way.
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
    devices: int
    lanes: int
    lanes_measured: int
    lanes_that_fit: int
    memory_bytes_per_lane: int
    memory_bytes_of_device: int
    output_bytes_per_task: int
    output_bytes_total: int
    device_s_per_full_size_evaluation: float
    device_s_per_task: float
    textures_per_device_hour: float
    device_hours_total: float
    wall_hours: float


def plan_run(manifest_path: Path, config: RunConfig, out: Path | None = None) -> RunPlan:
    """Count, look at the memory, and time a few evaluations; nothing is written.

    Args:
        manifest_path: CSV or Parquet, see `manifests/README.md`.
        config: resolved.
        out: run directory; its finished tasks cost nothing.

    Raises:
        ManifestError, ConfigError, TapError, WeightsError: as a run raises them.
        RunDirectoryError, RunMismatchError: if `out` is not this run's.
    """
    device = _choose_device(config)
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
    return _estimate(counts, config, checked.network.to(device))


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


def _estimate(counts: dict[str, int], config: RunConfig, network: TextureNetwork) -> RunPlan:
    """The plan for so many tasks."""
    synthesis = config.resolve_synthesis()
    size, exemplar_size = config.texture_size, config.exemplar_size
    sizes = compute_levels(synthesis, *size, exemplar_size)
    left = counts["tasks_left"]
    actors, devices = _count_actors(config, network.device)
    actors = min(actors, max(1, left))
    devices = min(devices, actors)
    chosen = choose_lanes(network, synthesis, sizes, exemplar_size)
    lanes = chosen if config.lanes == "auto" else config.lanes
    memory = memory_bytes(network.device)
    lane = estimate_lane_bytes(network, synthesis, sizes, exemplar_size)
    # A GPU has one actor; actors on a CPU share its memory.
    fitting = int(SHARE_OF_FREE_MEMORY * memory * devices / actors) // lane
    measured = min(lanes, chosen, max(1, math.ceil(left / actors)))
    levels = calibrate(
        network, synthesis, measured, sizes, exemplar_size, sharing=actors // devices
    )
    seconds = sum(level.evaluations_per_task * level.device_s_per_evaluation for level in levels)
    if synthesis.time_limit_s is not None:
        seconds = min(seconds, synthesis.time_limit_s * devices / (measured * actors))
    on_gpu = network.device.type == "cuda"
    name = torch.cuda.get_device_name(network.device) if on_gpu else "cpu"
    return RunPlan(
        **counts,
        evaluations_per_task=synthesis.evaluations,
        evaluations_total=left * synthesis.evaluations,
        levels=levels,
        device=str(network.device),
        device_name=name if on_gpu else f"{name}, threads: {torch.get_num_threads()}",
        actors=actors,
        devices=devices,
        lanes=lanes,
        lanes_measured=measured,
        lanes_that_fit=fitting,
        memory_bytes_per_lane=lane,
        memory_bytes_of_device=memory,
        output_bytes_per_task=3 * math.prod(size),
        output_bytes_total=left * 3 * math.prod(size),
        device_s_per_full_size_evaluation=levels[-1].device_s_per_evaluation,
        device_s_per_task=seconds,
        textures_per_device_hour=3600 / seconds,
        device_hours_total=left * seconds / 3600,
        wall_hours=left * seconds / 3600 / devices,
    )


def _count_actors(config: RunConfig, device: torch.device) -> tuple[int, int]:
    """Actors, and the devices that they keep busy: actors on CPUs share the cores of a machine."""
    on_gpu = device.type == "cuda"
    if config.executor == "inline":
        return 1, 1
    if on_gpu:
        actors = config.actors or torch.cuda.device_count()
        return actors, actors
    node = (os.cpu_count() or 1, SHARE_OF_FREE_MEMORY * memory_bytes(device))
    return config.actors or count_cpu_actors(config, [node]), 1
