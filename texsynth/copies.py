"""Whether a texture is its exemplar again: its layout, blocks of it, or a cyclic shift of it.

A low loss can be a copy of the exemplar, so no loss is read without these and the displacement
score (`texsynth.displacement`) beside it.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int8
from torch import Tensor
from torch.nn import functional

from texsynth.images import luminance, validate_images
from texsynth.pairs import PairError, validate_equal_shapes, validate_pairs
from texsynth.shapes import Images, PerLane

LAYOUT_CELL = 4
"""Side of the squares that are averaged before layouts are compared, px."""
BLOCK_SIDE = 16
"""Side of the blocks that are sought in the exemplar, px."""
MAX_BLOCKS = 256
"""Blocks sought at most; those of a larger texture lie further apart."""
VERBATIM_CORRELATION = 0.95
"""Correlation from which a block counts as copied."""
MIN_BLOCK_CONTRAST = 0.02
"""Standard deviation of the luminance under which a block is flat: whether a flat block was copied
cannot be told."""
LAYOUT_SIDE = 32
"""Cells of a luminance layout in a row and in a column."""
FAINT_FREQUENCY = 1e-11
"""Share of the largest product of magnitudes under which a phase is rounding noise."""


def layout_correlation(textures: Images, exemplars: Images) -> tuple[PerLane, PerLane]:
    """Normalised cross-correlation of the images averaged over 4x4 px, channels together.

    Args:
        textures: [B, 3, H, W] in [0, 1].
        exemplars: [B, 3, H, W] in [0, 1].

    Returns:
        Both [B] in [-1, 1], 0 for a flat image: the correlation at zero shift, 1 for a copy, and
        the largest over all cyclic shifts, 1 for a shifted copy. Before the first, the plane that
        fits each channel best is taken off: a brightness gradient in common is no copy. The
        second is large without being a copy where the exemplar is periodic or has a gradient.

    Raises:
        ValueError: if the shapes differ.
    """
    validate_equal_shapes(textures, exemplars)
    layouts = [functional.avg_pool2d(images, LAYOUT_CELL) for images in (textures, exemplars)]
    left, right = (_of_unit_norm(_without_plane(layout)) for layout in layouts)
    at_zero = (left * right).sum((1, 2, 3)).clamp(-1, 1)
    left, right = (_of_unit_norm(layout - layout.mean((2, 3), keepdim=True)) for layout in layouts)
    product = torch.fft.rfft2(left) * torch.fft.rfft2(right).conj()
    shifted = torch.fft.irfft2(product.sum(1), s=left.shape[-2:]).clamp(-1, 1)
    return at_zero, shifted.flatten(1).amax(1)


def phase_correlation_peak(textures: Images, exemplars: Images) -> PerLane:
    """The largest value of the whitened cyclic cross-correlation of texture and exemplar.

    max over shifts of F^-1(z / |z|), z = sum_c X_c conj(I_c), without the frequency 0 and without
    frequencies at which z is rounding noise; scaled so that equal phases give 1. Kuglin and Hines,
    "The phase correlation image alignment method" (1975).

    Args:
        textures: [B, 3, H, W] in [0, 1].
        exemplars: [B, 3, H, W] in [0, 1].

    Returns:
        [B] in [0, 1]: 1 for every cyclic shift of the exemplar, about 4 / sqrt(H W) for independent
        phases, 0 where an image is flat. Good is low.

    Raises:
        ValueError: if the shapes differ.
    """
    validate_equal_shapes(textures, exemplars)
    spectra: list[Tensor] = [
        torch.fft.fft2(images - images.mean((2, 3), keepdim=True))
        for images in (textures, exemplars)
    ]
    z = (spectra[0] * spectra[1].conj()).sum(1)
    # The scale of a flat image's spectrum is rounding noise; 1e-4 is far below one 8-bit level.
    scale = torch.stack([s.abs().flatten(1).amax(1) for s in spectra]).amin(0)
    magnitude = z.abs()
    largest = magnitude.amax((1, 2), keepdim=True)
    heard = (magnitude > FAINT_FREQUENCY * largest) & (scale > 1e-4)[:, None, None]
    heard[:, 0, 0] = False
    phases = torch.where(heard, z / magnitude.clamp(min=torch.finfo(magnitude.dtype).tiny), 0)
    peak: PerLane = torch.fft.ifft2(phases).real.flatten(1).amax(1)
    return (peak / heard.to(peak.dtype).mean((1, 2)).clamp(min=1e-12)).clamp(0, 1)


def verbatim_share(textures: Images, exemplars: Images) -> PerLane:
    """Share of the texture's area whose blocks are found again somewhere in the exemplar.

    A block of 16x16 px is found again if its normalised cross-correlation with the exemplar, of
    luminance less the mean of either window, is at least 0.95 at some position inside. Blocks
    without contrast are not evidence; the share is of the area of all others. Lewis, "Fast
    normalized cross-correlation" (1995).

    Args:
        textures: [B, 3, H, W] in [0, 1].
        exemplars: [B, 3, H', W'] in [0, 1].

    Returns:
        [B] in [0, 1]: 1 for a copy and near 1 for a patchwork of large patches; near 0 for a
        synthesis, unless the exemplar is made of smooth edges or of equal repeats, of which any
        sound texture has blocks like the exemplar's. 0 for a flat texture. Good is low.

    Raises:
        ValueError: if there are not as many textures as exemplars, pixels are not finite, or a side
            is below 16 px.
    """
    validate_pairs(textures, exemplars, fewest_px=BLOCK_SIDE)
    grays = zip(luminance(textures), luminance(exemplars), strict=True)
    return torch.stack([_verbatim_share(texture, exemplar) for texture, exemplar in grays])


def sibling_distance(textures: Images) -> PerLane:
    """1 - the correlation of each texture with the most similar of its siblings.

    The correlation is over all pixels and channels, at zero shift, after the plane that fits each
    channel best is taken off: a brightness gradient of the exemplar is in all of them.

    Args:
        textures: [B, 3, H, W], of one exemplar, B at least 2.

    Returns:
        [B] in [0, 2]: 0 for a sibling that is the same, near 1 for independent ones. Flat textures
        are told apart from none: 1. Good is high. A shifted sibling is
        `phase_correlation_peak`'s.

    Raises:
        ValueError: for fewer than two textures.
    """
    validate_images(textures, "textures")
    if len(textures) < 2:
        raise PairError(f"{len(textures)} texture has no sibling, expected at least 2")
    flat = _of_unit_norm(_without_plane(textures)).flatten(1)
    correlation = flat @ flat.T
    correlation.fill_diagonal_(-1)
    return 1 - correlation.amax(1).clamp(-1, 1)


def luminance_layout(textures: Images) -> Int8[Tensor, "B side side"]:
    """What is left of a texture in 1,024 bytes, to tell near duplicates by long afterwards.

    The luminance, averaged over 32x32 cells, less the plane that fits it best, scaled so that the
    largest magnitude is 127, rounded. The correlation of two such layouts, the sum of their
    products over the product of their norms, is near 1 where the textures are nearly the same,
    stored by JPEG in between or not, and lower for others (docs/quality.md).

    Args:
        textures: [B, 3, H, W] in [0, 1].

    Returns:
        int8 [B, 32, 32] in [-127, 127]; 0 of a flat texture.
    """
    validate_images(textures, "textures")
    cells = functional.adaptive_avg_pool2d(luminance(textures)[:, None], LAYOUT_SIDE)
    layout = _of_unit_norm(_without_plane(cells))[:, 0]
    largest = layout.abs().amax((1, 2), keepdim=True)
    return (127 * layout / largest.clamp(min=torch.finfo(layout.dtype).tiny)).round().to(torch.int8)


def _of_unit_norm(layout: Images) -> Images:
    """Divided by the norm over all channels."""
    norm = layout.flatten(1).norm(dim=1)[:, None, None, None]
    # A flat image has rounding noise for a layout; it correlates with nothing.
    return torch.where(norm > 1e-4, layout / norm, 0)


def _without_plane(layout: Images) -> Images:
    """Each channel less its least-squares fit a + b y + c x; on a grid the three are orthogonal."""
    height, width = layout.shape[-2:]
    layout = layout - layout.mean((2, 3), keepdim=True)
    y = torch.arange(height, device=layout.device, dtype=layout.dtype)[:, None].expand(
        height, width
    )
    x = torch.arange(width, device=layout.device, dtype=layout.dtype)[None, :].expand(height, width)
    for slope in (y - y.mean(), x - x.mean()):
        energy = slope.square().sum().clamp(min=1.0)
        layout = layout - (layout * slope).sum((2, 3), keepdim=True) / energy * slope
    return layout


def _verbatim_share(texture: Float[Tensor, "H W"], exemplar: Float[Tensor, "H W"]) -> Tensor:
    height, width = texture.shape
    stride = BLOCK_SIDE // 4
    while math.prod((side - BLOCK_SIDE) // stride + 1 for side in (height, width)) > MAX_BLOCKS:
        stride += 1
    grid = texture.unfold(0, BLOCK_SIDE, stride).unfold(1, BLOCK_SIDE, stride)
    blocks = grid.reshape(-1, BLOCK_SIDE, BLOCK_SIDE)
    blocks = blocks - blocks.mean((1, 2), keepdim=True)
    norms = blocks.flatten(1).norm(dim=1)
    varied = norms >= MIN_BLOCK_CONTRAST * BLOCK_SIDE
    found = varied & (_best_match(blocks, exemplar) >= VERBATIM_CORRELATION * norms)
    stamp = texture.new_ones(1, 1, BLOCK_SIDE, BLOCK_SIDE)
    masks = torch.stack([found, varied]).to(texture.dtype).view(2, 1, *grid.shape[:2])
    copied, sought = (functional.conv_transpose2d(masks, stamp, stride=stride) > 0.5).sum((1, 2, 3))
    share: Tensor = copied.to(texture.dtype) / sought.clamp(min=1)
    return share


def _best_match(blocks: Float[Tensor, "K side side"], exemplar: Float[Tensor, "H W"]) -> Tensor:
    """Largest scalar product of each block with a window of the exemplar of norm 1."""
    exemplar = exemplar - exemplar.mean()
    size = (exemplar.shape[0], exemplar.shape[1])
    pooled = [
        functional.avg_pool2d(powers[None, None], BLOCK_SIDE, stride=1)[0, 0]
        for powers in (exemplar, exemplar.square())
    ]
    deviation = (pooled[1] - pooled[0].square()).clamp(min=MIN_BLOCK_CONTRAST**2 / 4).sqrt()
    spectrum = torch.fft.rfft2(exemplar)
    best = []
    for part in torch.split(blocks, 16):
        product = torch.fft.irfft2(torch.fft.rfft2(part, s=size).conj() * spectrum, s=size)
        # Products that wrap around lie past the last window.
        inside = product[:, : deviation.shape[0], : deviation.shape[1]]
        best.append((inside / (BLOCK_SIDE * deviation)).amax((1, 2)))
    return torch.cat(best)
