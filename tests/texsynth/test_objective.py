from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from texsynth import LossTerms, SynthesisConfig, TapError, TextureNetwork, TextureObjective

DrawImages = Callable[..., Tensor]
TAPS = ("relu1_1", "pool1", "pool2")
SPECTRA = ["none", "gray", "colour"]


def config_of(**changes: Any) -> SynthesisConfig:
    """Weights that make all three terms matter at these sizes."""
    settings = {"taps": TAPS, "gram_weight": 1e3, "spectrum_weight": 3e-7, "range_weight": 10.0}
    return SynthesisConfig(**({"clamp": False} | settings | changes))


def slow_terms(
    network: TextureNetwork, image: Tensor, exemplar: Tensor, config: SynthesisConfig
) -> tuple[list[Tensor], Tensor, Tensor]:
    """The formulas of the module for one lane [3, H, W], with the spectrum term as a projection."""
    gram = []
    for tap in TAPS:
        difference = torch.zeros(())
        for sign, picture in ((1, image), (-1, exemplar)):
            (features,) = network(picture[None], (tap,))
            flat = features[0].flatten(1)
            difference = difference + sign * (flat @ flat.T) / (4 * flat.shape[0] * flat.shape[1])
        gram.append(config.gram_weight * (difference**2).sum())
    spectrum = torch.zeros((), dtype=image.dtype)
    if config.spectrum != "none":
        x, e = image, exemplar
        if config.spectrum == "gray":
            gray = torch.tensor([[0.2989], [0.587], [0.114]], dtype=image.dtype)[:, :, None]
            x, e = (gray * image).sum(0, keepdim=True), (gray * exemplar).sum(0, keepdim=True)
        fx, fe = torch.fft.fft2(x), torch.fft.fft2(e)
        z = (fx * fe.conj()).sum(0)
        projection = torch.fft.ifft2(fe * z / z.abs()).real
        factor = config.spectrum_weight * 1e5 * 256**2 / image[0].numel()
        spectrum = factor * ((x - projection) ** 2).sum() / 2
    above, below = image[image > 1] - 1, image[image < 0]
    outside = config.range_weight * ((above**2).sum() + (below**2).sum())
    return gram, spectrum, outside


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("size", [(16, 16), (9, 14)])
def test_terms_are_the_formulas(
    network: TextureNetwork, draw_images: DrawImages, spectrum: str, size: tuple[int, int]
) -> None:
    exemplars, images = draw_images(2, *size), 1.5 * draw_images(2, *size, seed=1) - 0.25
    config = config_of(spectrum=spectrum)
    terms = TextureObjective(network, exemplars, config)(images)
    assert (terms.gram.shape, terms.spectrum.shape, terms.range.shape) == ((2, 3), (2,), (2,))
    for lane in range(2):
        gram, spectral, outside = slow_terms(network, images[lane], exemplars[lane], config)
        torch.testing.assert_close(terms.gram[lane], torch.stack(gram), rtol=1e-9, atol=0)
        torch.testing.assert_close(terms.spectrum[lane], spectral, rtol=1e-9, atol=0)
        torch.testing.assert_close(terms.range[lane], outside, rtol=1e-9, atol=0)


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_gradient_is_that_of_the_formulas(
    network: TextureNetwork, draw_images: DrawImages, spectrum: str
) -> None:
    exemplars, images = draw_images(2, 9, 12), 1.5 * draw_images(2, 9, 12, seed=1) - 0.25
    config = config_of(spectrum=spectrum)
    value, gradient = TextureObjective(network, exemplars, config).value_and_gradient(images)
    for lane in range(2):
        image = images[lane].clone().requires_grad_()
        gram, spectral, outside = slow_terms(network, image, exemplars[lane], config)
        total = sum(gram) + spectral + outside
        (expected,) = torch.autograd.grad(total, image)
        assert value[lane].item() == pytest.approx(total.item(), rel=1e-9)
        torch.testing.assert_close(gradient[lane], expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_gradcheck(network: TextureNetwork, draw_images: DrawImages, spectrum: str) -> None:
    objective = TextureObjective(network, draw_images(2, 4, 6), config_of(spectrum=spectrum))
    images = (1.5 * draw_images(2, 4, 6, seed=1) - 0.25).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: objective(x).total, (images,), eps=1e-7, atol=1e-4)


def test_value_and_gradient_under_no_grad(network: TextureNetwork, draw_images: DrawImages) -> None:
    objective = TextureObjective(network, draw_images(2, 8, 8).float().double(), config_of())
    images = draw_images(2, 8, 8, seed=1)
    before = images.clone()
    with torch.no_grad():
        value, gradient = objective.value_and_gradient(images)
    assert value.dtype == torch.float64
    assert not value.requires_grad
    assert not images.requires_grad
    assert torch.equal(images, before)
    torch.testing.assert_close(value, objective(images).total)
    assert gradient.shape == images.shape


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_the_exemplar_itself_costs_nothing(
    network: TextureNetwork, draw_images: DrawImages, spectrum: str
) -> None:
    exemplars = draw_images(2, 16, 17)
    terms = TextureObjective(network, exemplars, config_of(spectrum=spectrum))(exemplars)
    assert (terms.total < 1e-20).all()
    assert torch.equal(terms.range, torch.zeros(2).double())


def test_range_term_counts_what_lies_outside(
    network: TextureNetwork, draw_images: DrawImages
) -> None:
    exemplars = draw_images(1, 8, 8)
    images = torch.full_like(exemplars, 0.5)
    images[0, 0, 0, :4] = torch.tensor([1.5, -0.25, 0.0, 1.0])
    terms = TextureObjective(network, exemplars, config_of(range_weight=8.0))(images)
    assert terms.range.item() == pytest.approx(8 * (0.5**2 + 0.25**2))
    free = TextureObjective(network, exemplars, config_of(range_weight=0.0))(images)
    assert free.range.item() == 0
    assert torch.equal(free.gram, terms.gram)


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_with_clamp_all_but_the_range_term_are_of_the_clamped_image(
    network: TextureNetwork, draw_images: DrawImages, spectrum: str
) -> None:
    exemplars, images = draw_images(2, 16, 16), 1.5 * draw_images(2, 16, 16, seed=1) - 0.25
    free = TextureObjective(network, exemplars, config_of(spectrum=spectrum))
    clamped = TextureObjective(network, exemplars, config_of(spectrum=spectrum, clamp=True))
    terms, expected = clamped(images), free(images.clamp(0, 1))
    assert torch.equal(terms.gram, expected.gram)
    assert torch.equal(terms.spectrum, expected.spectrum)
    assert torch.equal(terms.range, free(images).range)
    assert (terms.range > 0).all()


def test_with_clamp_a_pixel_outside_is_moved_by_the_range_term_alone(
    network: TextureNetwork, draw_images: DrawImages
) -> None:
    exemplars, images = draw_images(1, 16, 16), 1.5 * draw_images(1, 16, 16, seed=1) - 0.25
    objective = TextureObjective(network, exemplars, config_of(clamp=True, range_weight=8.0))
    _, gradient = objective.value_and_gradient(images)
    outside = (images < 0) | (images > 1)
    excess = images - images.clamp(0, 1)
    assert outside.any()
    assert not outside.all()
    assert torch.equal(gradient[outside], (16.0 * excess)[outside])
    assert (gradient[~outside] != 0).all()


@pytest.mark.parametrize("name", ["gram_weight", "spectrum_weight", "range_weight"])
def test_weights_are_factors_of_their_terms(
    network: TextureNetwork, draw_images: DrawImages, name: str
) -> None:
    exemplars, images = draw_images(1, 8, 8), 2 * draw_images(1, 8, 8, seed=1)
    config = config_of()
    heavier = dataclasses.replace(config, **{name: 4 * getattr(config, name)})
    before = TextureObjective(network, exemplars, config)(images)
    after = TextureObjective(network, exemplars, heavier)(images)
    for term in ("gram", "spectrum", "range"):
        factor = 4 if name.startswith(term) else 1
        torch.testing.assert_close(getattr(after, term), factor * getattr(before, term))


@pytest.mark.parametrize(("weight", "growth"), [(0.3, 1), ("reference", 4)])
@pytest.mark.parametrize("spectrum", ["gray", "colour"])
def test_a_number_as_weight_of_the_spectrum_means_the_same_at_every_size(
    network: TextureNetwork, draw_images: DrawImages, spectrum: str, weight: Any, growth: int
) -> None:
    """Of four copies side by side, whose Gram matrices are means over as many equal positions."""
    config = config_of(spectrum=spectrum, spectrum_weight=weight)
    exemplars, images = draw_images(2, 8, 12), draw_images(2, 8, 12, seed=1)
    small = TextureObjective(network, exemplars, config)(images).spectrum
    repeated = TextureObjective(network, exemplars.repeat(1, 1, 2, 2), config)
    large = repeated(images.repeat(1, 1, 2, 2)).spectrum
    torch.testing.assert_close(large, growth * small, rtol=1e-9, atol=0)


def test_a_weight_of_1_is_the_reference_at_256_px_alone() -> None:
    one, reference = (config_of(spectrum_weight=weight) for weight in (1, "reference"))
    assert one.spectrum_factor(256 * 256) == reference.spectrum_factor(256 * 256) == 1e5
    assert one.spectrum_factor(128 * 512) == reference.spectrum_factor(1) == 1e5
    assert one.spectrum_factor(128 * 128) == 4e5


def test_total_is_the_sum_of_all_terms() -> None:
    terms = LossTerms(
        gram=torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        spectrum=torch.tensor([10.0, 20.0]),
        range=torch.tensor([100.0, 200.0]),
    )
    assert terms.total.tolist() == [113, 227]


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_batch_equals_the_stack_of_singles(
    network: TextureNetwork, draw_images: DrawImages, spectrum: str
) -> None:
    """In float64 to 1e-12: convolutions and matrix products may round by batch size."""
    exemplars, images = draw_images(3, 16, 13), draw_images(3, 16, 13, seed=1)
    config = config_of(spectrum=spectrum)
    value, gradient = TextureObjective(network, exemplars, config).value_and_gradient(images)
    for lane in range(3):
        one = slice(lane, lane + 1)
        alone = TextureObjective(network, exemplars[one], config).value_and_gradient(images[one])
        torch.testing.assert_close(value[one], alone[0], rtol=1e-12, atol=0)
        torch.testing.assert_close(gradient[one], alone[1], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_lane_isolation_under_nan(
    network: TextureNetwork, draw_images: DrawImages, spectrum: str
) -> None:
    objective = TextureObjective(network, draw_images(3, 16, 16), config_of(spectrum=spectrum))
    images = draw_images(3, 16, 16, seed=1)
    value, gradient = objective.value_and_gradient(images)
    images[1, 2, 3, 4] = torch.nan
    poisoned_value, poisoned_gradient = objective.value_and_gradient(images)
    assert poisoned_value[1].isnan()
    others = [0, 2]
    assert torch.equal(poisoned_value[others], value[others])
    assert torch.equal(poisoned_gradient[others], gradient[others])


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_select_takes_lanes_in_the_order_given(
    network: TextureNetwork, draw_images: DrawImages, spectrum: str
) -> None:
    exemplars, images = draw_images(4, 16, 16), draw_images(4, 16, 16, seed=1)
    objective = TextureObjective(network, exemplars, config_of(spectrum=spectrum))
    lanes = torch.tensor([3, 1])
    chosen = objective.select(lanes)
    assert (chosen.lanes, objective.lanes) == (2, 4)
    assert (chosen.taps, chosen.size) == (objective.taps, objective.size)
    torch.testing.assert_close(chosen(images[lanes]).total, objective(images).total[lanes])


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_replace_gives_lanes_new_exemplars(
    network: TextureNetwork, draw_images: DrawImages, spectrum: str
) -> None:
    config = config_of(spectrum=spectrum)
    images, old = draw_images(4, 16, 16, seed=1), draw_images(4, 16, 16)
    new = draw_images(2, 16, 16, seed=2)
    objective = TextureObjective(network, old, config)
    kept = objective.select(torch.arange(4))
    before = objective(images).total
    objective.replace(torch.tensor([2, 0]), TextureObjective(network, new, config))
    exemplars = torch.stack([new[1], old[1], new[0], old[3]])
    expected = TextureObjective(network, exemplars, config)(images).total
    torch.testing.assert_close(objective(images).total, expected, rtol=1e-12, atol=0)
    assert torch.equal(kept(images).total, before)  # a selection has targets of its own


def test_taps_follow_the_rule_of_the_network(
    network: TextureNetwork, draw_images: DrawImages
) -> None:
    assert TextureObjective(network, draw_images(1, 32, 40), config_of(taps="auto")).taps == (
        "relu1_1",
        "pool1",
    )
    with pytest.raises(TapError, match="image of 16x12 px, tap 'relu1_1' needs 16x16"):
        TextureObjective(network, draw_images(1, 12, 16), config_of(taps="auto"))


def test_exemplars_that_are_not_finite_are_named(
    network: TextureNetwork, draw_images: DrawImages
) -> None:
    exemplars = draw_images(3, 16, 16)
    exemplars[1, 0, 0, 0] = torch.inf
    with pytest.raises(ValueError, match=r"exemplars has NaN or infinite pixels in lanes \[1\]"):
        TextureObjective(network, exemplars, config_of())
    with pytest.raises(ValueError, match=r"exemplars is torch.float64 \[3, 16, 16\]"):
        TextureObjective(network, exemplars[0], config_of())


@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (2, 3, 16, 17), (2, 1, 16, 16)])
def test_images_of_another_shape_are_refused(
    network: TextureNetwork, draw_images: DrawImages, shape: tuple[int, ...]
) -> None:
    objective = TextureObjective(network, draw_images(2, 16, 16), config_of())
    with pytest.raises(ValueError, match="images are") as caught:
        objective(torch.zeros(shape).double())
    assert str(caught.value) == f"images are {list(shape)}, expected [2, 3, 16, 16]"


def test_the_objective_is_deterministic(network: TextureNetwork, draw_images: DrawImages) -> None:
    objective = TextureObjective(network, draw_images(2, 16, 16), config_of())
    images = draw_images(2, 16, 16, seed=1)
    first, second = (objective.value_and_gradient(images) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


# With all parts weighted anew


def evened(
    network: TextureNetwork, exemplars: Tensor, config: SynthesisConfig, images: Tensor
) -> TextureObjective:
    objective = TextureObjective(network, exemplars, config)
    objective.even_out(images)
    return objective


def slow_weighted_total(
    network: TextureNetwork, image: Tensor, exemplar: Tensor, objective: TextureObjective, lane: int
) -> Tensor:
    """The sum over all entries of all terms, each times its weight."""
    config, metric = objective.config, objective._metric
    assert metric is not None
    _, spectrum, outside = slow_terms(network, image, exemplar, config)
    total = metric.spectrum[lane] * spectrum + metric.range[lane] * outside
    for tap, (bases, weights) in zip(TAPS, metric.gram, strict=True):
        inner = torch.zeros(())
        for sign, picture in ((1, image), (-1, exemplar)):
            (features,) = network(picture[None], (tap,))
            rotated = bases[lane].T @ features[0].flatten(1)
            inner = inner + sign * (rotated @ rotated.T) / (4 * rotated.numel())
        total = total + config.gram_weight * (weights[lane] * inner**2).sum()
    return total


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_evened_out_it_minimises_the_weighted_sum(
    network: TextureNetwork, draw_images: DrawImages, spectrum: str
) -> None:
    exemplars, images = draw_images(2, 9, 12), 1.5 * draw_images(2, 9, 12, seed=1) - 0.25
    objective = evened(network, exemplars, config_of(spectrum=spectrum), images)
    # Elsewhere than where it was measured.
    images = 1.5 * draw_images(2, 9, 12, seed=2) - 0.25
    value, gradient = objective.value_and_gradient(images)
    assert (value < objective(images).total).all()
    for lane in range(2):
        image = images[lane].clone().requires_grad_()
        total = slow_weighted_total(network, image, exemplars[lane], objective, lane)
        (expected,) = torch.autograd.grad(total, image)
        assert value[lane].item() == pytest.approx(total.item(), rel=1e-9)
        torch.testing.assert_close(gradient[lane], expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_the_loss_that_is_reported_knows_of_no_weights(
    network: TextureNetwork, draw_images: DrawImages, spectrum: str
) -> None:
    config = config_of(spectrum=spectrum)
    exemplars, images = draw_images(2, 16, 13), 1.5 * draw_images(2, 16, 13, seed=1) - 0.25
    objective = TextureObjective(network, exemplars, config)
    before = objective(images)
    objective.even_out(images)
    after = objective(images)
    for term in ("gram", "spectrum", "range"):
        assert torch.equal(getattr(after, term), getattr(before, term))
    value, gradient = evened(network, exemplars, config, images).value_and_gradient(exemplars)
    assert (value < 1e-20).all()
    assert gradient.abs().max() < 1e-9


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_selected_and_replaced_lanes_bring_their_weights(
    network: TextureNetwork, draw_images: DrawImages, spectrum: str
) -> None:
    config, at = config_of(spectrum=spectrum), draw_images(4, 16, 16, seed=1)
    old, new = draw_images(4, 16, 16), draw_images(2, 16, 16, seed=2)
    objective, lanes = evened(network, old, config, at), torch.tensor([3, 1])
    images = draw_images(4, 16, 16, seed=3)
    before = objective.value_and_gradient(images)
    chosen = objective.select(lanes)
    objective.replace(torch.tensor([2, 0]), evened(network, new, config, at[[2, 0]]))
    exemplars = torch.stack([new[1], old[1], new[0], old[3]])
    expected = evened(network, exemplars, config, at).value_and_gradient(images)
    for mine, theirs in zip(objective.value_and_gradient(images), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
    # A selection has weights of its own, even of lanes that are replaced in the whole.
    objective.replace(lanes, evened(network, new, config, at[lanes]))
    for mine, theirs in zip(chosen.value_and_gradient(images[lanes]), before, strict=True):
        torch.testing.assert_close(mine, theirs[lanes], rtol=1e-11, atol=1e-12)


def test_lanes_with_weights_and_lanes_without_are_not_mixed(
    network: TextureNetwork, draw_images: DrawImages
) -> None:
    images = draw_images(2, 16, 16)
    objective = evened(network, images, config_of(), images)
    with pytest.raises(ValueError, match="zip"):
        objective.replace(torch.tensor([0, 1]), TextureObjective(network, images, config_of()))


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_evened_out_a_batch_equals_the_stack_of_singles(
    network: TextureNetwork, draw_images: DrawImages, spectrum: str
) -> None:
    exemplars, images = draw_images(3, 16, 13), draw_images(3, 16, 13, seed=1)
    config = config_of(spectrum=spectrum)
    value, gradient = evened(network, exemplars, config, images).value_and_gradient(images)
    for lane in range(3):
        one = slice(lane, lane + 1)
        alone = evened(network, exemplars[one], config, images[one])
        single = alone.value_and_gradient(images[one])
        torch.testing.assert_close(value[one], single[0], rtol=1e-9, atol=0)
        torch.testing.assert_close(gradient[one], single[1], rtol=1e-8, atol=1e-9)


def test_evened_out_lanes_are_isolated_under_nan(
    network: TextureNetwork, draw_images: DrawImages
) -> None:
    exemplars, images = draw_images(3, 16, 16), draw_images(3, 16, 16, seed=1)
    objective = evened(network, exemplars, config_of(), images)
    value, gradient = objective.value_and_gradient(images)
    images[1, 2, 3, 4] = torch.nan
    poisoned_value, poisoned_gradient = objective.value_and_gradient(images)
    assert poisoned_value[1].isnan()
    assert torch.equal(poisoned_value[[0, 2]], value[[0, 2]])
    assert torch.equal(poisoned_gradient[[0, 2]], gradient[[0, 2]])
