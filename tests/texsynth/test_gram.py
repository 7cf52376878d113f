from __future__ import annotations

import pytest
import torch
from torch import Tensor

from texsynth.gram import compute_gram, gram_term


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
