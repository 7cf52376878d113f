"""Gram matrices of an exemplar as those of a texture of another size: how often a position counts.

A Gram matrix is a mean over positions, and those near the border see the network's padding: in a
map of n positions a side, 2 b of them. A texture of n' positions a side has as many, which is
another share. Asked for an exemplar's mean as it is, a larger texture makes up for the share with
a border of too much contrast. So along each side border positions of the exemplar count 1 / n'
each, as they do in the texture, and those inside share the rest, (n' - 2 b) / n', evenly. For a
stationary exemplar that is the mean that a texture of its own kind has at the other size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from texsynth.features import TextureNetwork
from texsynth.shapes import Size

PositionWeights = Float[Tensor, "h w"]

BORDER_REACH = 0.5
"""Share of the way that a tap's positions look, up to which a position counts as of the border:
farther in, little of what it sees is padding, and more of the exemplar is left to be inside. The
whole way gives the same borders (measured: benchmarks/output_borders)."""


def compute_position_weights(
    network: TextureNetwork, taps: Sequence[str], exemplar_size: Size, size: Size
) -> list[PositionWeights]:
    """How often each position of an exemplar's maps counts in a Gram matrix for another size.

    Args:
        network: the trunk, which pads with zeros.
        taps: names, in the order of the network.
        exemplar_size: (height, width), px.
        size: (height, width) of the texture, px.

    Returns:
        Of each tap, [h, w] of the exemplar's map, positive, with a mean of 1; ones where both
        sizes agree.
    """
    radius, found = 0, {}
    for layer in network.layers:
        radius += layer.stride if layer.channels is not None else 0
        border = math.ceil(BORDER_REACH * radius / layer.stride)
        rows, columns = (
            _weigh_side(own // layer.stride, wanted // layer.stride, border)
            for own, wanted in zip(exemplar_size, size, strict=True)
        )
        found[layer.tap] = rows[:, None] * columns
        if layer.tap == taps[-1]:
            break
    return [found[tap].to(network.device) for tap in taps]


def _weigh_side(own: int, wanted: int, border: int) -> Tensor:
    """[own], float64, with a mean of 1."""
    border = min(border, (own - 1) // 2, (wanted - 1) // 2)
    inside = own - 2 * border
    weights = torch.full((own,), (wanted - 2 * border) / inside, dtype=torch.float64)
    weights[:border] = weights[own - border :] = 1
    return weights * (own / wanted)
