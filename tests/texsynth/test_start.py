from __future__ import annotations

import numpy as np
import pytest
import torch

from texsynth.config import Start
from texsynth.images import luminance, resize
from texsynth.spectrum import colour_spectrum_term, compute_spectrum, gray_spectrum_term
from texsynth.start import draw_starts, refine

FINER = [((16, 16), (32, 32)), ((7, 8), (15, 17)), ((16, 12), (33, 25))]
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


# A finer level


@pytest.mark.parametrize(("coarse", "fine"), FINER)
def test_a_finer_level_begins_with_the_exact_spectrum(
    coarse: tuple[int, int], fine: tuple[int, int]
) -> None:
    exemplars = draw(2, *fine)
    refined = refine(draw(2, *coarse), exemplars, [0, 1])
    assert refined.shape == exemplars.shape
    assert (colour_spectrum_term(refined, compute_spectrum(exemplars)) < 1e-24).all()
    magnitudes = compute_spectrum(luminance(exemplars)).abs()
    assert (gray_spectrum_term(luminance(refined), magnitudes) < 1e-24).all()
    torch.testing.assert_close(refined.mean((2, 3)), exemplars.mean((2, 3)))


def test_a_finer_level_keeps_what_the_coarser_has_made() -> None:
    """The coarser image has the phases of a texture of its own, with the exemplar's spectrum."""
    fine = draw(2, 64, 64)
    exemplars = resize(draw(2, 16, 16), 64, 64) + 0.2 * (fine - 0.5)
    images = draw_starts(resize(exemplars, 32, 32), [5, 6], "random_phase")
    refined = refine(images, exemplars, [0, 1])
    kept = resize(refined, 32, 32)
    for lane in range(2):
        pairs = torch.stack([kept[lane].flatten(), images[lane].flatten()])
        assert torch.corrcoef(pairs)[0, 1] > 0.95
    # And has the detail that the exemplar has, which enlarging alone does not.
    enlarged = resize(images, 64, 64)

    def detail(x: torch.Tensor) -> torch.Tensor:
        return (x - resize(resize(x, 32, 32), 64, 64)).square().mean((1, 2, 3))

    # About as much: resizing knows nothing of the border's being cyclic.
    assert (detail(refined) / detail(exemplars)).log2().abs().max() < 1
    assert (detail(enlarged) < 0.25 * detail(exemplars)).all()


def test_a_seed_and_a_level_have_detail_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    exemplar, image = draw(1, 32, 32), draw(1, 16, 16)
    first = refine(image, exemplar, [7])
    assert torch.equal(refine(image, exemplar, [7]), first)
    assert (refine(image, exemplar, [8]) - first).abs().mean() > 0.02
    streams: list[int] = []

    def spy(exemplars: torch.Tensor, seeds: list[int], start: Start) -> torch.Tensor:
        assert start == "random_phase"
        streams.extend(seeds)
        return draw_starts(exemplars, seeds, start)

    monkeypatch.setattr("texsynth.start.draw_starts", spy)
    for side in (16, 32, 64):
        refine(draw(1, side // 2, side // 2), draw(1, side, side), [7])
    # The stream is neither that of the start nor that of another level.
    assert len({7, *streams}) == 4


def test_detail_depends_on_the_lane_alone_and_leaves_global_randomness() -> None:
    exemplars, images = draw(3, 16, 20), draw(3, 8, 10)
    state = torch.get_rng_state()
    together = refine(images, exemplars, [7, 8, 9])
    assert torch.equal(torch.get_rng_state(), state)
    alone = refine(images[1:2], exemplars[1:2], [8])
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=1e-14)
    order = torch.tensor([2, 0, 1])
    shuffled = refine(images[order], exemplars[order], [9, 7, 8])
    torch.testing.assert_close(shuffled, together[order], rtol=0, atol=1e-14)


@pytest.mark.parametrize("seed", [0, -5, 2**63 - 1, -(2**63)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_seed_has_detail_of_the_exemplar_s_dtype(seed: int, dtype: torch.dtype) -> None:
    exemplar, image = draw(1, 16, 16).to(dtype), draw(1, 8, 8).to(dtype)
    refined = refine(image, exemplar, [seed])
    assert refined.dtype == dtype
    assert refined.isfinite().all()


def test_flat_images_and_exemplars_are_refined_to_finite_ones() -> None:
    exemplar, flat = draw(1, 16, 16), torch.full((1, 3, 16, 16), 0.5).double()
    assert refine(flat[..., :8, :8], exemplar, [0]).isfinite().all()
    torch.testing.assert_close(refine(exemplar[..., :8, :8], flat, [0]), flat)
