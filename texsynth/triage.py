"""What kind of image an exemplar is, before anything is spent on its synthesis.

Gram matrices describe stationary textures, and only what fits into the receptive field of their
taps: Berger and Memisevic, "Incorporating long-range consistency in CNN-based texture generation"
(ICLR 2017).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from texsynth.artefacts import gaussian_distance
from texsynth.features import Architecture, trunk_layers
from texsynth.images import luminance, validate_images
from texsynth.shapes import Images
from texsynth.spectral import autocorrelation

ExemplarKind = Literal["regular", "stochastic", "not_stationary", "too_few_repeats", "flat"]

FLAT_CONTRAST = 0.02
"""Root mean variance of a channel below which an exemplar is nearly flat: 5 levels of 256."""
REGULAR_PEAK = 0.35
"""Autocorrelation outside the centre from which a texture is regular."""
NOT_STATIONARY_SPREAD = 0.6
"""Quadrant spread from which an exemplar is not stationary."""
FEWEST_REPEATS = 4.0
"""Periods in the shorter side below which an exemplar shows too few repeats."""
PROMINENCE = 0.1
"""How far the autocorrelation falls on the way to a peak outside the centre."""
ANGLES = 72
"""Directions in half a turn along which the autocorrelation is looked at."""


@dataclass(frozen=True)
class ExemplarTriage:
    """The kind of one exemplar and the numbers behind it.

    Args:
        kind: `flat`, `not_stationary`, `too_few_repeats`, `regular` or `stochastic`, the first of
            them that holds.
        autocorrelation_peak: highest peak of the luminance's autocorrelation outside the centre, in
            [0, 1]; 0 where there is none.
        dominant_period_px: distance of the nearest peak that is nearly as high; None where there is
            none. Above the receptive field of the deepest tap it is not seen
            (`receptive_field_px`).
        quadrant_spread: root mean square distance of the quadrants' colours from the whole image's
            (means and standard deviations), in units of the contrast.
        contrast: root mean variance of a channel, in [0, 0.5].
    """

    kind: ExemplarKind
    autocorrelation_peak: float
    dominant_period_px: float | None
    quadrant_spread: float
    contrast: float


def triage_exemplars(exemplars: Images) -> tuple[ExemplarTriage, ...]:
    """The kind of each exemplar, with its numbers.

    Args:
        exemplars: [B, 3, H, W] in [0, 1], at least 16 px.

    Raises:
        ValueError: for another shape, pixels that are not finite, or a side below 16 px.
    """
    validate_images(exemplars, "exemplars")
    if min(exemplars.shape[-2:]) < 16:
        height, width = exemplars.shape[-2:]
        raise ValueError(f"exemplars of {width}x{height} px, expected at least 16")
    contrasts = exemplars.var((2, 3), correction=0).mean(1).sqrt()
    spreads = _quadrant_spread(exemplars)
    peaks = _find_peaks(autocorrelation(luminance(exemplars)))
    side = min(exemplars.shape[-2:])
    rows = zip(peaks, spreads.tolist(), contrasts.tolist(), strict=True)
    return tuple(
        ExemplarTriage(_kind(peak, period, spread, contrast, side), peak, period, spread, contrast)
        for (peak, period), spread, contrast in rows
    )


def receptive_field_px(tap: str, architecture: Architecture = "vgg19") -> int:
    """Side of the square of pixels that one position of a tap depends on.

    Args:
        tap: such as `pool3`.
        architecture: whose layers.

    Raises:
        ValueError: for an unknown tap.
    """
    field, stride = 1, 1
    for layer in trunk_layers(architecture):
        field += (2 if layer.channels is not None else 1) * stride
        stride = layer.stride
        if layer.tap == tap:
            return field
    raise ValueError(f"tap {tap!r} is not in {architecture}")


def _kind(
    peak: float, period: float | None, spread: float, contrast: float, side_px: int
) -> ExemplarKind:
    if contrast < FLAT_CONTRAST:
        return "flat"
    if spread > NOT_STATIONARY_SPREAD:
        return "not_stationary"
    if period is None or peak < REGULAR_PEAK:
        return "stochastic"
    return "regular" if side_px / period >= FEWEST_REPEATS else "too_few_repeats"


def _quadrant_spread(images: Images) -> Tensor:
    height, width = (side // 2 for side in images.shape[-2:])
    whole = images.flatten(2)
    squares = [
        gaussian_distance(part.flatten(2), whole).square()
        for half in (images[:, :, :height], images[:, :, height:])
        for part in (half[..., :width], half[..., width:])
    ]
    contrast = whole.var(2, correction=0).sum(1).clamp(min=1e-10)
    return (torch.stack(squares).mean(0) / contrast).sqrt()


def _find_peaks(
    autocorrelations: Float[Tensor, "B H W"],
) -> list[tuple[float, float | None]]:
    """Height of the highest peak outside the centre, and the distance of the nearest like it.

    A peak is a maximum along a ray from lag 0, before which the ray was lower by PROMINENCE. Lags
    go to half the shorter side.
    """
    rays = _sample_rays(autocorrelations)
    valleys = rays.cummin(-1).values
    inner = rays[..., 1:-1]
    is_peak = (
        (inner >= rays[..., :-2])
        & (inner >= rays[..., 2:])
        & (inner - valleys[..., 1:-1] > PROMINENCE)
    )
    heights = torch.where(is_peak, inner, -1)
    highest = heights.flatten(1).amax(1).clamp(max=1)
    nearest = (heights >= 0.9 * highest[:, None, None]).any(1).to(torch.uint8).argmax(-1)
    return [
        (height, radius + 1.0) if height > 0 else (0.0, None)
        for height, radius in zip(highest.tolist(), nearest.tolist(), strict=True)
    ]


def _sample_rays(autocorrelations: Float[Tensor, "B H W"]) -> Float[Tensor, "B angles radii"]:
    """Bilinear samples at radii 0, 1, ... px, up to half the shorter side, over half a turn."""
    height, width = autocorrelations.shape[1:]
    centred = autocorrelations.roll((height // 2, width // 2), (1, 2))
    device, dtype = centred.device, centred.dtype
    radii = torch.arange(min(height, width) // 2, device=device, dtype=dtype)
    angles = torch.arange(ANGLES, device=device, dtype=dtype) * (math.pi / ANGLES)
    y = height // 2 - angles.sin()[:, None] * radii
    x = width // 2 + angles.cos()[:, None] * radii
    grid = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], dim=-1)
    grid = grid.expand(len(centred), -1, -1, -1)
    return functional.grid_sample(centred[:, None], grid, align_corners=True)[:, 0]
