"""Numbers about a finished texture beside its exemplar, per lane: copies and coloured speckle.

A low loss can be a copy of the exemplar, so no loss is read without these beside it.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from texsynth.images import luminance, validate_images
from texsynth.shapes import Images, PerLane

PATCH_SIDE = 5
"""Side of the patches whose nearest neighbours are sought, px (Gonthier et al. 2022)."""
MAX_ANCHORS = 4_096
"""Positions at most from which neighbours are compared; a larger texture is sampled on a grid."""
MAX_DISTANCES = 2**20
"""Patch distances held at once: 4 MiB of float32, which caches hold."""
LAYOUT_CELL = 4
"""Side of the squares that are averaged before layouts are compared, px."""
FLAT_VARIANCE = 1e-10
"""Variance of a pixel, channels together, under which an image is flat; one level of 256 in one of
100,000 pixels has more."""


def displacement_score(textures: Images, exemplars: Images) -> PerLane:
    """1 - the share of neighbouring 5x5 patches whose nearest neighbours are neighbours as well.

    For every patch of the texture the nearest patch of the exemplar is found (L2); a pair of
    patches one px apart, right or below, is coherent if theirs are apart by the same.

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
    validate_images(textures, "textures", lanes=len(exemplars))
    validate_images(exemplars, "exemplars")
    for name, images in (("textures", textures), ("exemplars", exemplars)):
        height, width = images.shape[-2:]
        if min(height, width) <= PATCH_SIDE:
            raise ValueError(f"{name} of {width}x{height} px, expected above {PATCH_SIDE}")
    pairs = zip(textures, exemplars, strict=True)
    return torch.stack([_displacement_score(texture, exemplar) for texture, exemplar in pairs])


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
    if textures.shape != exemplars.shape:
        raise ValueError(
            f"textures are {list(textures.shape)}, exemplars {list(exemplars.shape)}; expected the "
            "same"
        )
    layouts = [functional.avg_pool2d(images, LAYOUT_CELL) for images in (textures, exemplars)]
    left, right = (_of_unit_norm(_without_plane(layout)) for layout in layouts)
    at_zero = (left * right).sum((1, 2, 3)).clamp(-1, 1)
    left, right = (_of_unit_norm(layout - layout.mean((2, 3), keepdim=True)) for layout in layouts)
    product = torch.fft.rfft2(left) * torch.fft.rfft2(right).conj()
    shifted = torch.fft.irfft2(product.sum(1), s=left.shape[-2:]).clamp(-1, 1)
    return at_zero, shifted.flatten(1).amax(1)


def chroma_noise(images: Images) -> PerLane:
    """Energy of chroma above half the Nyquist frequency, as a share of the image's variance.

    Chroma is what remains of R, G, B without the luminance; the gray spectrum term does not see
    it. Coloured speckle lies there, photographs have next to nothing.

    Args:
        images: [B, 3, H, W] in [0, 1].

    Returns:
        [B]; 0 for a gray or a flat image, at most 3 |w|^2 = 1.34 with w the luminance weights.
    """
    height, width = images.shape[-2:]
    chroma = images - luminance(images)[:, None]
    spectrum: Tensor = torch.fft.fft2(chroma)
    power = spectrum.abs().square().sum(1) / (height * width)
    rows = torch.fft.fftfreq(height, device=images.device).abs()[:, None]
    columns = torch.fft.fftfreq(width, device=images.device).abs()[None, :]
    fine = torch.maximum(rows, columns) > 0.25
    variance = (images - images.mean((2, 3), keepdim=True)).square().sum((1, 2, 3))
    # What a flat image has is rounding noise.
    varied = variance > FLAT_VARIANCE * height * width
    return torch.where(varied, (power * fine).sum((1, 2)) / variance, 0)


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
    rows = max(1, MAX_DISTANCES // len(flat))
    parts = torch.split(queries, rows)
    nearest = torch.cat([torch.addmm(norms, part, columns).argmin(1) for part in parts])
    return torch.stack([nearest // width, nearest % width], dim=1)
