"""What a plan knows of a device: what fits its memory, how many lanes it gets, and its speed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pipeline.calibration import LevelPlan, calibrate, memory_bytes
from pipeline.config import RunConfig
from pipeline.measured import MeasuredSpeed, scale_levels
from texsynth import TextureNetwork
from texsynth.levels import compute_levels
from texsynth.memory import (
    MOST_LANES,
    SHARE_OF_FREE_MEMORY,
    choose_history,
    choose_lanes,
    estimate_lane_bytes,
)


def estimate_memory(
    config: RunConfig, network: TextureNetwork, share: float, elsewhere: MeasuredSpeed | None
) -> dict[str, Any]:
    """What a lane takes, and what fits; `share` is that of an actor in a device's memory."""
    synthesis, exemplar_size = config.resolve_synthesis(), config.exemplar_size
    sizes = compute_levels(synthesis, *config.texture_size, exemplar_size)
    lane = estimate_lane_bytes(network, synthesis, sizes, exemplar_size)
    memory = memory_bytes(network.device) if elsewhere is None else elsewhere.memory_bytes
    fitting = history = None
    if memory is not None:
        # A GPU has one actor; actors on a CPU share its memory.
        free = int(memory * share)
        fitting = int(SHARE_OF_FREE_MEMORY * free) // lane
        history = choose_history(network, synthesis, sizes, exemplar_size, free_bytes=free)
    return {
        "lanes_that_fit": fitting,
        "history": synthesis.optimizer.history,
        "history_that_fits": history,
        "memory_bytes_per_lane": lane,
        "memory_bytes_of_device": memory,
    }


@dataclass(frozen=True, kw_only=True)
class DeviceSpeed:
    """Fields of a plan of the same names."""

    device: str
    device_name: str
    lanes: int
    lanes_measured: int
    levels: tuple[LevelPlan, ...]


def time_here(config: RunConfig, network: TextureNetwork, busy: int, sharing: int) -> DeviceSpeed:
    """Of this machine's device, with at most so many busy lanes."""
    synthesis, exemplar_size = config.resolve_synthesis(), config.exemplar_size
    sizes = compute_levels(synthesis, *config.texture_size, exemplar_size)
    chosen = choose_lanes(network, synthesis, sizes, exemplar_size)
    lanes = chosen if config.lanes == "auto" else config.lanes
    measured = min(lanes, chosen, busy)
    on_gpu = network.device.type == "cuda"
    name = torch.cuda.get_device_name(network.device) if on_gpu else "cpu"
    return DeviceSpeed(
        device=str(network.device),
        device_name=name if on_gpu else f"{name}, threads: {torch.get_num_threads()}",
        lanes=lanes,
        lanes_measured=measured,
        levels=calibrate(network, synthesis, measured, sizes, exemplar_size, sharing=sharing),
    )


def take_from(
    elsewhere: MeasuredSpeed, config: RunConfig, busy: int, fitting: int | None
) -> DeviceSpeed:
    """Of another device, with the lanes that fit, or those that were fastest."""
    synthesis = config.resolve_synthesis()
    sizes = compute_levels(synthesis, *config.texture_size, config.exemplar_size)
    if config.lanes != "auto":
        lanes = config.lanes
    elif fitting is not None:
        lanes = max(1, min(MOST_LANES, fitting))
    else:
        lanes, _ = elsewhere.at(None)
    measured, _ = elsewhere.at(min(lanes, busy))
    return DeviceSpeed(
        device="elsewhere",
        device_name=elsewhere.device_name,
        lanes=lanes,
        lanes_measured=measured,
        levels=scale_levels(elsewhere, measured, synthesis, sizes),
    )
