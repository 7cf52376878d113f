"""How many actors share the cores and the memory of machines without a GPU."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.config import RunConfig
from texsynth.memory import CPU_LANES

PROCESS_BYTES = 800 * 2**20
"""Of an actor's process without a lane: Python, torch, Ray, and a network to pool5; rounded up."""
LANE_BYTES_PER_PIXEL = 5_500
"""Of a lane on all levels (4,800 at 128 px, benchmarks/roofline), rounded up."""


def count_cpu_actors(config: RunConfig, nodes: Iterable[tuple[float, float]]) -> int:
    """One actor for every core, as far as memory goes: threads that share an evaluation wait.

    Args:
        config: size and lanes; `actors` is not looked at.
        nodes: of each machine the cores, and the memory that actors may take, bytes.

    Returns:
        At least 1.
    """
    lanes = CPU_LANES if config.lanes == "auto" else config.lanes
    actor_bytes = PROCESS_BYTES + lanes * LANE_BYTES_PER_PIXEL * config.size**2
    counts = [min(int(cores), int(memory) // actor_bytes) for cores, memory in nodes]
    return max(1, sum(counts))
