"""Copies of small patches: whether neighbours in a texture are neighbours in its exemplar."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from texsynth.pairs import validate_pairs
from texsynth.shapes import Images, PerLane

PATCH_SIDE = 5
"""Side of the patches whose nearest neighbours are sought, px (Gonthier et al. 2022)."""
MAX_ANCHORS = 1_024
"""Positions at most from which neighbours are compared; a larger texture is sampled on a grid. By
the binomial law the standard error is at most 0.012, with less than a fifth of the patches of a
texture of 128 px."""
MAX_DISTANCES = 2**20
"""Patch distances held at once: 4 MiB of float32, which caches hold."""
FEWEST_ROWS = 32
"""Patches sought at once, however large the exemplar: with fewer, each product reads it anew."""


def displacement_score(textures: Images, exemplars: Images) -> PerLane:
    """1 - the share of neighbouring 5x5 patches whose nearest neighbours are neighbours as well.

    For every patch of the texture the nearest patch of the exemplar is found (L2); a pair of
    patches one px apart, right or below, is coherent if theirs are apart by the same in both
    coordinates.

    Gonthier, Gousseau, Ladjal, "High-resolution neural texture synthesis with long-range
    constraints" (JMIV 2022), section 5.

    Args:
        textures: [B, 3, H, W] in [0, 1].
        exemplars: [B, 3, H', W'] in [0, 1].

    Returns:
        [B] in [0, 1]; 0 for a copy, .83 for white noise (neighbours share most of their pixels). A
        copy scores higher where patches of its exemplar are equal, as in flat areas: any of them
        may be found. Published means: Gatys .752, with spectrum .763, Efros-Leung .246, image
        quilting .085.

    Raises:
        ValueError: if there are not as many textures as exemplars, pixels are not finite, or a side
            is below 6 px.
    """
    validate_pairs(textures, exemplars, fewest_px=PATCH_SIDE + 1)
    pairs = zip(textures, exemplars, strict=True)
    return torch.stack([_displacement_score(texture, exemplar) for texture, exemplar in pairs])


def _patches(image: Float[Tensor, "3 H W"]) -> Float[Tensor, "H W features"]:
    """All 5x5 patches that lie inside the image, around 0 against cancellation."""
    _, height, width = image.shape
    columns = functional.unfold(image[None] - 0.5, PATCH_SIDE)[0]
    return columns.T.reshape(height - PATCH_SIDE + 1, width - PATCH_SIDE + 1, -1)


def _displacement_score(
    texture: Float[Tensor, "3 H W"], exemplar: Float[Tensor, "3 H W"]
) -> Tensor:
    queries, keys = _patches(texture), _patches(exemplar)
    height, width = queries.shape[:2]
    stride = 1
    while math.ceil((height - 1) / stride) * math.ceil((width - 1) / stride) > MAX_ANCHORS:
        stride += 1
    rows = torch.arange(0, height - 1, stride, device=texture.device)[:, None]
    columns = torch.arange(0, width - 1, stride, device=texture.device)[None, :]
    wanted = torch.zeros((height, width), dtype=torch.bool, device=texture.device)
    for down, right in ((0, 0), (0, 1), (1, 0)):
        wanted[rows + down, columns + right] = True
    nearest = torch.zeros((height, width, 2), dtype=torch.int64, device=texture.device)
    nearest[wanted] = _nearest_positions(queries[wanted], keys)
    anchor = nearest[rows, columns]
    coherent = [
        (nearest[rows + down, columns + right] - anchor == anchor.new_tensor([down, right])).all(-1)
        for down, right in ((0, 1), (1, 0))
    ]
    return 1 - torch.stack(coherent).to(texture.dtype).mean()


def _nearest_positions(
    queries: Float[Tensor, "Q features"], keys: Float[Tensor, "H W features"]
) -> Int[Tensor, "Q 2"]:
    """Row and column of each query's nearest key."""
    width = keys.shape[1]
    flat = keys.flatten(0, 1)
    # |q - k|^2 less |q|^2, which all keys have in common.
    norms, columns = flat.square().sum(1), (-2 * flat).T.contiguous()
    rows = max(FEWEST_ROWS, MAX_DISTANCES // len(flat))
    parts = torch.split(queries, rows)
    nearest = torch.cat([torch.addmm(norms, part, columns).argmin(1) for part in parts])
    return torch.stack([nearest // width, nearest % width], dim=1)
