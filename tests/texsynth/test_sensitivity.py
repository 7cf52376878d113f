from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from texsynth import SynthesisConfig, TextureNetwork, TextureObjective, sensitivity, synthesize
from texsynth.config import Spectrum, Weighting
from texsynth.gram import compute_gram
from texsynth.images import resize
from texsynth.sensitivity import FLOOR, LossMetric, measure_metric

DrawImages = Callable[..., Tensor]
TAPS = ("relu1_1", "pool1")
WEIGHTINGS: list[Weighting] = ["none", "sensitivity"]
CONFIG = SynthesisConfig(
    taps=TAPS,
    gram_weight=1e3,
    spectrum_weight=1e-4 * (12 / 256) ** 2,  # a factor of 10 at 12 px
    clamp=False,
    range_weight=10.0,
)


@pytest.fixture(scope="module")
def small(make_network: Callable[..., TextureNetwork]) -> TextureNetwork:
    """Two convolutions in float64: taps relu1_1 and pool1."""
    return make_network(deepest="relu1_2")


def grams_of(network: TextureNetwork, images: Tensor) -> list[Tensor]:
    return [compute_gram(tap) for tap in network(images, TAPS)]


def measure(
    network: TextureNetwork, exemplars: Tensor, images: Tensor, config: SynthesisConfig = CONFIG
) -> LossMetric:
    return measure_metric(network, TAPS, grams_of(network, exemplars), images, config)


def parts_of(metric: LossMetric) -> list[Tensor]:
    return [*(part for tap in metric.gram for part in tap), metric.spectrum, metric.range]


def weights_of(metric: LossMetric) -> list[Tensor]:
    return [*(tap.weight for tap in metric.gram), metric.spectrum, metric.range]


@pytest.mark.parametrize("range_weight", [0.0, 10.0])
@pytest.mark.parametrize("spectrum", ["none", "gray", "colour"])
def test_weights_are_symmetric_and_between_0_and_1_in_an_orthogonal_basis(
    small: TextureNetwork, draw_images: DrawImages, spectrum: Spectrum, range_weight: float
) -> None:
    config = dataclasses.replace(CONFIG, spectrum=spectrum, range_weight=range_weight)
    exemplars = draw_images(2, 16, 16)
    metric = measure(small, exemplars, draw_images(2, 16, 16, seed=1), config)
    for weights in weights_of(metric):
        assert (weights > 0).all()
        assert (weights <= 1).all()
    for (basis, weight), target in zip(metric.gram, grams_of(small, exemplars), strict=True):
        torch.testing.assert_close(weight, weight.mT, rtol=1e-9, atol=0)
        identity = torch.eye(64).double().expand(2, -1, -1)
        torch.testing.assert_close(basis.mT @ basis, identity, rtol=0, atol=1e-12)
        inner = basis.mT @ target @ basis
        diagonal = torch.diag_embed(inner.diagonal(dim1=1, dim2=2))
        torch.testing.assert_close(inner, diagonal, rtol=0, atol=1e-12 * float(target.abs().max()))
    assert (metric.spectrum == 1).all() == (spectrum == "none")
    assert (metric.range == 1).all() == (range_weight == 0)


def exact_answers(network: TextureNetwork, target: Tensor, image: Tensor, tap: int) -> Tensor:
    """The sum over pixels of the squares of the Jacobian of U^T G(x) U, entry by entry."""
    basis = torch.linalg.eigh(target)[1]

    def rotated(x: Tensor) -> Tensor:
        return basis.mT @ grams_of(network, x[None])[tap][0] @ basis

    jacobian = torch.func.jacrev(rotated, chunk_size=128)(image)
    return jacobian.square().sum((2, 3, 4))


def answers_behind(weight: Tensor, others: list[Tensor]) -> Tensor:
    """d / (FLOOR * d_max) of one lane, from w = (1 + d / (FLOOR * d_max))^(-1/2)."""
    assert torch.stack([(w**-2 - 1).max() for w in others]).max() == pytest.approx(1 / FLOOR)
    return weight**-2 - 1


@pytest.mark.parametrize("tap", [0, 1])
def test_answers_are_those_of_the_exact_jacobian(
    small: TextureNetwork, draw_images: DrawImages, monkeypatch: pytest.MonkeyPatch, tap: int
) -> None:
    """Within the error of sampling: 400 squares of normal numbers, 7 % of their mean."""
    monkeypatch.setattr(sensitivity, "PROBES", 400)
    monkeypatch.setattr(sensitivity, "PROBE_STEP", 1e-6)
    exemplar, image = draw_images(1, 8, 8), draw_images(1, 8, 8, seed=1)
    metric = measure(small, exemplar, image)
    target = grams_of(small, exemplar)[tap][0]
    expected = CONFIG.gram_weight * exact_answers(small, target, image[0], tap)
    measured = answers_behind(metric.gram[tap].weight[0], [w[0] for w in weights_of(metric)])
    # Known up to the strongest answer of all; the penalty of the range has 10 exactly.
    (range_answer,) = metric.range**-2 - 1
    ratio = (measured / range_answer * CONFIG.range_weight) / expected
    # Weights of nearly 1 hold no more than digits of what is behind them.
    ratio = ratio[expected > 1e-8 * expected.max()]
    assert (ratio - 1).abs().max() < 6 * (2 / 400) ** 0.5
    assert (ratio.log().mean()).abs() < 0.02


def test_weights_are_the_formula_of_the_answers(
    small: TextureNetwork, draw_images: DrawImages
) -> None:
    exemplars, images = draw_images(2, 12, 12), draw_images(2, 12, 12, seed=1)
    metric = measure(small, exemplars, images)
    generator = torch.Generator().manual_seed(sensitivity.PROBE_SEED)
    noises = [
        torch.randn((3, 12, 12), generator=generator).double() for _ in range(sensitivity.PROBES)
    ]
    for lane in range(2):
        image = images[lane : lane + 1]
        answers = []
        for tap in range(2):
            basis = metric.gram[tap].basis[lane]
            squares = []
            for noise in noises:
                moved = image + sensitivity.PROBE_STEP * noise
                change = grams_of(small, moved)[tap][0] - grams_of(small, image)[tap][0]
                squares.append((basis.T @ (change / sensitivity.PROBE_STEP) @ basis) ** 2)
            answers.append(CONFIG.gram_weight * torch.stack(squares).mean(0))
        strongest = max(float(answer.max()) for answer in answers)
        strongest = max(strongest, CONFIG.range_weight, 0.5 * 10)
        slopes = torch.tensor([0.5 * 10, CONFIG.range_weight]).double()
        answers += list(slopes)
        for weights, answer in zip(weights_of(metric), answers, strict=True):
            expected = (1 + answer / (FLOOR * strongest)) ** -0.5
            torch.testing.assert_close(weights[lane], expected, rtol=1e-8, atol=0)


@pytest.mark.parametrize("spectrum", ["gray", "colour"])
def test_the_slope_of_the_spectrum_term_is_that_of_its_residuals(
    draw_images: DrawImages, spectrum: Spectrum
) -> None:
    """Half a square of a residual r counts as (r / sqrt 2)^2: |dr|^2 / 2 of a unit of noise."""
    luminance = torch.tensor([0.2989, 0.587, 0.114]).double()
    noise = torch.randn(
        (3, 256, 256), generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    moved = noise if spectrum == "colour" else torch.einsum("c,chw->hw", luminance, noise)
    slope = moved.square().mean().item() / 2
    assert sensitivity.SLOPES_OF_SPECTRUM[spectrum] == pytest.approx(slope, rel=0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_lane_depends_on_its_neighbours(
    make_network: Callable[..., TextureNetwork], draw_images: DrawImages, dtype: torch.dtype
) -> None:
    """Even where eigenvalues are equal: at 4 px most of the 128 of pool2 are 0."""
    network = make_network().to(dtype)
    config = dataclasses.replace(CONFIG, taps=("relu1_1", "pool1", "pool2"))
    exemplars, images = (draw_images(3, 8, 8, seed=seed).to(dtype) for seed in (0, 1))

    def measured(lanes: slice) -> LossMetric:
        objective = TextureObjective(network, exemplars[lanes], config)
        objective.even_out(images[lanes])
        assert objective._metric is not None
        return objective._metric

    (features,) = network(exemplars[:1], ("pool2",))
    assert (torch.linalg.eigvalsh(compute_gram(features)) < 1e-6).sum() > 100
    together = measured(slice(None))
    for lane in range(3):
        one = slice(lane, lane + 1)
        alone = measured(one)
        for mine, theirs in zip(together.gram, alone.gram, strict=True):
            assert torch.equal(mine.basis[one], theirs.basis)
        tolerance = 1e-3 if dtype == torch.float32 else 1e-9
        for mine, theirs in zip(parts_of(together), parts_of(alone), strict=True):
            torch.testing.assert_close(mine[one], theirs, rtol=tolerance, atol=tolerance)


def test_order_of_lanes_permutes_the_weights(
    small: TextureNetwork, draw_images: DrawImages
) -> None:
    exemplars, images = draw_images(3, 12, 12), draw_images(3, 12, 12, seed=1)
    order = torch.tensor([2, 0, 1])
    straight = measure(small, exemplars, images)
    shuffled = measure(small, exemplars[order], images[order])
    for mine, theirs in zip(weights_of(straight), weights_of(shuffled), strict=True):
        torch.testing.assert_close(mine[order], theirs, rtol=1e-7, atol=0)


def test_a_poisoned_lane_leaves_the_weights_of_others_alone(
    small: TextureNetwork, draw_images: DrawImages
) -> None:
    exemplars, images = draw_images(3, 12, 12), draw_images(3, 12, 12, seed=1)
    clean = measure(small, exemplars, images)
    images[1, 0, 0, 0] = torch.nan
    spoilt = measure(small, exemplars, images)
    assert spoilt.gram[0].weight[1].isnan().any()
    for mine, theirs in zip(parts_of(clean), parts_of(spoilt), strict=True):
        assert torch.equal(mine[[0, 2]], theirs[[0, 2]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.5])
@pytest.mark.parametrize("spectrum", ["none", "colour"])
def test_flat_exemplars_have_finite_weights(
    small: TextureNetwork, dtype: torch.dtype, value: float, spectrum: Spectrum
) -> None:
    config = dataclasses.replace(CONFIG, spectrum=spectrum, range_weight=0.0)
    flat = torch.full((1, 3, 16, 16), value, dtype=dtype)
    metric = measure(copy.deepcopy(small).to(dtype), flat, flat, config)
    for part in parts_of(metric):
        assert part.dtype == dtype
        assert part.isfinite().all()
    for weights in weights_of(metric):
        assert (weights > 0).all()
        assert (weights <= 1).all()


def test_where_nothing_answers_all_entries_count_alike(
    small: TextureNetwork, draw_images: DrawImages
) -> None:
    config = dataclasses.replace(CONFIG, gram_weight=0.0, spectrum="none", range_weight=0.0)
    metric = measure(small, draw_images(2, 8, 8), draw_images(2, 8, 8, seed=1), config)
    for weights in weights_of(metric):
        assert torch.equal(weights, torch.ones_like(weights))


def test_global_randomness_and_gradients_are_left_alone(
    small: TextureNetwork, draw_images: DrawImages
) -> None:
    state, images = torch.get_rng_state(), draw_images(1, 8, 8).requires_grad_()
    metric = measure(small, draw_images(1, 8, 8, seed=1), images)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(part.requires_grad for part in parts_of(metric))


def draw_picture(seed: int, side: int) -> Tensor:
    """Noise of three scales, the coarser the stronger, as in photographs."""
    generator = torch.Generator().manual_seed(seed)
    picture = torch.zeros(1, 3, side, side)
    for scale, contrast in ((8, 0.5), (2, 0.3), (1, 0.2)):
        noise = torch.rand((1, 3, side // scale, side // scale), generator=generator)
        picture += contrast * resize(noise, side, side)
    return picture.clamp(0, 1)


def test_weighted_by_sensitivity_the_plain_loss_is_lower_after_as_many_evaluations(
    small: TextureNetwork,
) -> None:
    """The measuring counts among them; measured: 0.14 to 0.68 times, of 8 seeds."""
    network, ratios = copy.deepcopy(small).float(), []
    for seed in range(4):
        exemplar, losses = draw_picture(seed, 32), {}
        for weighting in WEIGHTINGS:
            config = SynthesisConfig(weighting=weighting, levels=1, evaluations=100)
            (result,) = synthesize(exemplar, [seed], config, network)
            assert result.evaluations <= 100
            plain = TextureObjective(network, exemplar, config)(result.image[None])
            losses[weighting] = plain.total.item()
        ratios.append(losses["sensitivity"] / losses["none"])
    assert max(ratios) < 1
    assert math.prod(ratios) < 0.5 ** len(ratios)


def test_one_lane_is_made_plain_again(small: TextureNetwork, draw_images: DrawImages) -> None:
    exemplars, images = draw_images(2, 16, 16), draw_images(2, 16, 16, seed=1)
    objective = TextureObjective(small, exemplars, CONFIG)
    plain, _ = objective.value_and_gradient(images)
    objective.even_out(images)
    weighted, gradient = objective.value_and_gradient(images)
    assert (weighted < 0.9 * plain).all()
    objective.make_plain(1)
    value, again = objective.value_and_gradient(images)
    assert torch.equal(value[0], weighted[0])
    torch.testing.assert_close(value[1], plain[1])
    assert torch.equal(again[0], gradient[0])


@pytest.mark.parametrize(("slow", "is_plain"), [(0.0, False), (1e6, True)])
def test_a_lane_that_is_slow_goes_on_with_the_plain_loss(
    small: TextureNetwork,
    draw_images: DrawImages,
    monkeypatch: pytest.MonkeyPatch,
    slow: float,
    is_plain: bool,
) -> None:
    monkeypatch.setattr("texsynth.lane.SLOW_FALL", slow)
    exemplars = draw_images(1, 16, 16).float()
    config = dataclasses.replace(
        CONFIG, levels=1, evaluations=80, plateau_evaluations=20, plateau_tolerance=0, settle=False
    )
    network = copy.deepcopy(small).float()
    (result,) = synthesize(exemplars, [0], config, network)
    loss = TextureObjective(network, exemplars, config)(result.image[None]).total.item()
    assert (result.objective_loss == pytest.approx(loss, rel=1e-3)) == is_plain
    assert result.evaluations == pytest.approx(80, abs=1)
