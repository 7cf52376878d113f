from __future__ import annotations

import cmath
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from texsynth import chroma_noise, displacement_score, layout_correlation, quality

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
    monkeypatch.setattr(quality, "MAX_ANCHORS", anchors)
    monkeypatch.setattr(quality, "MAX_DISTANCES", 500)
    sought = []
    nearest = quality._nearest_positions

    def spy(queries: Tensor, keys: Tensor) -> Tensor:
        sought.append(len(queries))
        return nearest(queries, keys)

    monkeypatch.setattr(quality, "_nearest_positions", spy)
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
    with pytest.raises(ValueError, match="textures of 9x5 px, expected above 5"):
        displacement_score(draw_images(2, 5, 9), good)
    with pytest.raises(ValueError, match="exemplars of 5x9 px, expected above 5"):
        displacement_score(good, draw_images(2, 9, 5))
    with pytest.raises(ValueError, match="exemplars has NaN"):
        displacement_score(good, good / 0)


def cell_means(image: np.ndarray) -> np.ndarray:
    rows, columns = image.shape[1] // 4, image.shape[2] // 4
    means = np.zeros((3, rows, columns))
    for row in range(rows):
        for column in range(columns):
            cell = image[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            means[:, row, column] = cell.mean((1, 2))
    return means


def without_plane(means: np.ndarray) -> np.ndarray:
    """Residuals of a least-squares fit of 1, row and column to each channel."""
    rows, columns = np.indices(means.shape[1:])
    design = np.stack([np.ones(rows.size), rows.ravel(), columns.ravel()], axis=1)
    flat = means.reshape(3, -1).T
    return (flat - design @ np.linalg.lstsq(design, flat, rcond=None)[0]).T.reshape(means.shape)


def slow_layout_correlation(texture: np.ndarray, exemplar: np.ndarray) -> float:
    left, right = (without_plane(cell_means(image)) for image in (texture, exemplar))
    return float((left * right).sum() / np.sqrt((left**2).sum() * (right**2).sum()))


def slow_shifted_correlations(texture: np.ndarray, exemplar: np.ndarray) -> np.ndarray:
    """Pearson correlation of cell averages, channels centred apart, for every cyclic shift."""

    def centred(image: np.ndarray) -> np.ndarray:
        means = cell_means(image)
        means -= means.mean((1, 2), keepdims=True)
        return means / np.sqrt((means**2).sum())

    left, right = centred(texture), centred(exemplar)
    rows, columns = left.shape[1:]
    return np.array(
        [
            [(left * np.roll(right, (row, column), (1, 2))).sum() for column in range(columns)]
            for row in range(rows)
        ]
    )


@pytest.mark.parametrize("size", [(16, 24), (21, 31)])
def test_layout_correlation_is_the_loops(draw_images: DrawImages, size: tuple[int, int]) -> None:
    textures, exemplars = draw_images(2, *size), draw_images(2, *size, seed=1)
    exemplars = 0.5 * exemplars + 0.5 * textures
    zero, largest = layout_correlation(textures, exemplars)
    for lane in range(2):
        texture, exemplar = textures[lane].numpy(), exemplars[lane].numpy()
        assert zero[lane].item() == pytest.approx(slow_layout_correlation(texture, exemplar))
        expected = slow_shifted_correlations(texture, exemplar)
        assert largest[lane].item() == pytest.approx(expected.max())


def test_a_gradient_in_common_is_no_copy(draw_images: DrawImages) -> None:
    gradient = torch.linspace(0, 4, 64, dtype=torch.float64)[:, None].expand(64, 64)
    textures, exemplars = (
        draw_images(1, 64, 64) + gradient,
        draw_images(1, 64, 64, seed=1) + gradient,
    )
    zero, largest = layout_correlation(textures, exemplars)
    assert abs(zero.item()) < 0.3
    assert largest.item() > 0.9


def test_layout_correlation_of_copies(draw_images: DrawImages) -> None:
    exemplar = draw_images(1, 32, 32)
    zero, largest = layout_correlation(exemplar, exemplar)
    assert (zero.item(), largest.item()) == (pytest.approx(1), pytest.approx(1))
    zero, largest = layout_correlation(exemplar.roll((8, 12), (2, 3)), exemplar)
    assert abs(zero.item()) < 0.4
    assert largest.item() == pytest.approx(1)
    zero, _ = layout_correlation(1 - exemplar, exemplar)
    assert zero.item() == pytest.approx(-1)
    # Neither contrast nor brightness of a channel hides a copy.
    zero, _ = layout_correlation(0.3 * exemplar + 0.1, exemplar)
    assert zero.item() == pytest.approx(1)


def test_layout_correlation_stays_within_one_in_float32(draw_images: DrawImages) -> None:
    images = draw_images(20, 40, 28).float()
    for correlation in layout_correlation(images, images):
        assert correlation.abs().max() <= 1


def test_flat_images_correlate_with_nothing(draw_images: DrawImages) -> None:
    flat = torch.tensor([0.2, 0.7, 0.4], dtype=torch.float64).view(1, 3, 1, 1).expand(1, 3, 20, 12)
    for textures, exemplars in ((flat, draw_images(1, 20, 12)), (flat, flat)):
        zero, largest = layout_correlation(textures, exemplars)
        assert (zero.item(), largest.item()) == (0, 0)


def test_layout_correlation_needs_equal_shapes(draw_images: DrawImages) -> None:
    with pytest.raises(ValueError, match=r"textures are \[1, 3, 8, 8\], exemplars \[2, 3, 8, 8\]"):
        layout_correlation(draw_images(1, 8, 8), draw_images(2, 8, 8))


def slow_chroma_noise(image: np.ndarray) -> float:
    """The share by the definition of the discrete Fourier transform."""
    _, height, width = image.shape
    luminance = 0.2989 * image[0] + 0.587 * image[1] + 0.114 * image[2]
    energy = 0.0
    for channel in image - luminance:
        for u in range(height):
            for v in range(width):
                # Cycles per px: the Nyquist frequency is 1/2.
                if max(min(u, height - u) / height, min(v, width - v) / width) <= 0.25:
                    continue
                total = sum(
                    channel[y, x] * cmath.exp(-2j * cmath.pi * (u * y / height + v * x / width))
                    for y in range(height)
                    for x in range(width)
                )
                energy += abs(total) ** 2 / (height * width)
    centred = image - image.mean((1, 2), keepdims=True)
    return energy / float((centred**2).sum())


@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
def test_chroma_noise_is_the_sum_over_frequencies(
    draw_images: DrawImages, size: tuple[int, int]
) -> None:
    images = draw_images(2, *size)
    expected = [slow_chroma_noise(image.numpy()) for image in images]
    assert chroma_noise(images).tolist() == pytest.approx(expected)


def test_chroma_noise_sees_fine_colour_only(draw_images: DrawImages) -> None:
    images = draw_images(1, 32, 32)
    assert chroma_noise(images).item() > 0.3
    # The luminance weights add up to 0.9999, so a gray image has a trace of chroma.
    assert chroma_noise(images[:, :1].expand(-1, 3, -1, -1)).item() < 1e-7
    coarse = torch.kron(images[..., :4, :4], torch.ones(8, 8, dtype=torch.float64))
    assert chroma_noise(coarse).item() < 0.1


def test_chroma_noise_is_at_most_its_bound() -> None:
    # Along P^T of the largest singular vector of P = I - 1 w^T, at the Nyquist frequency.
    weights = torch.tensor([0.2989, 0.587, 0.114], dtype=torch.float64)
    projection = torch.eye(3, dtype=torch.float64) - weights
    _, _, directions = torch.linalg.svd(projection)
    checks = (-1.0) ** (torch.arange(8)[:, None] + torch.arange(8))
    image = 0.5 + 0.3 * directions[0][:, None, None] * checks
    bound = 3 * weights.square().sum().item()
    assert chroma_noise(image[None]).item() == pytest.approx(bound, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(12, 10), (33, 47), (64, 64)])
def test_flat_images_have_no_chroma_noise(size: tuple[int, int], dtype: torch.dtype) -> None:
    colours = torch.tensor([[0.2, 0.7, 0.4], [0.3, 0.3, 0.3]], dtype=dtype)
    assert chroma_noise(colours[:, :, None, None].expand(2, 3, *size)).tolist() == [0, 0]


def measure_all(textures: Tensor, exemplars: Tensor) -> Tensor:
    scores = displacement_score(textures, exemplars)
    return torch.stack([scores, *layout_correlation(textures, exemplars), chroma_noise(textures)])


def test_lanes_are_apart(draw_images: DrawImages) -> None:
    textures, exemplars = draw_images(3, 16, 20), draw_images(3, 16, 20, seed=1)
    textures[0, :, :, :12] = exemplars[0, :, :, :12]
    together = measure_all(textures, exemplars)
    order = [2, 0, 1]
    torch.testing.assert_close(measure_all(textures[order], exemplars[order]), together[:, order])
    alone = [measure_all(textures[i : i + 1], exemplars[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(torch.cat(alone, dim=1), together)
