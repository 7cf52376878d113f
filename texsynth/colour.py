"""How far the colours of a texture are from its exemplar's, wherever in the image they lie."""

from __future__ import annotations

import functools

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from texsynth.pairs import validate_pairs
from texsynth.shapes import Images, PerLane

FLAT_VARIANCE = 1e-10
"""Variance of a pixel, channels together, under which an image is flat; one level of 256 in one of
100,000 pixels has more."""
BASES = 4
"""Orthonormal bases of R^3 whose vectors are the directions of the sliced distance."""


def colour_mean_distance(textures: Images, exemplars: Images) -> PerLane:
    """|m - m_exemplar| of the mean colours m in R^3.

    Args:
        textures: [B, 3, H, W] in [0, 1].
        exemplars: [B, 3, H', W'] in [0, 1].

    Returns:
        [B] in [0, sqrt(3)], in units of the range of a channel; 0 is good, 0.01 hard to see.
    """
    validate_pairs(textures, exemplars, fewest_px=1)
    difference = textures.mean((2, 3)) - exemplars.mean((2, 3))
    distance: PerLane = difference.norm(dim=1)
    return distance


def colour_covariance_distance(textures: Images, exemplars: Images) -> PerLane:
    """|C - C_exemplar| / |C_exemplar|, Frobenius, of the 3x3 covariances of the pixels.

    Args:
        textures: [B, 3, H, W] in [0, 1].
        exemplars: [B, 3, H', W'] in [0, 1].

    Returns:
        [B], at least 0; 0 is good, 1 for a flat texture, 3 for one of twice the contrast. Beside a
        flat exemplar any contrast is huge.
    """
    validate_pairs(textures, exemplars, fewest_px=1)
    target = _covariance(exemplars)
    difference = (_covariance(textures) - target).flatten(1).norm(dim=1)
    distance: PerLane = difference / target.flatten(1).norm(dim=1).clamp(min=FLAT_VARIANCE)
    return distance


def sliced_wasserstein(textures: Images, exemplars: Images) -> PerLane:
    """The sliced 2-Wasserstein distance of the two sets of colours.

    sqrt(mean over directions d of integral_0^1 (Q_d(q) - Q_d,exemplar(q))^2 dq), Q_d the quantiles
    of the projections d . (R, G, B). Rabin, Peyre, Delon, Bernot, "Wasserstein barycenter and its
    application to texture mixing" (SSVM 2011). The directions are fixed, those of 4 orthonormal
    bases, so that for two colours v apart it is |v| / sqrt(3) exactly.

    Args:
        textures: [B, 3, H, W] in [0, 1].
        exemplars: [B, 3, H', W'] in [0, 1]; of another number of pixels, the quantiles of the
            larger image are interpolated.

    Returns:
        [B] in [0, 1], in units of the range of a channel; 0 is good.
    """
    validate_pairs(textures, exemplars, fewest_px=1)
    directions = _directions().to(textures)
    sides = [
        torch.einsum("dc,bcn->bdn", directions, images.flatten(2)).sort(-1).values
        for images in (textures, exemplars)
    ]
    fewest = min(side.shape[-1] for side in sides)
    left, right = (
        functional.interpolate(side, fewest, mode="linear", align_corners=False)
        if side.shape[-1] != fewest
        else side
        for side in sides
    )
    return (left - right).square().mean((1, 2)).sqrt()


def _covariance(images: Images) -> Float[Tensor, "B 3 3"]:
    flat = images.flatten(2)
    flat = flat - flat.mean(2, keepdim=True)
    return flat @ flat.mT / flat.shape[2]


@functools.cache
def _directions() -> Float[Tensor, "directions 3"]:
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn((BASES, 3, 3), generator=generator, dtype=torch.float64)
    bases: Tensor = torch.linalg.qr(draws).Q
    return bases.flatten(0, 1)
