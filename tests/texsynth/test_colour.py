from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from texsynth import colour_covariance_distance, colour_mean_distance, sliced_wasserstein
from texsynth.colour import _directions

DrawImages = Callable[..., Tensor]


def test_colour_mean_distance(draw_images: DrawImages) -> None:
    exemplar = draw_images(1, 9, 7)
    shifted = exemplar + torch.tensor([0.3, 0.0, -0.4], dtype=torch.float64)[:, None, None]
    assert colour_mean_distance(shifted, exemplar).item() == pytest.approx(0.5)
    black, white = torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 5, 6)
    assert colour_mean_distance(black, white).item() == pytest.approx(math.sqrt(3))


def test_colour_covariance_distance_is_numpys(draw_images: DrawImages) -> None:
    textures, exemplars = draw_images(1, 9, 7) ** 2, draw_images(1, 5, 8, seed=1)
    left, right = (np.cov(images[0].flatten(1), bias=True) for images in (textures, exemplars))
    expected = np.linalg.norm(left - right) / np.linalg.norm(right)
    assert colour_covariance_distance(textures, exemplars).item() == pytest.approx(expected)
    for contrast, distance in ((0.0, 1.0), (2.0, 3.0)):
        found = colour_covariance_distance(contrast * exemplars + 0.1, exemplars)
        assert found.item() == pytest.approx(distance)
    flat = torch.full((1, 3, 8, 8), 0.5)
    assert colour_covariance_distance(flat, flat).item() == 0
    assert colour_covariance_distance(exemplars.float(), flat).item() > 1e6


def slow_sliced_wasserstein(texture: np.ndarray, exemplar: np.ndarray) -> float:
    """Of as many pixels in both: the sorted projections are matched one to one."""
    squares = []
    for direction in _directions().numpy():
        left, right = (np.sort(direction @ image.reshape(3, -1)) for image in (texture, exemplar))
        squares.append(np.mean((left - right) ** 2))
    return float(np.sqrt(np.mean(squares)))


def test_sliced_wasserstein_matches_sorted_projections(draw_images: DrawImages) -> None:
    textures, exemplars = draw_images(2, 6, 10) ** 3, draw_images(2, 4, 15, seed=1)
    pairs = zip(textures.numpy(), exemplars.numpy(), strict=True)
    expected = [slow_sliced_wasserstein(*pair) for pair in pairs]
    assert sliced_wasserstein(textures, exemplars).tolist() == pytest.approx(expected)


def test_sliced_wasserstein_of_colours_apart(draw_images: DrawImages) -> None:
    exemplar = draw_images(1, 8, 6)
    shift = torch.tensor([0.3, -0.1, 0.2], dtype=torch.float64)[:, None, None]
    expected = shift.norm().item() / math.sqrt(3)
    assert sliced_wasserstein(exemplar + shift, exemplar).item() == pytest.approx(expected)
    black, white = torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 5, 6)
    assert sliced_wasserstein(black, white).item() == pytest.approx(1)
    shuffled = exemplar.flatten(2)[..., torch.randperm(48)].view_as(exemplar)
    assert sliced_wasserstein(shuffled, exemplar).item() < 1e-12


def test_sliced_wasserstein_of_another_number_of_pixels(draw_images: DrawImages) -> None:
    exemplar = draw_images(1, 40, 40)
    # Every colour four times is the same distribution; quantiles are interpolated between them.
    enlarged = exemplar.repeat(1, 1, 2, 2)
    assert sliced_wasserstein(enlarged, exemplar).item() < 1e-3
    assert sliced_wasserstein(exemplar, enlarged).item() < 1e-3
    assert sliced_wasserstein(enlarged + 0.2, exemplar).item() == pytest.approx(0.2, rel=1e-2)
