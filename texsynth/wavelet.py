"""Distance of the marginals of wavelet coefficients, as in Gonthier's evaluation.

Do and Vetterli, "Wavelet-based texture retrieval using generalized Gaussian density and
Kullback-Leibler distance" (IEEE TIP 2002); Gonthier, Gousseau, Ladjal (JMIV 2022), section 5.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from texsynth.pairs import validate_pairs
from texsynth.shapes import Images, PerLane

LEVELS = 3
LOW_PASS = (
    *(0.23037781330885523, 0.7148465705525415, 0.6308807679295904, -0.02798376941698385),
    *(-0.18703481171888114, 0.030841381835986965, 0.032883011666982945, -0.010597401784997278),
)
"""Daubechies' orthonormal filter with four vanishing moments, length 8: Daubechies, "Ten Lectures
on Wavelets" (1992), table 6.1. Eight numbers and two convolutions need no wavelet library, which
would work on the CPU, image by image."""
FAINTEST = 2e-4
"""Coefficients are at least this large: rounding to 8 bits alone makes noise of 1 / 255 / sqrt(12),
and what is far below it has no logarithm worth fitting."""
SHAPES = (0.2, 3.0)
"""Exponents of a density that are looked at. A Gaussian's is 2, photographs lie below."""
BISECTIONS = 24


class GeneralisedGaussians(NamedTuple):
    """Densities b / (2 a Gamma(1/b)) exp(-(|x| / a)^b), one for each sub-band.

    Args:
        scale: a, [B, bands].
        shape: b, [B, bands].
    """

    scale: Float[Tensor, "B bands"]
    shape: Float[Tensor, "B bands"]


def wavelet_kl(textures: Images, exemplars: Images) -> PerLane:
    """Sum over 27 sub-bands of the divergence of the texture's marginal from its exemplar's.

    Three levels of orthonormal wavelets with symmetric borders, three orientations, three channels.
    Each sub-band's coefficients are described by a generalised Gaussian around 0, fitted by maximum
    likelihood, and D(exemplar || texture) has the closed form of Do and Vetterli, eq. 11.

    Args:
        textures: [B, 3, H, W] in [0, 1].
        exemplars: [B, 3, H', W'] in [0, 1].

    Returns:
        [B], at least 0; 0 is good. Blind to where coefficients lie, so to all structure that no
        single band shows, but not to contrast, blur and sparseness.

    Raises:
        ValueError: if there are not as many textures as exemplars, pixels are not finite, or a side
            is below 32 px.
    """
    validate_pairs(textures, exemplars, fewest_px=32)
    texture, exemplar = (_fit_bands(images) for images in (textures, exemplars))
    return compute_divergence(exemplar, texture).sum(1).to(textures.dtype)


def compute_divergence(p: GeneralisedGaussians, q: GeneralisedGaussians) -> Tensor:
    """D(p || q) of each pair of densities, [B, bands], at least 0: Do and Vetterli, eq. 11."""
    logarithm = (
        (p.shape * q.scale / (q.shape * p.scale)).log()
        + torch.lgamma(1 / q.shape)
        - torch.lgamma(1 / p.shape)
    )
    moment = torch.lgamma((q.shape + 1) / p.shape) - torch.lgamma(1 / p.shape)
    ratio = (p.scale / q.scale).log() * q.shape + moment
    return (logarithm + ratio.exp() - 1 / p.shape).clamp(min=0)


def fit_generalised_gaussian(magnitudes: Float[Tensor, "B bands n"]) -> GeneralisedGaussians:
    """The likeliest density of each row: its shape b by bisection of the likelihood's derivative.

    Do and Vetterli, eqs. 5 to 7: with s = mean(|x|^b), a^b = b s and
    0 = 1 + psi(1/b) / b - mean(|x|^b log |x|) / s + log(b s) / b.

    Args:
        magnitudes: |x| above 0, [B, bands, n].

    Returns:
        Parameters in float64; shapes outside SHAPES are its ends.
    """
    mean = magnitudes.mean(-1, keepdim=True)
    logs = (magnitudes / mean).log()

    def moments(shape: Tensor) -> tuple[Tensor, Tensor]:
        powers = (shape[..., None].to(logs) * logs).exp()
        return powers.mean(-1).double(), (powers * logs).mean(-1).double()

    low, high = (torch.full_like(mean[..., 0], end).double() for end in SHAPES)
    for _ in range(BISECTIONS):
        shape = (low * high).sqrt()
        power, weighted = moments(shape)
        slope = (
            1 + torch.digamma(1 / shape) / shape - weighted / power + (shape * power).log() / shape
        )
        low, high = torch.where(slope > 0, shape, low), torch.where(slope > 0, high, shape)
    shape = (low * high).sqrt()
    scale = (shape * moments(shape)[0]) ** (1 / shape) * mean[..., 0].double()
    return GeneralisedGaussians(scale, shape)


def decompose(images: Float[Tensor, "B C H W"]) -> list[Float[Tensor, "B bands h w"]]:
    """Detail coefficients from fine to coarse: of each level 3 C bands.

    Args:
        images: [B, C, H, W].

    Returns:
        LEVELS tensors [B, 3 C, h, w], h = (H + 7) // 2 at the finest level; bands in the order
        (low rows, high columns), (high, low), (high, high), all channels of each together.
    """
    details = []
    for _ in range(LEVELS):
        images, *bands = _split(images)
        details.append(torch.cat(bands, dim=1))
    return details


def _fit_bands(images: Images) -> GeneralisedGaussians:
    fits = [
        fit_generalised_gaussian(level.flatten(2).abs().clamp(min=FAINTEST))
        for level in decompose(images)
    ]
    return GeneralisedGaussians(
        torch.cat([fit.scale for fit in fits], dim=1), torch.cat([fit.shape for fit in fits], dim=1)
    )


def _split(images: Float[Tensor, "B C H W"]) -> list[Float[Tensor, "B C h w"]]:
    """One level: low-low, low-high, high-low, high-high; rows first."""
    return [part for half in _filter(images, 2) for part in _filter(half, 3)]


def _filter(
    images: Float[Tensor, "B C H W"], dimension: int
) -> tuple[Float[Tensor, "B C h w"], Float[Tensor, "B C h w"]]:
    """Every second value of the low-pass and of the high-pass along one dimension."""
    side, reach = images.shape[dimension], len(LOW_PASS) - 1
    # Half-sample symmetric borders: ... 1 0 | 0 1 2 ... n | n ...
    index = torch.arange(-reach + 1, side + reach, device=images.device)
    index = torch.where(index < 0, -1 - index, index)
    index = torch.where(index >= side, 2 * side - 1 - index, index)
    lines = images.index_select(dimension, index).movedim(dimension, -1)
    low = images.new_tensor(LOW_PASS)
    high = low.flip(0) * low.new_tensor([1, -1] * (len(LOW_PASS) // 2))
    filtered = functional.conv1d(
        lines.reshape(-1, 1, lines.shape[-1]), torch.stack([low, high])[:, None], stride=2
    )
    halves = filtered.view(*lines.shape[:-1], 2, -1)
    return halves[..., 0, :].movedim(-1, dimension), halves[..., 1, :].movedim(-1, dimension)
