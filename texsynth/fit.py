"""How well a texture meets its exemplar's Gram matrices, at the taps of a loss and at one beside.

A loss can be low because it was minimised; a tap that it does not use tells whether that was worth
anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from texsynth.config import REFERENCE_TAPS
from texsynth.features import TextureNetwork
from texsynth.gram import compute_gram, gram_term
from texsynth.pairs import validate_pairs
from texsynth.shapes import Images, PerLane, PerTap

FEWEST_POSITIONS = 8
"""Positions on both sides that a held-out tap needs."""


@dataclass(frozen=True)
class GramFit:
    """Relative Gram errors, one number per lane.

    Args:
        errors: of the taps that a loss uses, by name, [B] each.
        held_out_tap: one that it does not use; None where the network has none.
        held_out_error: of that tap, [B].
    """

    errors: Mapping[str, PerLane]
    held_out_tap: str | None
    held_out_error: PerLane | None


def measure_fit(network: TextureNetwork, textures: Images, exemplars: Images) -> GramFit:
    """Gram errors of the taps that a loss uses under the tap rule, and of one that it does not.

    Args:
        network: on the images' device.
        textures: [B, 3, H, W] in [0, 1].
        exemplars: [B, 3, H', W'] in [0, 1]; the smaller image decides on the taps.

    Raises:
        TapError: if the smaller image is too small for any tap.
        ValueError: for images that do not fit each other.
    """
    sides = [(images.shape[-2], images.shape[-1]) for images in (textures, exemplars)]
    height, width = min(sides, key=min)
    taps = network.resolve_taps("auto", height, width)
    held_out = choose_held_out_tap(network, taps, height, width)
    wanted = {*taps, held_out}
    names = [tap for tap in network.available_taps if tap in wanted]
    columns = gram_errors(network, textures, exemplars, names).unbind(1)
    errors = dict(zip(names, columns, strict=True))
    held_out_error = errors.pop(held_out) if held_out is not None else None
    return GramFit(errors, held_out, held_out_error)


@torch.no_grad()
def gram_errors(
    network: TextureNetwork, textures: Images, exemplars: Images, taps: Sequence[str]
) -> PerTap:
    """|G - G_exemplar| / |G_exemplar|, Frobenius, of each tap.

    Args:
        network: whose features are compared; on the images' device.
        textures: [B, 3, H, W] in [0, 1].
        exemplars: [B, 3, H', W'] in [0, 1]; Gram matrices are means over positions, so sizes may
            differ.
        taps: names, of which the network has all.

    Returns:
        [B, L], at least 0, in the order of the network; 0 is good, 1 for a texture without
        features. Between two crops of a texture it is not 0 either, above all for deep taps, whose
        matrices hold more numbers than they have positions.

    Raises:
        TapError: for a missing tap, or images too small for it.
        ValueError: for images that do not fit each other.
    """
    validate_pairs(textures, exemplars, fewest_px=1)
    errors = []
    pairs = zip(network(textures, taps), network(exemplars, taps), strict=True)
    for features, target_features in pairs:
        target = compute_gram(target_features)
        norm = target.flatten(1).norm(dim=1).clamp(min=torch.finfo(target.dtype).tiny)
        errors.append(gram_term(features, target).sqrt() / norm)
    return torch.stack(errors, dim=1)


def choose_held_out_tap(
    network: TextureNetwork, taps: Sequence[str], height: int, width: int
) -> str | None:
    """A tap that a loss does not use: the next deeper one, or else the deepest that is left over.

    * The first of relu1_1, pool1 to pool5 behind the deepest tap of the loss, if the network has it
      and it has at least 8x8 positions;
    * else the deepest layer that is no tap of the loss and has as many.

    Args:
        network: whose layers.
        taps: of the loss.
        height: of the smaller image, px.
        width: of the smaller image, px.

    Returns:
        Its name; None where there is no such layer.
    """
    large = [
        layer.tap
        for layer in network.layers
        if min(height, width) // layer.stride >= FEWEST_POSITIONS
    ]
    deepest = max((large.index(tap) for tap in taps if tap in large), default=-1)
    deeper = [tap for tap in large[deepest + 1 :] if tap in REFERENCE_TAPS]
    left_over = [tap for tap in large if tap not in taps]
    return next(iter(deeper + left_over[::-1]), None)
