"""What a texture of another size than its exemplar has for an exemplar of the whole image.

Gram matrices are means over positions and know no size. A spectrum does, and so does an image of
random phase. For them the exemplar is brought onto the torus of the texture as the spot of Galerne,
Gousseau, Morel, "Random Phase Textures: Theory and Synthesis" (IEEE TIP 2011), section V.C:

    canvas = m + sqrt(M / sum w^2) P(w (exemplar - m_w)),

M the pixels of the texture, m and m_w the exemplar's mean and its mean under the window w. Around a
larger texture P pads with zeros, which samples the exemplar's spectrum at more frequencies. Onto a
smaller one it wraps what sticks out around the torus, which samples it at fewer. Either way the
power spectral density, |F canvas|^2 / M, is on average that of a stationary exemplar. The window
falls to 0 at the exemplar's border, whose step would spread along both axes of the spectrum.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from texsynth.shapes import Images, Size

BORDER_SHARE = 0.1
"""Share of a side over which the window rises from 0 to 1, at either end."""


def make_canvas(exemplars: Images, size: Size, *, tileable: bool = False) -> Images:
    """Images of a texture's size that have the exemplars' means, spectra and colour correlations.

    Args:
        exemplars: [B, 3, H', W'] in [0, 1].
        size: (height, width) of the texture, px.
        tileable: whether the texture is to show no seam: then the step at the exemplar's border is
            taken out of its spectrum at its own size, too.

    Returns:
        [B, 3, H, W]; the exemplars themselves where that is their size, unless tileable. May leave
        [0, 1].
    """
    exemplar_size = (exemplars.shape[-2], exemplars.shape[-1])
    is_own = size == exemplar_size and not tileable
    return exemplars if is_own else _spread_spot(exemplars, size)


def _spread_spot(exemplars: Images, size: Size) -> Images:
    rows, columns = (_window(side).to(exemplars) for side in exemplars.shape[-2:])
    window = rows[:, None] * columns
    mean = exemplars.mean((2, 3), keepdim=True)
    inner_mean = (window * exemplars).sum((2, 3), keepdim=True) / window.sum()
    spot = _wrap(window * (exemplars - inner_mean), size)
    return mean + (math.prod(size) / window.square().sum()).sqrt() * spot


def _window(side: int) -> Tensor:
    """[side]: 1 inside, a raised cosine at either end."""
    distance = torch.arange(side, dtype=torch.float64) + 0.5
    distance = torch.minimum(distance, side - distance)
    return torch.sin(math.pi / 2 * (distance / (BORDER_SHARE * side)).clamp(max=1)).square()


def _wrap(images: Images, size: Size) -> Images:
    """What lies past the right and lower end of a torus of this size goes around it."""
    height, width = size
    down, right = (math.ceil(side / own) for side, own in zip(images.shape[-2:], size, strict=True))
    padding = (0, right * width - images.shape[-1], 0, down * height - images.shape[-2])
    padded = functional.pad(images, padding)
    return padded.view(*images.shape[:2], down, height, right, width).sum((2, 4))
