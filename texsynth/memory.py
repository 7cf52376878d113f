"""How much memory a lane takes, and how many lanes fit on a device.

A lane keeps its optimiser's state and its targets at every level at once. Beside that, the most is
alive at one of two moments, both at full size: as the Gram terms begin the backward pass, before
any feature map is given back, or as a refilled lane has its old and its new history.
"""

from __future__ import annotations

import math

import torch

from texsynth.config import SynthesisConfig
from texsynth.features import TextureNetwork

FLOAT_BYTES, DOUBLE_BYTES = 4, 8
STATE_VECTORS = 4
"""Images of an L-BFGS state beside its history: point, gradient, direction, best point."""
EVALUATION_VECTORS = 2
"""Images that a step holds while it evaluates: the move and the trial point."""
REFILL_VECTORS = 10
"""Images that a refill holds beside the new history: those of the new state, of the merged one, and
what the new state is made of (measured: benchmarks/roofline)."""
GRADIENT_MAPS = 3.5
"""Gradients that the Gram terms hold, in maps of the largest tap: those of the two factors of
F F^T, their sum, and those of the smaller taps (measured: benchmarks/roofline)."""
CPU_LANES = 4
"""Lanes on a CPU: its cores are busy with one, more only wait for each other's end."""
MOST_LANES = 64
"""A bound on what one actor loses with its process."""
SHARE_OF_FREE_MEMORY = 0.8
"""The rest is for what the estimate leaves out, such as convolution workspaces."""


def estimate_lane_bytes(
    network: TextureNetwork, config: SynthesisConfig, sizes: list[tuple[int, int]]
) -> int:
    """Bytes that one lane at every level takes on the device at most, the network not counted.

    Within 15 % of what torch's allocator gives out on a CPU; `python -m benchmarks.roofline` prints
    both.

    Args:
        network: the trunk.
        config: the taps, the kind of spectrum term, and the size of the history.
        sizes: (height, width) of every level, the finest last.

    Raises:
        TapError: if a level is too small for its taps.
    """
    kept = sum(
        _state_bytes(config, size, STATE_VECTORS) + _target_bytes(network, config, size)
        for size in sizes
    )
    finest = sizes[-1]
    refill = _state_bytes(config, finest, REFILL_VECTORS) + _target_bytes(network, config, finest)
    return kept + max(refill, _evaluation_bytes(network, config, finest))


def choose_lanes(
    network: TextureNetwork,
    config: SynthesisConfig,
    sizes: list[tuple[int, int]],
    *,
    free_bytes: int | None = None,
) -> int:
    """As many lanes as the free memory holds, from 1 to 64.

    Args:
        network: on its device, its weights no longer part of the free memory.
        config: of the synthesis.
        sizes: (height, width) of every level, the finest last.
        free_bytes: of the device; by default a GPU is asked, and a CPU has 4 lanes.
    """
    if free_bytes is None:
        if network.device.type != "cuda":
            return CPU_LANES
        free_bytes, _ = torch.cuda.mem_get_info(network.device)
    lane_bytes = estimate_lane_bytes(network, config, sizes)
    return max(1, min(MOST_LANES, int(SHARE_OF_FREE_MEMORY * free_bytes) // lane_bytes))


def _state_bytes(config: SynthesisConfig, size: tuple[int, int], vectors: int) -> int:
    """So many images and the history: two vectors a pair, and their products."""
    pairs = config.optimizer.history
    unknowns = 3 * math.prod(size)
    return FLOAT_BYTES * (vectors + 2 * pairs) * unknowns + DOUBLE_BYTES * 2 * pairs**2


def _target_bytes(network: TextureNetwork, config: SynthesisConfig, size: tuple[int, int]) -> int:
    """The taps' Gram matrices, and the half spectrum: three complex channels, or magnitudes."""
    height, width = size
    numbers = {"none": 0, "gray": 1, "colour": 6}[config.spectrum] * height * (width // 2 + 1)
    maps = _maps(network, size)
    numbers += sum(maps[tap][0] ** 2 for tap in network.resolve_taps(config.taps, height, width))
    return FLOAT_BYTES * numbers


def _evaluation_bytes(
    network: TextureNetwork, config: SynthesisConfig, size: tuple[int, int]
) -> int:
    """What a step holds as the backward pass begins: all feature maps, gradients of the taps."""
    taps = network.resolve_taps(config.taps, *size)
    maps = _maps(network, size)
    names = list(maps)
    kept = [math.prod(maps[name]) for name in names[: names.index(taps[-1]) + 1]]
    numbers = EVALUATION_VECTORS * 3 * math.prod(size) + sum(maps[tap][0] ** 2 for tap in taps)
    return FLOAT_BYTES * (numbers + sum(kept) + round(GRADIENT_MAPS * max(kept)))


def _maps(network: TextureNetwork, size: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Channels and positions of every map that the network gives, in order."""
    height, width = size
    found: dict[str, tuple[int, int]] = {}
    channels = 3
    for layer in network.layers:
        channels = layer.channels[1] if layer.channels else channels
        found[layer.tap] = channels, (height // layer.stride) * (width // layer.stride)
    return found
