"""How long evaluations take on a device: a few of them, of noise exemplars, at every level.

What is neither an evaluation nor an L-BFGS step is left out: decoding, start-up, and the measures
of a finished texture. So is what makes later evaluations dearer than the first ones: the full
L-BFGS history.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from texsynth import SynthesisConfig, TextureNetwork, synthesize
from texsynth.features import Padding
from texsynth.levels import compute_exemplar_levels, compute_finer_costs
from texsynth.memory import SHARE_OF_FREE_MEMORY, estimate_lane_bytes
from texsynth.sensitivity import measuring_cost
from texsynth.shapes import Size
from texsynth.tiling import choose_tile_px, count_seen_pixels

CALIBRATION_S = 20.0
"""Time for all levels together, about: somebody waits for it."""
MEASURED_S = 1.0
MEASURED_EVALUATIONS = 20
"""A level is measured until it took that long, or had so many evaluations."""
SMALLEST_STAND_IN = 64
"""Side of the smallest image that is measured in a larger one's place, px: pool5 needs 32."""
SMALLEST_TILED = 256
"""The same where tiles are timed: in smaller ones there is hardly more than their halos."""
NEXT_SIDE_COST = 16
"""Time that the next side takes, in evaluations at this one: four times the pixels, once to warm
up and once measured, each with its targets and the reference loss of one texture."""


@dataclass(frozen=True, kw_only=True)
class LevelPlan:
    """One level of every task.

    Args:
        side_px: shorter side of the textures.
        evaluations_per_task: at most, at this side.
        device_s_per_evaluation: time of the device for one evaluation of one task.
        measured_at_px: side of the square that was timed; the time was scaled by area.
    """

    side_px: int
    evaluations_per_task: int
    device_s_per_evaluation: float
    measured_at_px: int


def calibrate(
    network: TextureNetwork,
    config: SynthesisConfig,
    lanes: int,
    sizes: Sequence[Size],
    exemplar_size: Size | None = None,
    *,
    sharing: int = 1,
) -> tuple[LevelPlan, ...]:
    """Time every level, or where that would take too long or too much memory, a smaller side.

    Args:
        network: on the device that is measured.
        config: what is minimised, and how.
        lanes: busy ones.
        sizes: of the texture at every level, the finest last.
        exemplar_size: at the finest; the texture's unless given.
        sharing: actors on one CPU, each with its share of the threads; one of them is timed, and
            the others are taken to be as fast beside it.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // sharing))
    try:
        levels = _time_levels(network, config, lanes, sizes, exemplar_size)
    finally:
        torch.set_num_threads(threads)
    return tuple(
        dataclasses.replace(level, device_s_per_evaluation=level.device_s_per_evaluation / sharing)
        for level in levels
    )


def _time_levels(
    network: TextureNetwork,
    config: SynthesisConfig,
    lanes: int,
    sizes: Sequence[Size],
    exemplar_size: Size | None,
) -> tuple[LevelPlan, ...]:
    """Every level, of an actor that has the device for itself."""
    levels: list[LevelPlan] = []
    measured, limit_s = SMALLEST_STAND_IN, CALIBRATION_S / len(sizes)
    own_sizes = compute_exemplar_levels(sizes, exemplar_size)
    counts = compute_evaluations(config, sizes)
    for size, own, count in zip(sizes, own_sizes, counts, strict=True):
        taps = network.resolve_taps(config.taps, *size, own)
        stand_ins = _StandIns.of(network, config, taps, size, smallest=measured)
        measured, seconds = _time_level(network, stand_ins, lanes, limit_s)
        levels.append(
            LevelPlan(
                side_px=min(size),
                evaluations_per_task=count,
                device_s_per_evaluation=seconds / lanes * stand_ins.scale(network, measured),
                measured_at_px=measured,
            )
        )
    return tuple(levels)


@dataclass(frozen=True, kw_only=True)
class _StandIns:
    """Squares that may be timed in a level's place, with the layers and tiles of the level itself.

    Args:
        config: of the run.
        taps: of the level.
        size: (height, width) of the level, px.
        sides: the first has the level's area, the others fall.
        tiles: along each side.
    """

    config: SynthesisConfig
    taps: tuple[str, ...]
    size: Size
    sides: list[int]
    tiles: int

    @classmethod
    def of(
        cls,
        network: TextureNetwork,
        config: SynthesisConfig,
        taps: tuple[str, ...],
        size: Size,
        *,
        smallest: int,
    ) -> _StandIns:
        """Of a level; no side but the first is below `smallest`, px."""
        # A texture without a seam has sides that its pools halve evenly.
        strides = {layer.tap: layer.stride for layer in network.layers}
        multiple = strides[taps[-1]] if config.tileable else 1
        side = math.isqrt(math.prod(size))
        tile_px = choose_tile_px(config.tile_px, size)
        tiles = 1 if tile_px is None else math.ceil(side / tile_px)
        smallest = smallest if tiles == 1 else max(smallest, SMALLEST_TILED)
        sides = [max(multiple, side - side % multiple)]
        while sides[-1] // 2 >= smallest:
            sides.append(sides[-1] // 2 // multiple * multiple)
        return cls(config=config, taps=taps, size=size, sides=sides, tiles=tiles)

    def configure(self, side: int) -> SynthesisConfig:
        """What a square of this side is timed with: as many tiles as the level has."""
        return dataclasses.replace(
            self.config,
            taps=self.taps,
            levels=1,
            plateau_tolerance=0.0,
            time_limit_s=None,
            tile_px=None if self.tiles == 1 else math.ceil(side / self.tiles),
        )

    def scale(self, network: TextureNetwork, side: int) -> float:
        """What the level takes over what a square takes: by area, and by their tiles' halos."""
        if self.tiles == 1 or side == self.sides[0]:
            return math.prod(self.size) / side**2
        padding: Padding = "circular" if self.config.tileable else "constant"
        level, square = (
            count_seen_pixels(network, self.taps, (s, s), math.ceil(s / self.tiles), padding)
            for s in (self.sides[0], side)
        )
        return level / square * math.prod(self.size) / self.sides[0] ** 2


def compute_evaluations(config: SynthesisConfig, sizes: Sequence[tuple[int, int]]) -> list[int]:
    """Evaluations of a task at every level, if all is spent.

    Args:
        config: its budget, and whether some of it measures the weights of the loss.
        sizes: (height, width) of every level, the finest last.
    """
    costs = [math.prod(size) / math.prod(sizes[-1]) for size in sizes]
    counts: list[int] = []
    budget = config.evaluations
    for cost, finer_cost in zip(costs, compute_finer_costs(sizes), strict=True):
        budget -= cost * measuring_cost(config)
        counts.append(max(1, math.floor(budget / (cost + finer_cost) + 1e-6)))
        budget -= counts[-1] * cost
    return counts


def memory_bytes(device: torch.device) -> int:
    """Free memory of a GPU; physical memory of a machine, for a CPU."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _time_level(
    network: TextureNetwork, stand_ins: _StandIns, lanes: int, limit_s: float
) -> tuple[int, float]:
    """The largest bearable square, and the seconds of an evaluation of all lanes."""
    memory = SHARE_OF_FREE_MEMORY * memory_bytes(network.device)
    sides = stand_ins.sides.copy()
    while True:
        side = sides.pop()
        config = stand_ins.configure(side)
        # Once unmeasured, while libraries and memory are made ready.
        for _ in range(2):
            seconds = _time_evaluations(network, config, lanes, side, 1)
        if not sides or NEXT_SIDE_COST * seconds > limit_s:
            break
        larger = sides[-1]
        lane = estimate_lane_bytes(network, stand_ins.configure(larger), [(larger, larger)])
        if lanes * lane > memory:
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
