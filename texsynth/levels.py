"""The levels of a synthesis from coarse to fine, and what they cost.

A texture may have another size than its exemplar. Both shrink by the same factor, so that at every
level one sees the other's structures at the same scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from texsynth.config import ConfigError, SynthesisConfig
from texsynth.shapes import Size

COARSEST_SIDE = 64
"""Shorter side of the coarsest level under `levels: auto`, px: three taps under the tap rule."""
LEVEL_GROWTH = 2
"""Evaluations at a level over those at the coarser one; as many at both leave the finer one short
(measured: benchmarks/convergence)."""


def compute_levels(
    config: SynthesisConfig, height: int, width: int, exemplar_size: Size | None = None
) -> list[Size]:
    """Size of the texture at every level from coarse to fine, the last being the full one.

    Args:
        config: says how many, or leaves it to the shortest side of texture and exemplar.
        height: of the texture, px.
        width: of the texture, px.
        exemplar_size: of the exemplar; the texture's unless given.

    Raises:
        ConfigError: if the coarsest of a given number of levels has no pixels.
    """
    shortest = min(height, width, *(exemplar_size or ()))
    halvings = 0
    if config.levels == "auto":
        while shortest // 2 ** (halvings + 1) >= COARSEST_SIDE:
            halvings += 1
    else:
        halvings = config.levels - 1
    if shortest // 2**halvings < 1:
        raise ConfigError(
            f"levels is {config.levels}, too many for {_describe((height, width), exemplar_size)}"
        )
    return [(height // 2**k, width // 2**k) for k in range(halvings, -1, -1)]


def compute_exemplar_levels(sizes: Sequence[Size], exemplar_size: Size | None) -> list[Size]:
    """Size of the exemplar at every level of a texture.

    Args:
        sizes: of the texture at every level, the finest last.
        exemplar_size: at the finest; None is the texture's.
    """
    if exemplar_size is None:
        return list(sizes)
    height, width = exemplar_size
    return [(height // 2**k, width // 2**k) for k in range(len(sizes) - 1, -1, -1)]


def compute_finer_costs(sizes: Sequence[Size]) -> list[float]:
    """What all finer levels spend for one evaluation at a level, in evaluations at full size.

    Every level gets LEVEL_GROWTH times as many evaluations as the coarser one.

    Args:
        sizes: of the texture at every level, the finest last.
    """
    costs = [math.prod(size) / math.prod(sizes[-1]) for size in sizes]
    finer_costs = [0.0]
    for cost in reversed(costs[1:]):
        finer_costs.insert(0, LEVEL_GROWTH * (cost + finer_costs[0]))
    return finer_costs


def _describe(size: Size, exemplar_size: Size | None) -> str:
    words = f"{size[1]}x{size[0]} px"
    if exemplar_size in (None, size):
        return words
    return f"{words} of an exemplar of {exemplar_size[1]}x{exemplar_size[0]} px"
