"""Half the squared distance of an image to the images that have the exemplar's spectrum, per lane.

Liu, Gousseau, Xia (ICPR 2016), eqs. 6 to 8. With X the Fourier transform of the image, I the
exemplar's, M pixels and P the projection:

* gray:    1/2 |x - P(x)|^2 = 1/(2 M) sum_k (|X_k| - |I_k|)^2 (Parseval), x the luminance;
* colour:  P gives the channels one common phase u = z / |z|, z = sum_c X_c conj(I_c), so that
           1/2 |x - P(x)|^2 = 1/(2 M) sum_k sum_c |X_c - I_c u|^2.

Neither needs an inverse transform. Both gradients are x - P(x).
"""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from texsynth.shapes import Images, Luminance, PerLane

HalfSpectrum = Complex[Tensor, "*B H half_W"]
"""What rfft2 keeps: columns 0 to W // 2."""


def compute_spectrum(images: Float[Tensor, "*B H W"]) -> HalfSpectrum:
    """The unnormalised half spectrum, columns 0 to W // 2."""
    spectrum: Tensor = torch.fft.rfft2(images)
    return spectrum


def gray_spectrum_term(images: Luminance, magnitudes: Float[Tensor, "B H half_W"]) -> PerLane:
    """1/(2 M) sum_k (|X_k| - |I_k|)^2 of each lane, without weight.

    The gradient at a frequency where X is exactly 0 is 0.

    Args:
        images: [B, H, W], luminance of the textures.
        magnitudes: |I|, [B, H, W // 2 + 1], of the exemplars' luminance.

    Returns:
        [B]; 0 for every cyclic shift of the exemplar.
    """
    width = images.shape[-1]
    squares = (compute_spectrum(images).abs() - magnitudes).square()
    return _sum_frequencies(squares, width) / (2 * images[0].numel())


def colour_spectrum_term(
    images: Images, exemplar_spectrum: Complex[Tensor, "B 3 H half_W"]
) -> PerLane:
    """1/(2 M) sum_k sum_c |X_c - I_c u|^2 of each lane, without weight, u the common phase.

    The phase u minimises the sum, so its own derivative does not enter the gradient and it is held
    fixed; where z = 0 every phase is a minimiser and u = 1. Written as a sum of squares it does not
    cancel at low frequencies, as the expanded form |X|^2 + |I|^2 - 2 |z| does in float32.

    Args:
        images: [B, 3, H, W], the textures.
        exemplar_spectrum: I, [B, 3, H, W // 2 + 1].

    Returns:
        [B]; 0 for every cyclic shift of the exemplar.
    """
    spectrum = compute_spectrum(images)
    projection = exemplar_spectrum * _common_phase(spectrum, exemplar_spectrum)
    squares = torch.view_as_real(spectrum - projection).square().sum(-1)
    return _sum_frequencies(squares.sum(1), images.shape[-1]) / (2 * images[0, 0].numel())


def project_onto_spectrum(
    images: Images, exemplar_spectrum: Complex[Tensor, "B 3 H half_W"]
) -> Images:
    """P(x) of the colour form: the nearest images for which both spectrum terms are 0.

    Args:
        images: [B, 3, H, W].
        exemplar_spectrum: I, [B, 3, H, W // 2 + 1].
    """
    phase = _common_phase(compute_spectrum(images), exemplar_spectrum)
    projected: Images = torch.fft.irfft2(exemplar_spectrum * phase, s=images.shape[-2:])
    return projected


@torch.no_grad()
def _common_phase(
    spectrum: Complex[Tensor, "B 3 H half_W"], exemplar_spectrum: Complex[Tensor, "B 3 H half_W"]
) -> Complex[Tensor, "B 1 H half_W"]:
    """The phase of each frequency; 1 where z = 0."""
    z = (spectrum * exemplar_spectrum.conj()).sum(1, keepdim=True)
    return torch.where(z == 0, torch.ones_like(z), z.sgn())


def _sum_frequencies(half: Float[Tensor, "B H half_W"], width: int) -> PerLane:
    """Sum over the whole plane: the inner columns of a half spectrum stand for two."""
    inner = half[..., 1 : (width + 1) // 2].sum((1, 2))
    edges = half[..., 0].sum(1)
    if width % 2 == 0:
        edges = edges + half[..., width // 2].sum(1)
    return edges + 2 * inner
