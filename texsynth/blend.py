"""Textures of two exemplars at once: what their loss is towards.

Gram matrices are means over positions. Those of a surface that is the first exemplar on a share
1 - w and the second on w are (1 - w) G_a + w G_b, symmetric and positive semidefinite as both are;
that is the target of every tap. The spectrum's target is that of an image, whose power is to be

    sum_c |I_c|^2 = (1 - w) sum_c |A_c|^2 + w sum_c |B_c|^2

at every frequency but 0, where the mean colours are interpolated. Xia, Ferradans, Peyre, Aujol,
"Synthesizing and Mixing Stationary Gaussian Texture Models" (SIAM J. Imaging Sciences 7, 2014) mix
two such spots, A and B, along the geodesic (1 - w) A + w B u, u the common phase that brings B
nearest to A. That interpolates amplitudes and so has less power than the Gram matrices ask for.
Here it is

    I = sqrt(1 - w) A + i sqrt(w) B u:

a quarter turn apart, the two do not interfere, because sum_c A_c conj(B_c u) is real. Where all
channels are in proportion, as in gray exemplars, this holds for every channel by itself; else what
one gains by interference others lose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from texsynth.canvas import make_canvas
from texsynth.images import resize, validate_images
from texsynth.shapes import Images, PerLane, Size
from texsynth.spectrum import compute_spectrum, project_onto_spectrum


@dataclass(frozen=True)
class Blend:
    """Second exemplars of the lanes of a batch.

    Args:
        partners: [B, 3, H', W'] in [0, 1], of the first ones' size; anything where the weight is 0.
        weights: [B], of the second exemplars, in [0, 1]; 0 is no blend.
    """

    partners: Images
    weights: PerLane

    @property
    def lanes(self) -> Tensor:
        """Indices of the lanes that are blends."""
        return self.weights.nonzero().flatten()

    def select(self, lane: int) -> Blend | None:
        """Of one lane; None where that is no blend."""
        chosen = slice(lane, lane + 1)
        blend = Blend(self.partners[chosen], self.weights[chosen])
        return blend if len(blend.lanes) else None

    def to(self, device: torch.device) -> Blend:
        """The same on a device."""
        return Blend(self.partners.to(device), self.weights.to(device))

    def resize(self, size: Size) -> Blend:
        """The same with partners of another size."""
        return Blend(resize(self.partners, *size), self.weights)


def validate_blend(
    exemplars: Images, blend_with: Images | None, weights: Sequence[float] | None
) -> Blend | None:
    """Second exemplars as they are given, beside the first ones; None without any.

    Raises:
        ValueError: if one is given without the other, shapes differ, or a weight is out of range.
    """
    if blend_with is None and weights is None:
        return None
    if blend_with is None or weights is None:
        raise ValueError("blend_with and blend_weights: one is missing, expected both or neither")
    validate_images(blend_with, "blend_with")
    if blend_with.shape != exemplars.shape:
        raise ValueError(
            f"blend_with is {list(blend_with.shape)}, expected {list(exemplars.shape)}, as the "
            "exemplars"
        )
    if len(weights) != len(exemplars) or not all(0 <= weight <= 1 for weight in weights):
        raise ValueError(
            f"blend_weights is {list(weights)}, expected {len(exemplars)} numbers from 0 to 1"
        )
    return Blend(blend_with.float(), torch.tensor(weights, dtype=torch.float32))


def make_blended_canvas(
    exemplars: Images, size: Size, blend: Blend | None, *, tileable: bool = False
) -> Images:
    """The canvas of each lane (`texsynth.canvas`), that of both exemplars where it is a blend.

    Args:
        exemplars: [B, 3, H', W'] in [0, 1].
        size: (height, width) of the textures, px.
        blend: of the same lanes and size; None is no blend.
        tileable: as of `make_canvas`.

    Returns:
        [B, 3, H, W]; of a lane that is no blend exactly what `make_canvas` gives.
    """
    canvas = make_canvas(exemplars, size, tileable=tileable)
    if blend is None or not len(blend.lanes):
        return canvas
    lanes = blend.lanes
    partners = make_canvas(blend.partners[lanes], size, tileable=tileable)
    mixed = mix_spectra(canvas[lanes], partners, blend.weights[lanes])
    return canvas.index_copy(0, lanes, mixed)


def mix_spectra(first: Images, second: Images, weights: PerLane) -> Images:
    """Images whose power spectra, summed over the channels, lie between those of two others.

    Args:
        first: [B, 3, H, W].
        second: [B, 3, H, W].
        weights: [B], of the second, in [0, 1].

    Returns:
        [B, 3, H, W]; the first for a weight of 0, for 1 an image of the second's spectrum.
    """
    share = weights.to(first)[:, None, None, None]
    a = compute_spectrum(first)
    b = compute_spectrum(project_onto_spectrum(first, compute_spectrum(second)))
    turned = _quarter_turn((first.shape[-2], first.shape[-1])).to(a) * b
    mixed = (1 - share).sqrt() * a + share.sqrt() * turned
    wanted = (1 - share) * _power(a) + share * _power(b)
    # No change but at the frequencies that cannot be turned.
    tiny = torch.finfo(first.dtype).tiny
    mixed = mixed * (wanted / _power(mixed).clamp(min=tiny)).sqrt()
    mixed[..., 0, 0] = torch.lerp(a[..., 0, 0].real, b[..., 0, 0].real, share[..., 0, 0]).to(a)
    images: Images = torch.fft.irfft2(mixed, s=first.shape[-2:])
    return images


def _power(spectrum: Tensor) -> Tensor:
    """Of all channels together, [B, 1, H, W // 2 + 1]."""
    return torch.view_as_real(spectrum).square().sum((1, -1)).unsqueeze(1)


def _quarter_turn(size: Size) -> Tensor:
    """[H, W // 2 + 1]: i at one of every two opposite frequencies, -i at the other.

    A frequency that is its own opposite has a real value in the spectrum of a real image: 1.
    """
    height, width = size
    turn = torch.ones((height, width // 2 + 1), dtype=torch.complex128) * 1j
    edges = [0, width // 2] if width % 2 == 0 else [0]
    for column in edges:
        turn[height // 2 + 1 :, column] *= -1
        turn[0, column] = 1
        if height % 2 == 0:
            turn[height // 2, column] = 1
    return turn
