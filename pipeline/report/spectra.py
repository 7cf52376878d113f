"""The difference of two spectra as a picture.

With P_x(k) = sum_c |F x_c (k)|^2 averaged over square blocks of frequencies, a pixel shows

    D(k) = 10 log10((P_texture(k) + e) / (P_exemplar(k) + e))   in dB,

the log-magnitude of the texture less that of the exemplar. e is what rounding to 8 bits alone adds
to P: 3 H W / 12 / 255^2. Single frequencies of a random texture scatter by many dB, hence blocks.
"""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_SIDE = 128
"""Of the picture, px: larger spectra are averaged over blocks."""
RANGE_DB = 20.0
"""Differences beyond this get the last colour."""
COLOURS = "RdBu_r"
"""Blue where the texture has less than its exemplar, red where it has more."""


def compute_spectrum_difference(
    texture: NDArray[np.uint8], exemplar: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """The difference in dB, frequency zero in the middle.

    Args:
        texture: [H, W, 3], 0 to 255.
        exemplar: Of the same shape.

    Returns:
        [H / n, W / n] with the smallest block of n x n frequencies for which both sides are at most
        MAX_SIDE; what is left over at the right and lower edge is dropped.

    Raises:
        ValueError: The shapes differ.
    """
    if texture.shape != exemplar.shape:
        raise ValueError(f"texture {texture.shape}, exemplar {exemplar.shape}: expected one shape")
    height, width, channels = texture.shape
    rounding = channels * height * width / 12 / 255**2
    block = -(-max(height, width) // MAX_SIDE)
    made, wanted = (_power(image, block) + rounding for image in (texture, exemplar))
    difference: NDArray[np.float64] = 10 * np.log10(made / wanted)
    return difference


def draw_spectrum_difference(difference: NDArray[np.float64]) -> Image.Image:
    """A picture of a difference in dB, in the 256 colours of COLOURS."""
    scaled = np.clip(difference / RANGE_DB, -1, 1) * 127.5 + 127.5
    image = Image.fromarray(np.rint(scaled).astype(np.uint8))
    colours = mpl.colormaps[COLOURS](np.arange(256), bytes=True)[:, :3]
    image.putpalette(np.ascontiguousarray(colours).tobytes())
    return image


def _power(image: NDArray[np.uint8], block: int) -> NDArray[np.float64]:
    """Squared magnitudes, summed over the channels and averaged over blocks of frequencies."""
    transform = np.fft.fft2(image / 255.0, axes=(0, 1))
    power = np.fft.fftshift((np.abs(transform) ** 2).sum(-1))
    rows, columns = (side // block for side in power.shape)
    cut = power[: rows * block, : columns * block]
    averaged: NDArray[np.float64] = cut.reshape(rows, block, columns, block).mean((1, 3))
    return averaged
