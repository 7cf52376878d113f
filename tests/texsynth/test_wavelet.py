from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from texsynth import PairError, wavelet_kl
from texsynth.wavelet import (
    LOW_PASS,
    GeneralisedGaussians,
    compute_divergence,
    decompose,
    fit_generalised_gaussian,
)

DrawImages = Callable[..., Tensor]


def test_the_filter_is_daubechies() -> None:
    """Orthonormal to its even shifts, four vanishing moments: up to reversal no other is."""
    low = np.array(LOW_PASS)
    high = low[::-1] * np.array([1, -1] * 4)
    for shift in range(0, 8, 2):
        product = low[: 8 - shift] @ low[shift:]
        assert product == pytest.approx(1 if shift == 0 else 0, abs=1e-12)
    for power in range(4):
        assert high @ np.arange(8.0) ** power == pytest.approx(0, abs=1e-9)
    assert low.sum() == pytest.approx(np.sqrt(2))


def slow_filter(line: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """Every second value, with half-sample symmetric borders."""
    padded = np.pad(line, 7, mode="symmetric")
    return np.array(
        [padded[start : start + 8] @ coefficients for start in range(1, len(line) + 7, 2)]
    )


@pytest.mark.parametrize("size", [(16, 24), (13, 10)])
def test_the_finest_level_is_the_loops(draw_images: DrawImages, size: tuple[int, int]) -> None:
    image = draw_images(1, *size)
    low = np.array(LOW_PASS)
    filters = (low, low[::-1] * np.array([1, -1] * 4))
    bands = [
        np.apply_along_axis(
            slow_filter, 2, np.apply_along_axis(slow_filter, 1, image[0].numpy(), f), g
        )
        for f in filters
        for g in filters
    ]
    finest = decompose(image)[0]
    np.testing.assert_allclose(finest[0].numpy(), np.concatenate(bands[1:]), atol=1e-12)
    assert finest.shape[2:] == ((size[0] + 7) // 2, (size[1] + 7) // 2)


def test_polynomials_have_no_detail_inside() -> None:
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    cubic = (x / 64) ** 3 + (y / 64) ** 2 + x / 64
    finest = decompose(cubic.double()[None, None])[0]
    assert finest[..., 4:-4, 4:-4].abs().max() < 1e-6


@pytest.mark.parametrize("shape", [0.5, 1.0, 2.0])
def test_the_fit_finds_the_parameters_of_its_own_draws(shape: float) -> None:
    # If G ~ Gamma(1/b), a G^(1/b) has the density of |x|.
    gamma = np.random.default_rng(0).gamma(1 / shape, size=(1, 2, 40_000))
    magnitudes = torch.from_numpy(np.array([[[0.3], [2.0]]]) * gamma ** (1 / shape))
    fit = fit_generalised_gaussian(magnitudes)
    assert fit.shape[0].tolist() == pytest.approx([shape, shape], rel=0.03)
    assert fit.scale[0].tolist() == pytest.approx([0.3, 2.0], rel=0.05)


def test_the_fit_is_the_likeliest(draw_images: DrawImages) -> None:
    magnitudes = draw_images(1, 20, 20).flatten()[None, None] ** 3 + 1e-3
    fit = fit_generalised_gaussian(magnitudes)

    def likelihood(scale: float, shape: float) -> float:
        normaliser = np.log(shape / (2 * scale)) - float(torch.lgamma(torch.tensor(1 / shape)))
        return normaliser - float(((magnitudes / scale) ** shape).mean())

    scale, shape = fit.scale.item(), fit.shape.item()
    best = likelihood(scale, shape)
    for factor in (0.98, 1.02):
        assert likelihood(scale * factor, shape) < best
        assert likelihood(scale, shape * factor) < best


def slow_divergence(p: tuple[float, float], q: tuple[float, float]) -> float:
    """The integral of p log(p / q), on a fine grid."""
    x = np.linspace(-60, 60, 1_200_001)
    step = x[1] - x[0]

    def log_density(scale: float, shape: float) -> np.ndarray:
        logs = -((np.abs(x) / scale) ** shape)
        return logs - np.log(np.exp(logs).sum() * step)

    left, right = log_density(*p), log_density(*q)
    return float((np.exp(left) * (left - right)).sum() * step)


@pytest.mark.parametrize(
    ("p", "q"), [((1.0, 2.0), (1.0, 2.0)), ((1.0, 2.0), (2.0, 1.0)), ((0.5, 1.0), (0.7, 1.5))]
)
def test_the_divergence_is_the_integral(p: tuple[float, float], q: tuple[float, float]) -> None:
    left, right = (
        GeneralisedGaussians(*(torch.tensor([[value]], dtype=torch.float64) for value in pair))
        for pair in (p, q)
    )
    expected = slow_divergence(p, q)
    assert compute_divergence(left, right).item() == pytest.approx(expected, abs=1e-5)


def test_wavelet_kl_sees_contrast_and_blur(draw_images: DrawImages) -> None:
    exemplar = draw_images(1, 64, 48)
    assert wavelet_kl(exemplar, exemplar).item() < 1e-12
    assert wavelet_kl(draw_images(1, 48, 64, seed=1), exemplar).item() < 0.5
    assert wavelet_kl(0.5 * exemplar, exemplar).item() > 5
    blurred = torch.nn.functional.avg_pool2d(exemplar, 5, 1)
    assert wavelet_kl(blurred, exemplar).item() > 20
    flat = torch.full_like(exemplar, 0.4)
    assert wavelet_kl(flat, flat).item() < 1e-12
    for pair in ((flat, exemplar), (exemplar, flat)):
        assert 100 < wavelet_kl(*pair).item() < float("inf")
    with pytest.raises(PairError, match="textures of 31x40 px, expected at least 32"):
        wavelet_kl(exemplar[..., :40, :31], exemplar)
