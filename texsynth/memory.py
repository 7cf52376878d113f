"""How much memory a lane takes, and how many lanes fit on a device.

A lane keeps its optimiser's state and its targets at every level at once. Beside that, the most is
alive at full size: as the backward pass comes to the layer where feature maps and gradients are
most, or, if Gram matrices are large beside the maps, as the weights of a refilled lane are measured
(`texsynth.sensitivity`), or, if the exemplar is large beside the texture, as its targets are
computed. An image that is taken by tiles (`texsynth.tiling`) has the maps of one tile alive, and
everything else of its whole area.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from texsynth.config import SynthesisConfig, TilePx
from texsynth.features import TextureNetwork
from texsynth.levels import compute_exemplar_levels
from texsynth.shapes import Size
from texsynth.tiling import choose_tile_px, largest_view

FLOAT_BYTES, DOUBLE_BYTES = 4, 8
STATE_VECTORS = 5
"""Images of a lane beside its history: point, gradient, direction, best point, settled pixels."""
EVALUATION_VECTORS = 4
"""Images that a step holds while it evaluates: the move, the trial point, the same with its settled
pixels, and clamped."""
EVALUATION_GRADIENTS = 2
"""Gradients that the backward pass holds at a layer beside those of the taps that it comes to
later, in maps of that layer: of the features before and after the ReLU."""
EVALUATION_MATRICES = 3
"""Gram matrices of each tap that its term holds (measured: benchmarks/roofline)."""
METRIC_MATRICES = 2
"""Matrices of each tap that weight its term: the basis and the weights."""
MEASURING_MATRICES = 9
"""Matrices of each tap that are held as a lane's weights are measured, those that it is refilled
with included (measured: tests/benchmarks/test_roofline.py, with one deep tap at 32 px)."""
CPU_LANES = 4
"""Lanes on a CPU: its cores are busy with one, more only wait for each other's end."""
MOST_LANES = 64
"""A bound on what one actor loses with its process."""
SHARE_OF_FREE_MEMORY = 0.8
"""The rest is for what the estimate leaves out, such as convolution workspaces."""


def estimate_lane_bytes(
    network: TextureNetwork,
    config: SynthesisConfig,
    sizes: Sequence[Size],
    exemplar_size: Size | None = None,
) -> int:
    """Bytes that one lane at every level takes on the device at most, the network not counted.

    Within 15 % of what torch's allocator gives out on a CPU; `python -m benchmarks.roofline` prints
    both.

    Args:
        network: the trunk.
        config: the taps, the kind of spectrum term, and the size of the history.
        sizes: of the texture at every level, the finest last.
        exemplar_size: at the finest; the texture's unless given.

    Raises:
        TapError: if a level is too small for its taps.
    """
    own_sizes = compute_exemplar_levels(sizes, exemplar_size)
    taps = [
        network.resolve_taps(config.taps, *size, own)
        for size, own in zip(sizes, own_sizes, strict=True)
    ]
    kept = sum(
        _state_bytes(config, size) + _target_bytes(network, config, size, names)
        for size, names in zip(sizes, taps, strict=True)
    )
    measuring = MEASURING_MATRICES * _matrix_bytes(network, taps[-1])
    if config.weighting == "none":
        measuring = 0
    view = _largest_view(network, config.tile_px, sizes[-1], taps[-1])
    evaluation = _evaluation_bytes(network, view, taps[-1]) + _vector_bytes(sizes[-1])
    if view != sizes[-1]:
        evaluation += _crop_bytes(network, view, taps[-1])
    # Exemplars are taken by tiles by their size alone (`texsynth.objective`).
    own_view = _largest_view(network, "auto", own_sizes[-1], taps[-1])
    preparation = _preparation_bytes(network, own_view, taps[-1])
    preparation += FLOAT_BYTES * 3 * math.prod(own_sizes[-1])
    return kept + max(measuring, evaluation, preparation)


def choose_lanes(
    network: TextureNetwork,
    config: SynthesisConfig,
    sizes: Sequence[Size],
    exemplar_size: Size | None = None,
    *,
    free_bytes: int | None = None,
) -> int:
    """As many lanes as the free memory holds, from 1 to 64.

    Args:
        network: on its device, its weights no longer part of the free memory.
        config: of the synthesis.
        sizes: of the texture at every level, the finest last.
        exemplar_size: at the finest; the texture's unless given.
        free_bytes: of the device; by default a GPU is asked, and a CPU has 4 lanes, one if it takes
            the texture by tiles.
    """
    if free_bytes is None:
        if network.device.type != "cuda":
            return CPU_LANES if choose_tile_px(config.tile_px, sizes[-1]) is None else 1
        free_bytes, _ = torch.cuda.mem_get_info(network.device)
    lane_bytes = estimate_lane_bytes(network, config, sizes, exemplar_size)
    return max(1, min(MOST_LANES, int(SHARE_OF_FREE_MEMORY * free_bytes) // lane_bytes))


def choose_history(
    network: TextureNetwork,
    config: SynthesisConfig,
    sizes: Sequence[Size],
    exemplar_size: Size | None = None,
    *,
    free_bytes: int,
) -> int:
    """The longest history, up to the config's, with which one lane fits; 0 if none does.

    Args:
        network: the trunk.
        config: of the synthesis.
        sizes: of the texture at every level, the finest last.
        exemplar_size: at the finest; the texture's unless given.
        free_bytes: of the device.
    """

    def too_large(pairs: int) -> bool:
        shorter = replace(config, optimizer=replace(config.optimizer, history=pairs))
        needed = estimate_lane_bytes(network, shorter, sizes, exemplar_size)
        return needed > SHARE_OF_FREE_MEMORY * free_bytes

    lengths = range(1, config.optimizer.history + 1)
    return bisect.bisect_left(lengths, True, key=too_large)


def _state_bytes(config: SynthesisConfig, size: Size) -> int:
    """Its images and the history: two vectors a pair, and their products."""
    pairs = config.optimizer.history
    unknowns = 3 * math.prod(size)
    return FLOAT_BYTES * (STATE_VECTORS + 2 * pairs) * unknowns + DOUBLE_BYTES * 2 * pairs**2


def _target_bytes(
    network: TextureNetwork, config: SynthesisConfig, size: Size, taps: Sequence[str]
) -> int:
    """The Gram matrices with their weights, and the spectrum.

    Of that one half is kept, three complex channels of it or magnitudes.
    """
    height, width = size
    numbers = {"none": 0, "gray": 1, "colour": 6}[config.spectrum] * height * (width // 2 + 1)
    matrices = 1 + (METRIC_MATRICES if config.weighting != "none" else 0)
    return FLOAT_BYTES * numbers + matrices * _matrix_bytes(network, taps)


def _matrix_bytes(network: TextureNetwork, taps: Sequence[str]) -> int:
    """One Gram matrix of every tap."""
    # Channels do not depend on the size.
    maps = _maps(network, (1, 1))
    return FLOAT_BYTES * sum(maps[tap][0] ** 2 for tap in taps)


def _evaluation_bytes(network: TextureNetwork, size: Size, taps: Sequence[str]) -> int:
    """What the network holds as the backward pass comes to the layer where that is most.

    Alive are the maps up to that layer and the gradients of the Gram terms of all taps before it.
    """
    held = most = 0
    for name, (channels, positions) in _maps(network, size).items():
        numbers = channels * positions
        held += numbers
        most = max(most, held + EVALUATION_GRADIENTS * numbers)
        if name == taps[-1]:
            break
        held += numbers if name in taps else 0
    return FLOAT_BYTES * most + EVALUATION_MATRICES * _matrix_bytes(network, taps)


def _crop_bytes(network: TextureNetwork, view: Size, taps: Sequence[str]) -> int:
    """Of each tap of a tile: what lies inside the halo, and its gradient with the halo again."""
    maps = _maps(network, view)
    return FLOAT_BYTES * 2 * sum(math.prod(maps[tap]) for tap in taps)


def _vector_bytes(size: Size) -> int:
    return FLOAT_BYTES * EVALUATION_VECTORS * 3 * math.prod(size)


def _largest_view(
    network: TextureNetwork, tile_px: TilePx, size: Size, taps: Sequence[str]
) -> Size:
    """(height, width) of what the network is given of an image at once, px."""
    chosen = choose_tile_px(tile_px, size)
    return size if chosen is None else largest_view(network, taps, size, chosen)


def _preparation_bytes(network: TextureNetwork, exemplar_size: Size, taps: Sequence[str]) -> int:
    """What a forward pass of the exemplar holds at most: the taps so far, and three maps.

    Exemplars pass one at a time, whatever the number of lanes, so it is too much for many lanes.
    """
    held = most = before = 0
    for name, (channels, positions) in _maps(network, exemplar_size).items():
        numbers = channels * positions
        most = max(most, held + before + 2 * numbers)
        # A tap's own map is also the one that the next layer begins with.
        held, before = (held + numbers, 0) if name in taps else (held, numbers)
        if name == taps[-1]:
            break
    return FLOAT_BYTES * most


def _maps(network: TextureNetwork, size: Size) -> dict[str, tuple[int, int]]:
    """Channels and positions of every map that the network gives, in order."""
    height, width = size
    found: dict[str, tuple[int, int]] = {}
    channels = 3
    for layer in network.layers:
        channels = layer.channels[1] if layer.channels else channels
        found[layer.tap] = channels, (height // layer.stride) * (width // layer.stride)
    return found
