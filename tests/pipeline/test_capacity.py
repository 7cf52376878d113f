from __future__ import annotations

from typing import Any

import pytest

from pipeline.capacity import PROCESS_BYTES, count_cpu_actors, estimate_actor_bytes
from pipeline.config import RunConfig
from texsynth import load_network
from texsynth.levels import compute_levels
from texsynth.memory import estimate_lane_bytes

GIB = 2.0**30


@pytest.mark.parametrize(
    ("values", "nodes", "expected"),
    [
        ({"size": 128}, [(2.0, 16 * GIB)], 2),
        ({"size": 128}, [(64.0, 256 * GIB)], 64),
        ({"size": 128}, [(64.0, 8 * GIB)], 7),
        ({"size": 256}, [(16.0, 16 * GIB)], 7),
        ({"size": 256, "lanes": 16}, [(16.0, 16 * GIB)], 2),
        ({"size": 1024}, [(16.0, 16 * GIB)], 1),
        ({"size": 128}, [(4.0, 64 * GIB), (8.0, 64 * GIB), (1.5, 64 * GIB)], 13),
        ({"size": 1024}, [(4.0, GIB)], 1),
        ({}, [], 1),
    ],
)
def test_one_actor_for_every_core_as_far_as_memory_goes(
    values: dict[str, Any], nodes: list[tuple[float, float]], expected: int
) -> None:
    assert count_cpu_actors(RunConfig(**values), nodes) == expected


@pytest.mark.parametrize("size", [128, 256, 512])
@pytest.mark.parametrize("history", [10, 100, 400])
def test_a_lane_takes_a_little_less_than_is_counted_for_it(size: int, history: int) -> None:
    config = RunConfig(size=size, lanes=1, synthesis={"optimizer": {"history": history}})
    synthesis = config.resolve_synthesis()
    sizes = compute_levels(synthesis, size, size)
    estimate = estimate_lane_bytes(load_network("random:0"), synthesis, sizes)
    assert 0.6 < estimate / (estimate_actor_bytes(config) - PROCESS_BYTES) < 1
