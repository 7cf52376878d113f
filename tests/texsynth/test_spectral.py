from __future__ import annotations

import cmath
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from texsynth import (
    PairError,
    autocorrelation_error,
    chroma_noise,
    colour_spectrum_error,
    high_frequency_ratio,
    spectrum_error,
)
from texsynth.images import luminance
from texsynth.spectral import autocorrelation
from texsynth.start import draw_starts

DrawImages = Callable[..., Tensor]


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


def slow_autocorrelation(gray: np.ndarray, row: int, column: int) -> float:
    height, width = gray.shape
    gray = gray - gray.mean()
    products = [
        gray[y, x] * gray[y + row, x + column]
        for y in range(height)
        for x in range(width)
        if 0 <= y + row < height and 0 <= x + column < width
    ]
    return float(np.mean(products) / (gray**2).mean())


@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
def test_autocorrelation_is_the_mean_over_overlaps(
    draw_images: DrawImages, size: tuple[int, int]
) -> None:
    gray = luminance(draw_images(1, *size))
    found = autocorrelation(gray)[0]
    assert found[0, 0] == 1
    for row, column in ((0, 1), (2, 3), (-1, 2), (3, -3), (size[0] // 2, 0)):
        expected = slow_autocorrelation(gray[0].numpy(), row, column)
        assert found[row, column].item() == pytest.approx(expected), (row, column)


def test_autocorrelation_of_a_flat_image() -> None:
    expected = torch.zeros(1, 6, 6)
    expected[:, 0, 0] = 1
    assert torch.equal(autocorrelation(torch.full((1, 6, 6), 0.25)), expected)


def test_autocorrelation_error_by_loops(draw_images: DrawImages) -> None:
    textures, exemplars = draw_images(1, 9, 12), draw_images(1, 8, 14, seed=1)
    lags = [(row, column) for row in range(-2, 3) for column in range(-2, 3)]
    texture, exemplar = (
        np.array([slow_autocorrelation(luminance(images)[0].numpy(), *lag) for lag in lags])
        for images in (textures, exemplars)
    )
    expected = np.linalg.norm(texture - exemplar) / np.linalg.norm(exemplar)
    assert autocorrelation_error(textures, exemplars).item() == pytest.approx(expected)
    assert autocorrelation_error(0.2 * exemplars + 0.3, exemplars).item() < 1e-12


@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
def test_spectrum_errors_are_relative_distances_of_magnitudes(
    draw_images: DrawImages, size: tuple[int, int]
) -> None:
    textures, exemplars = draw_images(1, *size), draw_images(1, *size, seed=1)
    grays = [luminance(images)[0].numpy() for images in (textures, exemplars)]
    left, right = (np.abs(np.fft.fft2(gray - gray.mean())) for gray in grays)
    expected = np.linalg.norm(left - right) / np.linalg.norm(right)
    assert spectrum_error(textures, exemplars).item() == pytest.approx(expected)
    left, right = (
        np.fft.fft2(images[0].numpy() - images[0].numpy().mean((1, 2), keepdims=True))
        for images in (textures, exemplars)
    )
    z = (left * right.conj()).sum(0)
    u = np.where(z == 0, 1, z / np.maximum(np.abs(z), 1e-300))
    expected = np.linalg.norm(left - right * u) / np.linalg.norm(right)
    assert colour_spectrum_error(textures, exemplars).item() == pytest.approx(expected)


@pytest.mark.parametrize("measure", [spectrum_error, colour_spectrum_error])
def test_spectrum_errors_know_no_phases(
    draw_images: DrawImages, measure: Callable[[Tensor, Tensor], Tensor]
) -> None:
    exemplar = draw_images(1, 24, 20)
    assert measure(exemplar.roll((3, 11), (2, 3)), exemplar).item() < 1e-12
    assert measure(draw_starts(exemplar, [1], "random_phase"), exemplar).item() < 1e-12
    assert measure(torch.full_like(exemplar, 0.4), exemplar).item() == pytest.approx(1)
    assert measure(exemplar + 0.3, exemplar).item() < 1e-12
    with pytest.raises(PairError, match="expected the same"):
        measure(exemplar, exemplar[..., 1:])


def slow_fine_share(image: Tensor) -> float:
    gray = luminance(image[None])[0].numpy()
    power = np.abs(np.fft.fft2(gray - gray.mean())) ** 2
    height, width = gray.shape
    fine = [
        power[u, v]
        for u in range(height)
        for v in range(width)
        if max(min(u, height - u) / height, min(v, width - v) / width) > 0.25
    ]
    return float(sum(fine) / power.sum())


def test_high_frequency_ratio_is_one_of_shares(draw_images: DrawImages) -> None:
    textures, exemplars = draw_images(2, 15, 12), draw_images(2, 10, 16, seed=1)
    expected = [
        slow_fine_share(texture) / slow_fine_share(exemplar)
        for texture, exemplar in zip(textures, exemplars, strict=True)
    ]
    assert high_frequency_ratio(textures, exemplars).tolist() == pytest.approx(expected)
    flat = torch.full_like(textures, 0.5)
    assert high_frequency_ratio(flat, exemplars).tolist() == [0, 0]
