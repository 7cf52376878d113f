from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from texsynth import displacement, displacement_score

DrawImages = Callable[..., Tensor]


def slow_displacement_score(texture: np.ndarray, exemplar: np.ndarray) -> float:
    """1 - share of pairs of neighbouring patches with neighbouring matches, by loops."""

    def nearest(row: int, column: int) -> tuple[int, int]:
        patch = texture[:, row : row + 5, column : column + 5]
        found, least = (0, 0), np.inf
        for r in range(exemplar.shape[1] - 4):
            for c in range(exemplar.shape[2] - 4):
                distance = ((exemplar[:, r : r + 5, c : c + 5] - patch) ** 2).sum()
                if distance < least:
                    found, least = (r, c), distance
        return found

    coherent = []
    height, width = texture.shape[1] - 4, texture.shape[2] - 4
    for row in range(height - 1):
        for column in range(width - 1):
            here = nearest(row, column)
            coherent.append(nearest(row, column + 1) == (here[0], here[1] + 1))
            coherent.append(nearest(row + 1, column) == (here[0] + 1, here[1]))
    return 1 - float(np.mean(coherent))


def test_displacement_score_is_the_loops(draw_images: DrawImages) -> None:
    exemplar = draw_images(1, 12, 12)
    # A shifted copy whose right half is new.
    texture = exemplar.roll((2, 3), (2, 3))
    texture[..., 6:] = draw_images(1, 12, 12, seed=1)[..., 6:]
    score = displacement_score(texture, exemplar)
    assert 0.2 < score < 0.9
    expected = slow_displacement_score(texture[0].numpy(), exemplar[0].numpy())
    assert score.item() == pytest.approx(expected)


def test_displacement_score_of_another_size_is_the_loops(draw_images: DrawImages) -> None:
    exemplar, texture = draw_images(1, 9, 13), draw_images(1, 11, 8, seed=1)
    texture[..., :6, :7] = exemplar[..., 2:8, 4:11]
    expected = slow_displacement_score(texture[0].numpy(), exemplar[0].numpy())
    assert displacement_score(texture, exemplar).item() == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_copies_score_low_and_noise_high(draw_images: DrawImages, dtype: torch.dtype) -> None:
    exemplar = draw_images(1, 48, 40).to(dtype)
    assert displacement_score(exemplar, exemplar).item() == 0
    assert displacement_score(exemplar[..., 5:30, 3:33], exemplar).item() == 0
    # The seam of a cyclic shift is new: patches over it are 4 of 44 rows and 4 of 36 columns.
    assert 0 < displacement_score(exemplar.roll((20, 20), (2, 3)), exemplar).item() < 0.3
    slightly = exemplar + 0.01 * draw_images(1, 48, 40, seed=1).to(dtype)
    assert displacement_score(slightly, exemplar).item() < 0.01
    noise = draw_images(1, 48, 40, seed=2).to(dtype)
    assert displacement_score(noise, exemplar).item() > 0.75


def test_equal_patches_hide_a_copy(draw_images: DrawImages) -> None:
    flat = torch.full((1, 3, 16, 16), 0.5)
    assert displacement_score(flat, flat).item() == 1


@pytest.mark.parametrize("anchors", [1, 30, 121])
def test_sampled_anchors_are_some_of_all(
    draw_images: DrawImages, monkeypatch: pytest.MonkeyPatch, anchors: int
) -> None:
    exemplar = draw_images(1, 16, 16)
    texture = draw_images(1, 16, 16, seed=1)
    texture[..., :10] = exemplar[..., 3:13]
    monkeypatch.setattr(displacement, "MAX_ANCHORS", anchors)
    monkeypatch.setattr(displacement, "MAX_DISTANCES", 500)
    sought = []
    nearest = displacement._nearest_positions

    def spy(queries: Tensor, keys: Tensor) -> Tensor:
        sought.append(len(queries))
        return nearest(queries, keys)

    monkeypatch.setattr(displacement, "_nearest_positions", spy)
    score = displacement_score(texture, exemplar).item()
    assert displacement_score(exemplar, exemplar).item() == 0
    assert max(sought) <= 3 * anchors
    if anchors == 121:
        expected = slow_displacement_score(texture[0].numpy(), exemplar[0].numpy())
        assert score == pytest.approx(expected)


def test_displacement_score_refuses_what_does_not_fit(draw_images: DrawImages) -> None:
    good = draw_images(2, 8, 8)
    with pytest.raises(ValueError, match="textures has 1 images, expected 2"):
        displacement_score(good[:1], good)
    with pytest.raises(ValueError, match="textures of 9x5 px, expected at least 6"):
        displacement_score(draw_images(2, 5, 9), good)
    with pytest.raises(ValueError, match="exemplars of 5x9 px, expected at least 6"):
        displacement_score(good, draw_images(2, 9, 5))
    with pytest.raises(ValueError, match="exemplars has NaN"):
        displacement_score(good, good / 0)
