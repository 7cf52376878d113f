from __future__ import annotations

import pytest
import torch
from torch import Tensor

from texsynth.gram import GramMetric, compute_gram, gram_term


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_gram(features: Tensor) -> Tensor:
    """G_ij = sum over positions p of F_ip F_jp, divided by 4 N M; one lane [N, H, W]."""
    channels, height, width = features.shape
    gram = torch.zeros((channels, channels), dtype=features.dtype)
    for i in range(channels):
        for j in range(channels):
            for row in range(height):
                for column in range(width):
                    gram[i, j] += features[i, row, column] * features[j, row, column]
    return gram / (4 * channels * height * width)


def test_gram_is_the_slow_sum() -> None:
    features = draw(2, 3, 4, 5)
    expected = torch.stack([slow_gram(lane) for lane in features])
    torch.testing.assert_close(compute_gram(features), expected)


def test_gram_is_symmetric_and_positive_semidefinite() -> None:
    gram = compute_gram(draw(3, 8, 2, 3))  # 6 positions, 8 channels: rank deficient
    torch.testing.assert_close(gram, gram.mT, rtol=0, atol=0)
    eigenvalues = torch.linalg.eigvalsh(gram)
    assert (eigenvalues > -1e-15).all()
    assert (eigenvalues[:, -1] > 1e-3).all()


def test_gram_is_blind_to_the_order_of_positions() -> None:
    features = draw(2, 5, 6, 7)
    order = torch.randperm(42, generator=torch.Generator().manual_seed(1))
    shuffled = features.flatten(2)[:, :, order].view_as(features)
    torch.testing.assert_close(compute_gram(shuffled), compute_gram(features))
    torch.testing.assert_close(compute_gram(features.mT), compute_gram(features))


def test_gram_does_not_depend_on_the_number_of_positions() -> None:
    features = draw(1, 5, 4, 4)
    tiled = features.repeat(1, 1, 3, 2)
    torch.testing.assert_close(compute_gram(tiled), compute_gram(features))


def test_term_is_the_sum_of_squared_differences() -> None:
    features, exemplars = draw(2, 3, 4, 5), draw(2, 3, 6, 7, seed=1)
    term = gram_term(features, compute_gram(exemplars))
    for lane in range(2):
        difference = slow_gram(features[lane]) - slow_gram(exemplars[lane])
        expected = sum(float(entry) ** 2 for entry in difference.flatten())
        assert float(term[lane]) == pytest.approx(expected, rel=1e-12)


def test_term_is_zero_at_the_exemplar() -> None:
    features = draw(2, 3, 4, 5)
    assert torch.equal(gram_term(features, compute_gram(features)), torch.zeros(2).double())


def test_gradient_is_the_closed_form() -> None:
    """d sum((G - T)^2) / dF = (G - T) F / (N M), since G and T are symmetric."""
    features, target = draw(2, 3, 4, 5).requires_grad_(), compute_gram(draw(2, 3, 4, 5, seed=1))
    (gradient,) = torch.autograd.grad(gram_term(features, target).sum(), features)
    flat = features.detach().flatten(2)
    expected = (compute_gram(features.detach()) - target) @ flat / (3 * 20)
    torch.testing.assert_close(gradient.flatten(2), expected)


def test_gradcheck() -> None:
    target = compute_gram(draw(2, 3, 2, 4, seed=1))
    features = draw(2, 3, 2, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: gram_term(f, target), (features,))


def test_batch_equals_the_stack_of_singles() -> None:
    features, target = draw(4, 6, 5, 7), compute_gram(draw(4, 6, 3, 3, seed=1))
    singles = [gram_term(features[i : i + 1], target[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(gram_term(features, target), torch.cat(singles), rtol=1e-14, atol=0)


def test_a_poisoned_lane_leaves_the_others_alone() -> None:
    features, target = draw(3, 6, 5, 7), compute_gram(draw(3, 6, 3, 3, seed=1))
    before = gram_term(features, target)
    features[1, 0, 0, 0] = torch.nan
    after = gram_term(features, target)
    assert after[1].isnan()
    assert torch.equal(after[[0, 2]], before[[0, 2]])


# Under a metric


def draw_metric(lanes: int, channels: int, seed: int = 2) -> GramMetric:
    """A random orthogonal basis and symmetric weights in (0, 1)."""
    basis = torch.linalg.qr(draw(lanes, channels, channels, seed=seed))[0]
    weight = draw(lanes, channels, channels, seed=seed + 1).sigmoid()
    return GramMetric(basis, (weight + weight.mT) / 2)


def metric_of(metric: GramMetric, lanes: slice) -> GramMetric:
    return GramMetric(metric.basis[lanes], metric.weight[lanes])


def slow_weighted_sum(difference: Tensor, basis: Tensor, weight: Tensor) -> float:
    """sum over k, l of W_kl (sum over i, j of U_ik D_ij U_jl)^2; one lane."""
    channels, total = len(difference), 0.0
    for k in range(channels):
        for m in range(channels):
            entry = sum(
                float(basis[i, k] * difference[i, j] * basis[j, m])
                for i in range(channels)
                for j in range(channels)
            )
            total += float(weight[k, m]) * entry**2
    return total


def test_term_under_a_metric_is_the_slow_sum() -> None:
    features, exemplars, metric = draw(2, 3, 4, 5), draw(2, 3, 6, 7, seed=1), draw_metric(2, 3)
    term = gram_term(features, compute_gram(exemplars), metric)
    for lane in range(2):
        difference = slow_gram(features[lane]) - slow_gram(exemplars[lane])
        expected = slow_weighted_sum(difference, metric.basis[lane], metric.weight[lane])
        assert float(term[lane]) == pytest.approx(expected, rel=1e-12)


def test_gradcheck_under_a_metric() -> None:
    target, metric = compute_gram(draw(2, 3, 2, 4, seed=1)), draw_metric(2, 3)
    features = draw(2, 3, 2, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: gram_term(f, target, metric), (features,))


@pytest.mark.parametrize("weighted", [False, True])
def test_gradient_is_that_of_autograd_for_any_slope_of_the_lanes(weighted: bool) -> None:
    features, target = draw(2, 4, 5, 3).requires_grad_(), compute_gram(draw(2, 4, 5, 5, seed=1))
    metric, slopes = draw_metric(2, 4) if weighted else None, torch.tensor([2.0, -3.0]).double()
    difference = compute_gram(features) - target
    if metric is not None:
        difference = metric.weight.sqrt() * (metric.basis.mT @ difference @ metric.basis)
    plain = (slopes * difference.square().sum((1, 2))).sum()
    (expected,) = torch.autograd.grad(plain, features)
    (gradient,) = torch.autograd.grad(
        (slopes * gram_term(features, target, metric)).sum(), features
    )
    torch.testing.assert_close(gradient, expected, rtol=1e-11, atol=1e-13)


def test_weights_of_one_are_the_plain_sum_in_any_basis() -> None:
    features, target = draw(2, 6, 4, 5), compute_gram(draw(2, 6, 6, 7, seed=1))
    basis = draw_metric(2, 6).basis
    ones = GramMetric(basis, torch.ones_like(basis))
    torch.testing.assert_close(gram_term(features, target, ones), gram_term(features, target))
    identity = GramMetric(torch.eye(6).double().expand(2, -1, -1), ones.weight)
    assert torch.equal(gram_term(features, target, identity), gram_term(features, target))


def test_a_metric_keeps_the_zeros_and_adds_none() -> None:
    exemplars, metric = draw(2, 6, 4, 5), draw_metric(2, 6)
    target = compute_gram(exemplars)
    assert torch.equal(gram_term(exemplars, target, metric), torch.zeros(2).double())
    features = exemplars + 1e-3 * draw(2, 6, 4, 5, seed=7)
    term, plain = gram_term(features, target, metric), gram_term(features, target)
    assert (term >= metric.weight.amin((1, 2)) * plain).all()
    assert (term <= metric.weight.amax((1, 2)) * plain).all()
    assert (term > 0).all()


def test_a_metric_s_batch_equals_the_stack_of_singles() -> None:
    features, target = draw(4, 6, 5, 7), compute_gram(draw(4, 6, 3, 3, seed=1))
    metric = draw_metric(4, 6)
    singles = [
        gram_term(features[one], target[one], metric_of(metric, one))
        for one in (slice(lane, lane + 1) for lane in range(4))
    ]
    together = gram_term(features, target, metric)
    torch.testing.assert_close(together, torch.cat(singles), rtol=1e-13, atol=0)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_poisoned_lane_leaves_the_gradients_of_others_alone(weighted: bool) -> None:
    features, target = draw(3, 6, 5, 7), compute_gram(draw(3, 6, 3, 3, seed=1))
    metric, found = draw_metric(3, 6) if weighted else None, []
    for poison in (0.0, torch.nan):
        variables = features.clone()
        variables[1, 0, 0, 0] += poison
        variables.requires_grad_()
        term = gram_term(variables, target, metric)
        found.append((term, torch.autograd.grad(term.sum(), variables)[0]))
    for clean, spoilt in zip(*found, strict=True):
        assert torch.equal(clean[[0, 2]], spoilt[[0, 2]])
        assert spoilt[1].isnan().any()
