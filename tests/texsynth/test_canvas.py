from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from texsynth.canvas import BORDER_SHARE, make_canvas
from texsynth.spectrum import compute_spectrum
from texsynth.start import draw_starts

SIZES = [(96, 96), (24, 24), (20, 80), (48, 70), (49, 47)]


def draw(lanes: int, height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((lanes, 3, height, width), generator=generator, dtype=torch.float64)


def slow_canvas(exemplar: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The formula of the module for one channel, pixel by pixel."""
    sides = exemplar.shape
    window = np.ones(sides)
    for y in range(sides[0]):
        for x in range(sides[1]):
            for position, side in ((y, sides[0]), (x, sides[1])):
                distance = min(position + 0.5, side - position - 0.5) / (BORDER_SHARE * side)
                window[y, x] *= math.sin(math.pi / 2 * min(distance, 1)) ** 2
    inner_mean = (window * exemplar).sum() / window.sum()
    canvas = np.full(size, exemplar.mean())
    scale = math.sqrt(size[0] * size[1] / (window**2).sum())
    for y in range(sides[0]):
        for x in range(sides[1]):
            value = window[y, x] * (exemplar[y, x] - inner_mean)
            canvas[y % size[0], x % size[1]] += scale * value
    return canvas


@functools.cache
def draw_stationary(count: int, side: int) -> tuple[Tensor, float]:
    """Crops of noise on a much larger torus, and its correlation length: smooth, far from white."""
    length = 0.05
    size = (count, 3, 4 * side, 4 * side)
    noise = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    spectrum = torch.fft.fft2(noise) * density(4 * side, 4 * side, length).sqrt()
    return torch.fft.ifft2(spectrum).real[..., :side, :side] + 0.5, length


def density(height: int, width: int, length: float) -> Tensor:
    """Its power spectral density on a grid, steep as those of photographs are."""
    y, x = (torch.fft.fftfreq(side, dtype=torch.float64) for side in (height, width))
    return (y[:, None].square() + x.square() + length**2) ** -2


def test_the_canvas_of_the_same_size_is_the_exemplar() -> None:
    exemplars = draw(2, 12, 16)
    assert make_canvas(exemplars, (12, 16)) is exemplars


@pytest.mark.parametrize("size", [(30, 20), (7, 9), (5, 40), (12, 17)])
def test_another_size_has_the_windowed_spot_on_its_torus(size: tuple[int, int]) -> None:
    exemplar = draw(1, 12, 16)
    canvas = make_canvas(exemplar, size)[0].numpy()
    for channel in range(3):
        expected = slow_canvas(exemplar[0, channel].numpy(), size)
        np.testing.assert_allclose(canvas[channel], expected, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_it_keeps_the_mean_of_each_channel(size: tuple[int, int]) -> None:
    exemplars = draw(2, 48, 48) * torch.tensor([0.2, 0.5, 0.9])[:, None, None]
    means = make_canvas(exemplars, size).mean((2, 3))
    torch.testing.assert_close(means, exemplars.mean((2, 3)))


@pytest.mark.parametrize("size", SIZES)
def test_it_has_the_power_spectral_density_of_stationary_noise(size: tuple[int, int]) -> None:
    # Measured with 60 images: 0.97 to 1.2; without the window 1.7 at high frequencies, and 12 or
    # more on an axis.
    exemplars, length = draw_stationary(24, 48)
    canvas = make_canvas(exemplars, size)
    canvas = canvas - canvas.mean((2, 3), keepdim=True)
    power = torch.fft.fft2(canvas).abs().square().mean((0, 1)) / math.prod(size)
    ratio = power / density(*size, length)
    y, x = (torch.fft.fftfreq(side, dtype=torch.float64) for side in size)
    radius = (y[:, None].square() + x.square()).sqrt()
    for low, high in ((0.1, 0.25), (0.25, 0.5), (0.5, 0.75)):
        band = ratio[(radius >= low) & (radius < high)].mean().item()
        assert 0.9 < band < 1.25, (low, high)
    axes = torch.cat([ratio[0, x.abs() > 0.25], ratio[y.abs() > 0.25, 0]])
    assert 0.8 < axes.mean().item() < 1.4


def test_correlations_of_the_channels_survive() -> None:
    gray = draw(1, 40, 40)[:, :1]
    exemplar = torch.cat([gray, 0.5 * gray, 1 - gray], dim=1)
    for size in SIZES:
        spectrum = compute_spectrum(make_canvas(exemplar, size))[0]
        spectrum[:, 0, 0] = 0
        torch.testing.assert_close(spectrum[1], 0.5 * spectrum[0])
        torch.testing.assert_close(spectrum[2], -spectrum[0])


def test_lanes_do_not_see_each_other_and_flat_ones_stay_flat() -> None:
    exemplars = draw(3, 24, 24)
    exemplars[1] = 0.25
    together = make_canvas(exemplars, (40, 16))
    for lane in range(3):
        alone = make_canvas(exemplars[lane : lane + 1], (40, 16))[0]
        torch.testing.assert_close(together[lane], alone, rtol=0, atol=1e-14)
    torch.testing.assert_close(together[1], torch.full_like(together[1], 0.25))


def test_random_phase_has_its_spectrum() -> None:
    canvas = make_canvas(draw(1, 24, 24), (40, 52))
    start = draw_starts(canvas, [3], "random_phase")
    assert start.shape == (1, 3, 40, 52)
    torch.testing.assert_close(compute_spectrum(start).abs(), compute_spectrum(canvas).abs())
