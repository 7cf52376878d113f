"""What a run would cost, before it begins: tasks, evaluations, memory, disk, hours.

The hours come from a calibration on this machine's device: a few evaluations of noise exemplars at
every level, by `texsynth.synthesize`, with the lanes that a run would have. What is neither an
evaluation nor an L-BFGS step is left out: decoding, start-up, and the measures of a finished
texture. So is what makes later evaluations dearer than the first ones: the full L-BFGS history.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import torch

from pipeline.committed import read_committed
from pipeline.config import RunConfig
from pipeline.manifest import load_manifest
from pipeline.prepare import PREPARED
from pipeline.resume import load_run_record, pending_tasks, refuse_other_config
from pipeline.run import KEYS
from pipeline.rundir import RunDirectory
from pipeline.schema import RESERVED_COLUMNS, row_schema
from pipeline.tasks import TASK_COLUMNS, expand_tasks
from texsynth import SynthesisConfig, TextureNetwork, load_network, synthesize
from texsynth.config import ConfigError
from texsynth.memory import SHARE_OF_FREE_MEMORY, choose_lanes, estimate_lane_bytes
from texsynth.synthesis import compute_levels, make_batches

CALIBRATION_S = 20.0
"""Time for all levels together, about: somebody waits for it."""
MEASURED_S = 1.0
MEASURED_EVALUATIONS = 20
"""A level is measured until it took that long, or had so many evaluations."""
SMALLEST_STAND_IN = 64
"""Side of the smallest image that is measured in a larger one's place, px: pool5 needs 32."""
NEXT_SIDE_COST = 16
"""Time that the next side takes, in evaluations at this one: four times the pixels, once to warm
up and once measured, each with its targets and the reference loss of one texture."""


@dataclass(frozen=True, kw_only=True)
class LevelPlan:
    """One level of every task.

    Args:
        side_px: of the images.
        evaluations_per_task: at most, at this side.
        device_s_per_evaluation: time of the device for one evaluation of one task.
        measured_at_px: the side that was timed; where it is smaller, the time was scaled by area.
    """

    side_px: int
    evaluations_per_task: int
    device_s_per_evaluation: float
    measured_at_px: int


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What a run would cost if no plateau ended a task before its budget; times are estimates.

    Args:
        exemplars, categories: of the manifest; `crops` per exemplar, `variations` per crop.
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
        RunMismatchError: if `out` belongs to another configuration.
    """
    device = _choose_device(config)
    reserved = RESERVED_COLUMNS.union(PREPARED.names)
    manifest = load_manifest(
        manifest_path,
        root=config.root,
        allow_outside_root=config.allow_outside_root,
        limit=config.limit,
        reserved=reserved,
    )
    tasks = expand_tasks(
        manifest.table, crops=config.crops, variations=config.variations, seed=config.seed
    )
    row_schema(pa.schema([field for field in tasks.schema if field.name not in TASK_COLUMNS]))
    network = load_network(config.weights, normalisation=config.normalisation, device=device)
    synthesis = config.resolve_synthesis()
    sizes = compute_levels(synthesis, config.size, config.size)
    make_batches(network, synthesis, sizes)
    left = len(tasks) if out is None else _count_left(RunDirectory(out), tasks, config, network)
    counts = {
        "exemplars": manifest.table.num_rows,
        "categories": pc.count_distinct(tasks["category"]).as_py(),
        "crops": config.crops,
        "variations": config.variations,
        "tasks": len(tasks),
        "tasks_done": len(tasks) - left,
        "tasks_left": left,
    }
    return _estimate(counts, config, network)


def compute_evaluations(budget: float, sizes: Sequence[tuple[int, int]]) -> list[int]:
    """Evaluations of a task at every level, if all is spent: as many as at each finer level.

    Args:
        budget: in evaluations at full size.
        sizes: (height, width) of every level, the finest last.
    """
    costs = [math.prod(size) / math.prod(sizes[-1]) for size in sizes]
    counts: list[int] = []
    for level, cost in enumerate(costs):
        counts.append(max(1, math.floor(budget / sum(costs[level:]) + 1e-6)))
        budget -= counts[-1] * cost
    return counts


def _choose_device(config: RunConfig) -> str:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device = config.device or ("cuda" if count else "cpu")
    if device != "cpu" and int(device.partition(":")[2] or 0) >= count:
        raise ConfigError(
            f"device is {device!r}, this machine has {count} CUDA devices; a plan is measured here"
        )
    return device


def _count_left(
    run: RunDirectory, tasks: pa.Table, config: RunConfig, network: TextureNetwork
) -> int:
    """Tasks that a run would do; refuses the directory of another configuration."""
    record = load_run_record(run)
    if record is not None:
        identity = config.identity(network.weights_id, network.weights_sha256)
        refuse_other_config(record, dataclasses.replace(record, identity=identity))
    committed, _ = read_committed(run, KEYS)
    return len(pending_tasks(tasks, committed, config.retry))


def _estimate(counts: dict[str, int], config: RunConfig, network: TextureNetwork) -> RunPlan:
    """The plan for so many tasks."""
    synthesis = config.resolve_synthesis()
    sizes = compute_levels(synthesis, config.size, config.size)
    left = counts["tasks_left"]
    actors, devices = _count_actors(config, network.device)
    chosen = choose_lanes(network, synthesis, sizes)
    lanes = chosen if config.lanes == "auto" else config.lanes
    memory, lane = _memory_bytes(network.device), estimate_lane_bytes(network, synthesis, sizes)
    # A GPU has one actor; actors on a CPU share its memory.
    fitting = int(SHARE_OF_FREE_MEMORY * memory * devices / actors) // lane
    measured = min(lanes, chosen, max(1, math.ceil(left / actors)))
    levels = _calibrate(network, synthesis, measured, sizes)
    seconds = sum(level.evaluations_per_task * level.device_s_per_evaluation for level in levels)
    if synthesis.time_limit_s is not None:
        seconds = min(seconds, synthesis.time_limit_s / measured)
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
        output_bytes_per_task=3 * config.size**2,
        output_bytes_total=left * 3 * config.size**2,
        device_s_per_full_size_evaluation=levels[-1].device_s_per_evaluation,
        device_s_per_task=seconds,
        textures_per_device_hour=3600 / seconds,
        device_hours_total=left * seconds / 3600,
        wall_hours=left * seconds / 3600 / devices,
    )


def _count_actors(config: RunConfig, device: torch.device) -> tuple[int, int]:
    """Actors, and the devices that they keep busy: actors on CPUs share the cores of a machine."""
    on_gpu = device.type == "cuda"
    actors = config.actors or (torch.cuda.device_count() if on_gpu else 1)
    if config.executor == "inline":
        actors = 1
    return actors, actors if on_gpu else 1


def _memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _calibrate(
    network: TextureNetwork, config: SynthesisConfig, lanes: int, sizes: Sequence[tuple[int, int]]
) -> tuple[LevelPlan, ...]:
    """Time every level, or where that would take too long or too much memory, a smaller side."""
    levels: list[LevelPlan] = []
    measured, limit_s = SMALLEST_STAND_IN, CALIBRATION_S / len(sizes)
    for (side, _), count in zip(sizes, compute_evaluations(config.evaluations, sizes), strict=True):
        sides = [side]
        while sides[-1] // 2 >= measured:
            sides.append(sides[-1] // 2)
        measured, seconds = _time_level(network, config, lanes, sides, limit_s)
        levels.append(
            LevelPlan(
                side_px=side,
                evaluations_per_task=count,
                device_s_per_evaluation=seconds / lanes * (side / measured) ** 2,
                measured_at_px=measured,
            )
        )
    return tuple(levels)


def _time_level(
    network: TextureNetwork, config: SynthesisConfig, lanes: int, sides: list[int], limit_s: float
) -> tuple[int, float]:
    """The largest bearable of falling sides, and the seconds of an evaluation of all lanes."""
    config = dataclasses.replace(
        config,
        # A smaller side stands in with the layers of the level itself.
        taps=network.resolve_taps(config.taps, sides[0], sides[0]),
        levels=1,
        plateau_tolerance=0.0,
        time_limit_s=None,
    )
    memory = SHARE_OF_FREE_MEMORY * _memory_bytes(network.device)
    while True:
        side = sides.pop()
        # Once unmeasured, while libraries and memory are made ready.
        for _ in range(2):
            seconds = _time_evaluations(network, config, lanes, side, 1)
        if not sides or NEXT_SIDE_COST * seconds > limit_s:
            break
        if lanes * estimate_lane_bytes(network, config, [(sides[-1], sides[-1])]) > memory:
            break
    count = 1
    while count < MEASURED_EVALUATIONS and seconds * count < MEASURED_S:
        count = min(MEASURED_EVALUATIONS, max(2 * count, math.ceil(MEASURED_S / seconds)))
        seconds = _time_evaluations(network, config, lanes, side, count)
    return side, seconds


def _time_evaluations(
    network: TextureNetwork, config: SynthesisConfig, lanes: int, side: int, evaluations: int
) -> float:
    """Seconds that one evaluation of all lanes takes."""
    generator = torch.Generator().manual_seed(0)
    exemplars = torch.rand((lanes, 3, side, side), generator=generator)
    config = dataclasses.replace(config, evaluations=evaluations)
    results = synthesize(
        exemplars, range(lanes), config, network, lanes=lanes, device=network.device
    )
    first = next(results)
    return first.seconds / first.evaluations
