"""Second-order statistics of a texture beside its exemplar's: spectrum, autocorrelation, noise."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from texsynth.colour import FLAT_VARIANCE
from texsynth.images import luminance
from texsynth.pairs import validate_equal_shapes, validate_pairs
from texsynth.shapes import Images, PerLane
from texsynth.spectrum import colour_spectrum_term, compute_spectrum, gray_spectrum_term

LARGEST_LAG = 1 / 4
"""Of the autocorrelations that are compared, as a share of the shorter side of the smaller image.
Larger lags have few pixels to average over."""


def spectrum_error(textures: Images, exemplars: Images) -> PerLane:
    """Relative distance of the Fourier magnitudes of the luminance, without the frequency 0.

    sqrt(sum_k (|X_k| - |I_k|)^2 / sum_k |I_k|^2): the gray spectrum term of the loss
    (`texsynth.spectrum`) as a share.

    Args:
        textures: [B, 3, H, W] in [0, 1].
        exemplars: [B, 3, H, W] in [0, 1].

    Returns:
        [B], at least 0; 0 for a cyclic shift and for a random-phase image, 1 for a flat texture.
        Good is near 0. It says nothing of phases, so of no structure.

    Raises:
        ValueError: if the shapes differ.
    """
    validate_equal_shapes(textures, exemplars)
    texture, exemplar = (_centred(luminance(images)) for images in (textures, exemplars))
    term = gray_spectrum_term(texture, compute_spectrum(exemplar).abs())
    return _relative(term, exemplar.square().sum((1, 2)))


def colour_spectrum_error(textures: Images, exemplars: Images) -> PerLane:
    """The same of the three channels, which keep the exemplar's phases relative to each other.

    sqrt(sum_k sum_c |X_c - I_c u|^2 / sum_k sum_c |I_c|^2), u the common phase that fits best:
    the colour spectrum term of the loss as a share. Liu, Gousseau, Xia (ICPR 2016), eqs. 6 to 8.

    Args:
        textures: [B, 3, H, W] in [0, 1].
        exemplars: [B, 3, H, W] in [0, 1].

    Returns:
        [B], at least 0; 0 for a cyclic shift and for a random-phase image, 1 for a flat texture.
        Good is near 0.

    Raises:
        ValueError: if the shapes differ.
    """
    validate_equal_shapes(textures, exemplars)
    texture, exemplar = (_centred(images) for images in (textures, exemplars))
    term = colour_spectrum_term(texture, compute_spectrum(exemplar))
    return _relative(term, exemplar.square().sum((1, 2, 3)))


def autocorrelation_error(textures: Images, exemplars: Images) -> PerLane:
    """|a - a_exemplar| / |a_exemplar| of the normalised autocorrelations of the luminance.

    a as in `autocorrelation`, at lags of at most a quarter of the smaller image's shorter side.

    Args:
        textures: [B, 3, H, W] in [0, 1].
        exemplars: [B, 3, H', W'] in [0, 1].

    Returns:
        [B], at least 0; 0 is good, near 1 for white noise beside a texture. Blind to contrast.
        Even a cyclic shift is not 0: its seam goes through pixels that were neighbours.
    """
    validate_pairs(textures, exemplars, fewest_px=8)
    grays = [luminance(images) for images in (textures, exemplars)]
    lag = int(LARGEST_LAG * min(min(gray.shape[1:]) for gray in grays))
    left, right = (_lags_up_to(autocorrelation(gray), lag) for gray in grays)
    error: PerLane = (left - right).norm(dim=1) / right.norm(dim=1)
    return error


def autocorrelation(grays: Float[Tensor, "B H W"]) -> Float[Tensor, "B H W"]:
    """Correlation of an image with itself at every lag, each over the pixels that overlap.

    a(l) = mean over overlapping p of (g(p) - m)(g(p + l) - m), divided by a(0), m the mean. The
    image is not taken as periodic.

    Args:
        grays: [B, H, W].

    Returns:
        [B, H, W], lags (y, x) in the order of a Fourier transform: 0, 1, ..., -1 by index; at most
        half the side is held, larger lags are left out. A flat image has 1 at lag 0, 0 elsewhere.
    """
    height, width = grays.shape[1:]
    size = (2 * height, 2 * width)
    grays = _centred(grays)
    power = torch.fft.rfft2(grays, s=size).abs().square()
    overlap = torch.fft.rfft2(torch.ones_like(grays), s=size).abs().square()
    sums, counts = (torch.fft.irfft2(part, s=size) for part in (power, overlap))
    means = sums / counts.clamp(min=1)
    kept: Tensor = means[:, _central(height, grays)][:, :, _central(width, grays)]
    variance = kept[:, :1, :1]
    normalised = kept / variance.clamp(min=FLAT_VARIANCE)
    normalised[:, 0, 0] = 1
    return normalised


def high_frequency_ratio(textures: Images, exemplars: Images) -> PerLane:
    """The texture's share of energy above half the Nyquist frequency over its exemplar's.

    Energy of the luminance less its mean; a frequency counts as high if either coordinate is.

    Args:
        textures: [B, 3, H, W] in [0, 1].
        exemplars: [B, 3, H', W'] in [0, 1].

    Returns:
        [B], at least 0; 1 is good, below 1 blurred, above 1 noisy. Beside an exemplar without fine
        detail any of it is huge.
    """
    validate_pairs(textures, exemplars, fewest_px=4)
    texture, exemplar = (_fine_share(images) for images in (textures, exemplars))
    return texture / exemplar.clamp(min=1e-6)


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
    power = _power(chroma).sum(1)
    variance = (images - images.mean((2, 3), keepdim=True)).square().sum((1, 2, 3))
    # What a flat image has is rounding noise.
    varied = variance > FLAT_VARIANCE * height * width
    return torch.where(varied, (power * _is_fine(images)).sum((1, 2)) / variance, 0)


def _fine_share(images: Images) -> PerLane:
    gray = _centred(luminance(images))
    variance = gray.square().sum((1, 2))
    varied = variance > FLAT_VARIANCE * gray[0].numel()
    return torch.where(varied, (_power(gray) * _is_fine(images)).sum((1, 2)) / variance, 0)


def _power(images: Float[Tensor, "*B H W"]) -> Float[Tensor, "*B H W"]:
    """|F x|^2 / (H W); its sum is the sum of squares of the image."""
    spectrum: Tensor = torch.fft.fft2(images)
    return spectrum.abs().square() / (images.shape[-2] * images.shape[-1])


def _is_fine(images: Images) -> Bool[Tensor, "H W"]:
    """Frequencies above half the Nyquist frequency in either coordinate."""
    height, width = images.shape[-2:]
    rows = torch.fft.fftfreq(height, device=images.device).abs()[:, None]
    columns = torch.fft.fftfreq(width, device=images.device).abs()[None, :]
    return torch.maximum(rows, columns) > 0.25


def _centred(images: Float[Tensor, "*B H W"]) -> Float[Tensor, "*B H W"]:
    return images - images.mean((-2, -1), keepdim=True)


def _relative(term: PerLane, energy: PerLane) -> PerLane:
    """sqrt(2 term / energy): a spectrum term is half a squared distance of images."""
    return (2 * term / energy.clamp(min=FLAT_VARIANCE)).sqrt()


def _central(side: int, like: Tensor) -> Tensor:
    """Indices of the lags 0 to side / 2 and those below 0 in a transform of twice the side."""
    lags = torch.arange(side, device=like.device)
    return torch.where(lags <= side // 2, lags, lags + side)


def _lags_up_to(autocorrelations: Float[Tensor, "B H W"], lag: int) -> Float[Tensor, "B lags"]:
    """Lags of at most `lag` px in y and x."""
    kept = autocorrelations
    for dimension in (1, 2):
        side = kept.shape[dimension]
        index = torch.arange(-lag, lag + 1, device=kept.device) % side
        kept = kept.index_select(dimension, index)
    return kept.flatten(1)
