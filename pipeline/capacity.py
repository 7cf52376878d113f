"""How many actors share the cores and the memory of machines without a GPU."""

from __future__ import annotations

import math
from collections.abc import Iterable

from pipeline.config import RunConfig
from texsynth.memory import CPU_LANES

PROCESS_BYTES = 800 * 2**20
"""Of an actor's process without a lane: Python, torch, Ray, and a network to pool5; rounded up."""
LANE_BYTES_PER_PIXEL = 2_200
"""Of a lane on all levels without its history, rounded up (benchmarks/roofline)."""
PAIR_BYTES_PER_PIXEL = 2 * 3 * 4 * 4 / 3
"""Of a curvature pair: two images of float32, and a third for the coarser levels."""


def count_cpu_actors(config: RunConfig, nodes: Iterable[tuple[float, float]]) -> int:
    """One actor for every core, as far as memory goes: threads that share an evaluation wait.

    Args:
        config: size and lanes; `actors` is not looked at.
        nodes: of each machine the cores, and the memory that actors may take, bytes.

    Returns:
        At least 1.
    """
    needed = estimate_actor_bytes(config)
    return max(1, sum(min(int(cores), int(memory) // needed) for cores, memory in nodes))


def estimate_actor_bytes(config: RunConfig) -> int:
    """Memory of an actor on a CPU, rounded up."""
    lanes = CPU_LANES if config.lanes == "auto" else config.lanes
    pairs = config.resolve_synthesis().optimizer.history
    # An exemplar that passes the network alone takes less than half of a texture's lane.
    pixels = max(math.prod(config.texture_size), math.prod(config.exemplar_size) // 2)
    lane_bytes = (LANE_BYTES_PER_PIXEL + PAIR_BYTES_PER_PIXEL * pairs) * pixels
    return PROCESS_BYTES + int(lanes * lane_bytes)
