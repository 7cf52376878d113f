from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from texsynth import (
    PairError,
    layout_correlation,
    luminance_layout,
    phase_correlation_peak,
    sibling_distance,
    verbatim_share,
)
from texsynth.images import luminance

DrawImages = Callable[..., Tensor]


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


def slow_phase_correlation(texture: np.ndarray, exemplar: np.ndarray) -> float:
    """The whitened correlation at every shift, as a sum over frequencies."""
    spectra = [
        np.fft.fft2(image - image.mean((1, 2), keepdims=True)) for image in (texture, exemplar)
    ]
    z = (spectra[0] * spectra[1].conj()).sum(0)
    height, width = z.shape
    best = -1.0
    for row in range(height):
        for column in range(width):
            total = 0.0
            for u in range(height):
                for v in range(width):
                    if (u, v) != (0, 0):
                        turn = np.exp(2j * np.pi * (u * row / height + v * column / width))
                        total += (z[u, v] / abs(z[u, v]) * turn).real
            best = max(best, total / (height * width - 1))
    return best


def test_phase_correlation_is_the_sum_over_frequencies(draw_images: DrawImages) -> None:
    textures, exemplars = draw_images(1, 6, 9), draw_images(1, 6, 9, seed=1)
    expected = slow_phase_correlation(textures[0].numpy(), exemplars[0].numpy())
    assert phase_correlation_peak(textures, exemplars).item() == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shift", [(0, 0), (5, 17), (-3, 1)])
def test_a_cyclic_shift_has_a_phase_peak_of_one(
    draw_images: DrawImages, shift: tuple[int, int], dtype: torch.dtype
) -> None:
    exemplar = draw_images(1, 40, 33).to(dtype)
    peak = phase_correlation_peak(0.5 * exemplar.roll(shift, (2, 3)) + 0.2, exemplar)
    assert peak.item() == pytest.approx(1, abs=1e-4)


def test_independent_phases_have_a_low_peak(draw_images: DrawImages) -> None:
    peak = phase_correlation_peak(draw_images(1, 64, 64), draw_images(1, 64, 64, seed=1))
    assert 0 < peak.item() < 0.12
    flat = torch.full((1, 3, 64, 64), 0.3)
    noise = draw_images(1, 64, 64).float()
    for pair in ((flat, noise), (noise, flat), (flat, flat)):
        assert phase_correlation_peak(*pair).item() == 0


def slow_verbatim_share(texture: np.ndarray, exemplar: np.ndarray, stride: int) -> float:
    """Pearson correlation of every block with every window of two gray images, by loops."""
    height, width = texture.shape
    rows, columns = range(0, height - 15, stride), range(0, width - 15, stride)
    covered = np.zeros((rows[-1] + 16, columns[-1] + 16), bool)
    for row in rows:
        for column in columns:
            block = texture[row : row + 16, column : column + 16]
            best = max(
                np.corrcoef(block.ravel(), exemplar[r : r + 16, c : c + 16].ravel())[0, 1]
                for r in range(exemplar.shape[0] - 15)
                for c in range(exemplar.shape[1] - 15)
            )
            covered[row : row + 16, column : column + 16] |= best >= 0.95
    return float(covered.mean())


def test_verbatim_share_is_the_loops(draw_images: DrawImages) -> None:
    exemplar, texture = draw_images(1, 24, 30), draw_images(1, 33, 27, seed=1)
    texture[..., 4:24, 2:22] = 0.5 * exemplar[..., 3:23, 7:27] + 0.1
    gray, original = (luminance(image)[0].numpy() for image in (texture, exemplar))
    expected = slow_verbatim_share(gray, original, stride=4)
    assert 0.1 < expected < 0.6
    assert verbatim_share(texture, exemplar).item() == pytest.approx(expected)


def test_large_textures_are_sought_at_fewer_places(draw_images: DrawImages) -> None:
    large = draw_images(1, 400, 350).float()
    assert verbatim_share(large, large).item() == 1
    exemplar = draw_images(1, 200, 150).float()
    texture = draw_images(1, 200, 150, seed=1).float()
    assert verbatim_share(texture, exemplar).item() == 0
    texture[..., :100, :] = exemplar[..., 50:150, :]
    assert verbatim_share(texture, exemplar).item() == pytest.approx(0.5, abs=0.05)


def test_flat_blocks_are_no_copies(draw_images: DrawImages) -> None:
    half = draw_images(1, 64, 64).float()
    half[..., 32:] = 0.5
    assert verbatim_share(half, half).item() == 1
    moved = half.roll(16, 3)
    moved[..., :32] = draw_images(1, 64, 32, seed=1).float()
    # Copied are 16 px with contrast and as many of flat ones as share a block with them.
    assert 0.3 < verbatim_share(moved, half).item() < 0.5
    flat = torch.full((1, 3, 32, 32), 0.5)
    assert verbatim_share(flat, flat).item() == 0
    assert verbatim_share(flat, draw_images(1, 32, 32).float()).item() == 0
    assert verbatim_share(draw_images(1, 32, 32).float(), flat).item() == 0


def test_siblings_that_collapse_are_near(draw_images: DrawImages) -> None:
    siblings = draw_images(4, 32, 32)
    siblings[3] = 0.7 * siblings[1] + 0.1
    gradient = torch.linspace(0, 9, 32, dtype=torch.float64)[:, None]
    distances = sibling_distance(siblings + gradient)
    assert distances[[1, 3]].tolist() == pytest.approx([0, 0], abs=1e-9)
    assert distances[[0, 2]].min() > 0.8
    flat = torch.full((2, 3, 8, 8), 0.5)
    assert sibling_distance(flat).tolist() == [1, 1]


def slow_sibling_distance(textures: np.ndarray, lane: int) -> float:
    flat = [without_plane(texture).ravel() for texture in textures]
    others = [other for index, other in enumerate(flat) if index != lane]
    norms = [np.linalg.norm(other) * np.linalg.norm(flat[lane]) for other in others]
    return 1 - max(o @ flat[lane] / n for o, n in zip(others, norms, strict=True))


def test_sibling_distance_is_the_loop(draw_images: DrawImages) -> None:
    textures = draw_images(3, 9, 12)
    expected = [slow_sibling_distance(textures.numpy(), lane) for lane in range(3)]
    assert sibling_distance(textures).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (16, 33)])
def test_a_layout_is_the_luminance_of_its_cells(
    draw_images: DrawImages, height: int, width: int
) -> None:
    textures = draw_images(2, height, width)
    for texture, layout in zip(textures, luminance_layout(textures).numpy(), strict=True):
        gray = luminance(texture[None])[0].numpy()
        cells = np.zeros((3, 32, 32))
        for row, column in np.ndindex(32, 32):
            top, bottom = row * height // 32, -(-(row + 1) * height // 32)
            left, right = column * width // 32, -(-(column + 1) * width // 32)
            cells[:, row, column] = gray[top:bottom, left:right].mean()
        expected = without_plane(cells)[0]
        expected *= 127 / np.abs(expected).max()
        assert np.abs(layout - expected).max() <= 0.5 + 1e-9
        assert (layout.dtype, np.abs(layout).max()) == (np.int8, 127)


def test_neither_gradient_nor_contrast_changes_a_layout(draw_images: DrawImages) -> None:
    texture = draw_images(1, 64, 64)
    gradient = torch.linspace(0, 0.5, 64, dtype=torch.float64)
    changed = luminance_layout(0.3 * texture + gradient).int() - luminance_layout(texture).int()
    assert changed.abs().max() <= 1
    assert not luminance_layout(torch.full((1, 3, 20, 20), 0.4)).any()


def test_copies_refuse_what_does_not_fit(draw_images: DrawImages) -> None:
    good = draw_images(2, 16, 16)
    with pytest.raises(PairError, match="expected the same"):
        phase_correlation_peak(good, draw_images(2, 16, 17))
    with pytest.raises(PairError, match="textures of 15x16 px, expected at least 16"):
        verbatim_share(good[..., :15], good)
    with pytest.raises(PairError, match="1 texture has no sibling"):
        sibling_distance(good[:1])
    with pytest.raises(ValueError, match="textures has NaN"):
        sibling_distance(good / 0)
