from __future__ import annotations

import numpy as np
import pytest
import torch

from texsynth.config import Start
from texsynth.images import luminance
from texsynth.spectrum import colour_spectrum_term, compute_spectrum, gray_spectrum_term
from texsynth.start import draw_starts

SIZES = [(16, 16), (15, 17), (16, 13), (9, 12)]
STARTS: list[Start] = ["noise", "random_phase"]


def draw(lanes: int, height: int, width: int) -> torch.Tensor:
    return torch.rand((lanes, 3, height, width), dtype=torch.float64)


def test_noise_is_the_sigmoid_of_the_lanes_own_generator() -> None:
    starts = draw_starts(draw(2, 5, 7).float(), [3, 4], "noise")
    for lane, seed in enumerate((3, 4)):
        noise = torch.randn((3, 5, 7), generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(starts[lane], 1 / (1 + torch.exp(-noise)))


@pytest.mark.parametrize("size", SIZES)
def test_random_phase_adds_the_same_phases_to_all_channels(size: tuple[int, int]) -> None:
    """The definition, over the whole plane: F x_c = exp(i theta) F e_c, theta(-k) = -theta(k)."""
    exemplar = draw(1, *size)
    start = draw_starts(exemplar, [5], "random_phase")[0].numpy()
    ratio = np.fft.fft2(start) / np.fft.fft2(exemplar[0].numpy())
    np.testing.assert_allclose(np.abs(ratio), 1, rtol=1e-9)
    for channel in (1, 2):
        np.testing.assert_allclose(ratio[channel], ratio[0], rtol=1e-9, atol=1e-9)
    mirrored = np.roll(ratio[0][::-1, ::-1], (1, 1), (0, 1))
    np.testing.assert_allclose(ratio[0], mirrored.conj(), rtol=1e-9, atol=1e-9)
    assert ratio[0, 0, 0] == pytest.approx(1)


@pytest.mark.parametrize("size", SIZES)
def test_random_phase_keeps_mean_spectrum_and_colour_correlations(size: tuple[int, int]) -> None:
    exemplars = draw(2, *size)
    starts = draw_starts(exemplars, [0, 1], "random_phase")
    torch.testing.assert_close(starts.mean((2, 3)), exemplars.mean((2, 3)))
    for start, exemplar in zip(starts, exemplars, strict=True):
        torch.testing.assert_close(torch.cov(start.flatten(1)), torch.cov(exemplar.flatten(1)))
    assert (colour_spectrum_term(starts, compute_spectrum(exemplars)) < 1e-24).all()
    magnitudes = compute_spectrum(luminance(exemplars)).abs()
    assert (gray_spectrum_term(luminance(starts), magnitudes) < 1e-24).all()


def test_random_phases_are_uniform() -> None:
    exemplar = draw(1, 64, 64)
    start = draw_starts(exemplar, [0], "random_phase")
    phases = (compute_spectrum(start) / compute_spectrum(exemplar))[0, 0, 1:32, 1:32].angle()
    counts = torch.histc(phases, 8, -torch.pi, torch.pi)
    expected = phases.numel() / 8
    assert ((counts - expected).abs() < 5 * expected**0.5).all()  # five standard deviations


@pytest.mark.parametrize("start", STARTS)
def test_a_lane_depends_on_its_seed_and_nothing_else(start: Start) -> None:
    exemplars = draw(3, 8, 10)
    together = draw_starts(exemplars, [7, 8, 9], start)
    alone = draw_starts(exemplars[1:2], [8], start)
    assert torch.equal(together[1:2], alone)
    torch.manual_seed(0)
    assert torch.equal(draw_starts(exemplars, [7, 8, 9], start), together)


@pytest.mark.parametrize("start", STARTS)
def test_seeds_give_different_starts(start: Start) -> None:
    exemplar = draw(1, 8, 10).expand(2, -1, -1, -1)
    first, second = draw_starts(exemplar, [0, 1], start)
    assert (first - second).abs().mean() > 0.05


@pytest.mark.parametrize("start", STARTS)
def test_global_randomness_is_left_alone(start: Start) -> None:
    exemplar = draw(1, 8, 8)
    before = torch.get_rng_state()
    draw_starts(exemplar, [0], start)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_starts_have_size_and_dtype_of_the_exemplars(start: Start, dtype: torch.dtype) -> None:
    starts = draw_starts(draw(2, 9, 12).to(dtype), [0, 1], start)
    assert starts.shape == (2, 3, 9, 12)
    assert starts.dtype == dtype
    assert starts.isfinite().all()


def test_as_many_seeds_as_exemplars() -> None:
    with pytest.raises(ValueError, match="zip"):
        draw_starts(draw(2, 8, 8), [0], "noise")
