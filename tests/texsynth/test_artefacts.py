from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from texsynth import (
    PairError,
    border_contrast,
    clipped_share,
    local_contrast_drift,
    local_mean_drift,
    out_of_range_share,
    seam_score,
)

DrawImages = Callable[..., Tensor]
Compare = Callable[[Tensor, Tensor], Tensor]


def test_shares_out_of_range_and_clipped() -> None:
    image = torch.full((2, 3, 4, 4), 0.5)
    image[0, 0, 0] = torch.tensor([-0.1, 0.0, 1.0, 1.2])
    assert out_of_range_share(image).tolist() == pytest.approx([2 / 48, 0])
    assert clipped_share(image).tolist() == pytest.approx([4 / 48, 0])
    # What rounds to 0 and 255 counts, what rounds to 1 and 254 does not.
    image[1, 0, 0] = torch.tensor([0.4, 0.6, 254.4, 254.6]) / 255
    assert clipped_share(image)[1].item() == pytest.approx(2 / 48)


def slow_spread(image: np.ndarray, side: int, statistic: Callable[[np.ndarray], float]) -> float:
    variance = 0.0
    for channel in image:
        values = [
            statistic(channel[row : row + side, column : column + side])
            for row in range(0, channel.shape[0] - side + 1, side)
            for column in range(0, channel.shape[1] - side + 1, side)
        ]
        variance += float(np.var(values))
    return float(np.sqrt(variance))


@pytest.mark.parametrize(
    ("measure", "statistic"), [(local_mean_drift, np.mean), (local_contrast_drift, np.std)]
)
def test_drifts_are_the_loops(
    draw_images: DrawImages, measure: Compare, statistic: Callable[[np.ndarray], float]
) -> None:
    textures, exemplars = draw_images(2, 19, 30) ** 2, draw_images(2, 16, 22, seed=1)
    expected = [
        (slow_spread(texture, 4, statistic) - slow_spread(exemplar, 4, statistic))
        / np.sqrt(exemplar.var((1, 2)).sum())
        for texture, exemplar in zip(textures.numpy(), exemplars.numpy(), strict=True)
    ]
    assert measure(textures, exemplars).tolist() == pytest.approx(expected)


def test_stains_and_uneven_contrast_are_told_apart(draw_images: DrawImages) -> None:
    exemplar = draw_images(1, 64, 64)
    left = (torch.arange(64) < 32).double()
    stained = exemplar + 0.3 * left
    assert local_mean_drift(stained, exemplar).item() > 0.3
    assert abs(local_contrast_drift(stained, exemplar).item()) < 0.05
    uneven = 0.5 + (exemplar - 0.5) * (0.2 + 0.8 * left)
    assert local_contrast_drift(uneven, exemplar).item() > 0.3
    assert abs(local_mean_drift(uneven, exemplar).item()) < 0.05
    assert local_mean_drift(exemplar, stained).item() < -0.2
    with pytest.raises(PairError, match="textures of 20x64 px, expected at least 32"):
        local_mean_drift(exemplar[..., :20], exemplar)


def test_border_contrast_is_a_distance_of_gaussians(draw_images: DrawImages) -> None:
    image = draw_images(1, 32, 40)
    image[..., :2, :] *= 0.5
    ring = np.ones((32, 40), bool)
    ring[2:-2, 2:-2] = False
    squares = 0.0
    for channel in image[0].numpy():
        squares += (channel[ring].mean() - channel[~ring].mean()) ** 2
        squares += (channel[ring].std() - channel[~ring].std()) ** 2
    expected = np.sqrt(squares / image[0].numpy().var((1, 2)).sum())
    assert border_contrast(image).item() == pytest.approx(expected)


def test_border_contrast_sees_frames(draw_images: DrawImages) -> None:
    image = draw_images(1, 64, 64)
    assert border_contrast(image).item() < 0.2
    framed = image.clone()
    framed[..., :4, :], framed[..., -4:, :] = 0.1, 0.1
    assert border_contrast(framed).item() > 0.5
    assert border_contrast(torch.full((1, 3, 16, 16), 0.3)).item() == pytest.approx(0, abs=1e-3)


def test_seam_score_by_loops(draw_images: DrawImages) -> None:
    image = draw_images(1, 9, 12)
    image[..., 0, :] += 0.7
    pixels = image[0].numpy()
    seam = [(pixels[:, 0] - pixels[:, -1]) ** 2, (pixels[:, :, 0] - pixels[:, :, -1]) ** 2]
    inside = [np.diff(pixels, axis=1) ** 2, np.diff(pixels, axis=2) ** 2]
    seam_mean, inside_mean = (
        np.concatenate([x.ravel() for x in part]).mean() for part in (seam, inside)
    )
    expected = np.sqrt(seam_mean / inside_mean)
    assert seam_score(image).item() == pytest.approx(expected)
    assert seam_score(torch.full((1, 3, 8, 8), 0.4)).item() == 1


def test_an_image_that_tiles_has_no_seam() -> None:
    x = torch.arange(64.0) * (2 * torch.pi / 64)
    tile = (0.5 + 0.2 * (3 * x).sin()[:, None] * (2 * x).cos()).expand(1, 3, 64, 64)
    assert seam_score(tile).item() == pytest.approx(1, abs=0.3)
    assert seam_score(tile[..., :50, :54]).item() > 2
