"""What goes wrong in a synthesised image: clipping, drifting statistics, borders, seams.

Gram matrices are averages over the whole image, so they are met by contrast that is too high here
and too low there: Risser, Wilmot, Barnes, "Stable and controllable neural texture synthesis and
style transfer using histogram losses" (arXiv 1701.08893), section 3.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from texsynth.colour import FLAT_VARIANCE
from texsynth.images import validate_images
from texsynth.pairs import validate_pairs
from texsynth.shapes import Images, PerLane

BLOCKS_PER_SIDE = 4
"""Blocks on the shorter side of the exemplar; textures are cut into blocks of the same px."""
BORDER_SHARE = 1 / 16
"""Width of the border ring, as a share of the shorter side."""
HALF_LEVEL = 0.5 / 255
"""Half the step between two 8-bit values."""


def out_of_range_share(images: Images) -> PerLane:
    """Share of the values below 0 or above 1, which a stored image loses.

    Args:
        images: [B, 3, H, W], before any clamping; 0 for whatever comes from a file.

    Returns:
        [B] in [0, 1]; 0 is good.
    """
    validate_images(images, "images")
    outside = (images < 0) | (images > 1)
    return outside.to(images.dtype).mean((1, 2, 3))


def clipped_share(images: Images) -> PerLane:
    """Share of the values that round to 0 or to 255 of 8 bits, or lie beyond.

    Args:
        images: [B, 3, H, W] in [0, 1].

    Returns:
        [B] in [0, 1]; good is the exemplar's own. Much more is a texture that was clamped.
    """
    validate_images(images, "images")
    ends = (images <= HALF_LEVEL) | (images >= 1 - HALF_LEVEL)
    return ends.to(images.dtype).mean((1, 2, 3))


def local_mean_drift(textures: Images, exemplars: Images) -> PerLane:
    """By how much the block means spread more in the texture than in its exemplar.

    (spread(texture) - spread(exemplar)) / contrast(exemplar). The spread is the root of the summed
    variance, over blocks of a quarter of the exemplar's side, of their mean colours; the contrast
    that of the pixels.

    Args:
        textures: [B, 3, H, W] in [0, 1].
        exemplars: [B, 3, H', W'] in [0, 1].

    Returns:
        [B] from -1; 0 is good, above 0 stains of colour or brightness, below 0 more even.

    Raises:
        ValueError: as `texsynth.pairs.validate_pairs`, or if a texture holds no two blocks a side.
    """
    blocks = _block_side(textures, exemplars)
    spreads = [_spread(_block_means(images, blocks)) for images in (textures, exemplars)]
    return (spreads[0] - spreads[1]) / _contrast(exemplars)


def local_contrast_drift(textures: Images, exemplars: Images) -> PerLane:
    """By how much the contrasts of blocks spread more in the texture than in its exemplar.

    As `local_mean_drift`, with the standard deviations inside the blocks in place of their means.

    Args:
        textures: [B, 3, H, W] in [0, 1].
        exemplars: [B, 3, H', W'] in [0, 1].

    Returns:
        [B] from -1; 0 is good, above 0 patches of strong and of weak contrast: the instability of
        Gram matrices.

    Raises:
        ValueError: as `local_mean_drift`.
    """
    side = _block_side(textures, exemplars)
    spreads = []
    for images in (textures, exemplars):
        variance = _block_means(images.square(), side) - _block_means(images, side).square()
        spreads.append(_spread(variance.clamp(min=0).sqrt()))
    return (spreads[0] - spreads[1]) / _contrast(exemplars)


def border_contrast(images: Images) -> PerLane:
    """How far the border ring's colours are from the interior's, in units of the contrast.

    sqrt(sum_c (m_c - m'_c)^2 + (s_c - s'_c)^2) / contrast, m and s mean and standard deviation of
    the ring, m' and s' of the interior: the 2-Wasserstein distance of Gaussians. The ring is 1/16
    of the shorter side wide.

    Args:
        images: [B, 3, H, W] in [0, 1].

    Returns:
        [B], at least 0; good is the exemplar's own. More is a border that the network's padding
        made.
    """
    validate_images(images, "images")
    height, width = images.shape[-2:]
    ring = max(1, round(BORDER_SHARE * min(height, width)))
    inside = torch.zeros((height, width), dtype=torch.bool, device=images.device)
    inside[ring : height - ring, ring : width - ring] = True
    return gaussian_distance(images[..., ~inside], images[..., inside]) / _contrast(images)


def seam_score(images: Images) -> PerLane:
    """Size of the steps across the periodic seam over that of the steps inside.

    The root mean square of the differences of the first and the last row, and column, over that of
    neighbours inside.

    Args:
        images: [B, 3, H, W] in [0, 1].

    Returns:
        [B], at least 0; 1 is an image that tiles, and is what a flat one gets; more is a visible
        seam. A photograph does not tile, and nothing asks a texture to.
    """
    validate_images(images, "images")
    seams, steps = [], []
    for dimension in (2, 3):
        side = images.shape[dimension]
        difference = (images - images.roll(1, dimension)).square().movedim(dimension, -1)
        seams.append(difference[..., :1].flatten(1))
        steps.append(difference[..., 1:side].flatten(1))
    seam, step = (torch.cat(parts, dim=1).mean(1) for parts in (seams, steps))
    return torch.where(step > FLAT_VARIANCE, (seam / step.clamp(min=FLAT_VARIANCE)).sqrt(), 1)


def gaussian_distance(left: Float[Tensor, "B C n"], right: Float[Tensor, "B C m"]) -> PerLane:
    """2-Wasserstein distance of the Gaussians fitted to each channel, channels summed in square.

    Givens and Shortt (1984): W^2 = (m - m')^2 + (s - s')^2 in one dimension.
    """
    means = left.mean(-1) - right.mean(-1)
    deviations = left.std(-1, correction=0) - right.std(-1, correction=0)
    return (means.square() + deviations.square()).sum(1).sqrt()


def _contrast(images: Images) -> PerLane:
    """Root of the variance of the pixels, summed over channels; of a flat image just above 0."""
    variance = images.var((2, 3), correction=0).sum(1)
    return variance.clamp(min=FLAT_VARIANCE).sqrt()


def _block_side(textures: Images, exemplars: Images) -> int:
    side = max(1, min(exemplars.shape[-2:]) // BLOCKS_PER_SIDE)
    validate_pairs(textures, exemplars, fewest_px=2 * side)
    return side


def _block_means(images: Images, side: int) -> Float[Tensor, "B 3 blocks"]:
    return functional.avg_pool2d(images, side).flatten(2)


def _spread(values: Float[Tensor, "B 3 blocks"]) -> PerLane:
    return values.var(-1, correction=0).sum(1).sqrt()
