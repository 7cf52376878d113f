"""How much memory a lane takes, and how many lanes fit on a device."""

from __future__ import annotations

import math

import torch

from texsynth.config import SynthesisConfig
from texsynth.features import TextureNetwork

FLOAT_BYTES = 4
STATE_VECTORS = 12
"""Images that an L-BFGS state and its step hold beside the history."""
TRANSIENT_MAPS = 3
"""Largest feature maps alive at once beside those kept for the backward pass."""
CPU_LANES = 4
"""Lanes on a CPU: its cores are busy with one, more only wait for each other's end."""
MOST_LANES = 64
"""A bound on what one actor loses with its process."""
SHARE_OF_FREE_MEMORY = 0.8
"""The rest is for what the estimate leaves out, such as convolution workspaces."""


def estimate_lane_bytes(
    network: TextureNetwork, config: SynthesisConfig, sizes: list[tuple[int, int]]
) -> int:
    """Bytes that one lane at every level takes on the device, the network not counted.

    Args:
        network: the trunk.
        config: size of the history, and the taps.
        sizes: (height, width) of every level, the finest last.
    """
    vectors = 2 * config.optimizer.history + STATE_VECTORS
    unknowns = sum(3 * math.prod(size) for size in sizes)
    height, width = sizes[-1]
    deepest = network.resolve_taps(config.taps, height, width)[-1]
    maps = []
    channels = 3
    for layer in network.layers:
        channels = layer.channels[1] if layer.channels else channels
        maps.append(channels * (height // layer.stride) * (width // layer.stride))
        if layer.tap == deepest:
            break
    return FLOAT_BYTES * (vectors * unknowns + sum(maps) + TRANSIENT_MAPS * max(maps))


def choose_lanes(
    network: TextureNetwork, config: SynthesisConfig, sizes: list[tuple[int, int]]
) -> int:
    """As many lanes as the device's free memory holds, from 1 to 64; 4 on a CPU."""
    if network.device.type != "cuda":
        return CPU_LANES
    free, _ = torch.cuda.mem_get_info(network.device)
    fitting = int(SHARE_OF_FREE_MEMORY * free) // estimate_lane_bytes(network, config, sizes)
    return max(1, min(MOST_LANES, fitting))
