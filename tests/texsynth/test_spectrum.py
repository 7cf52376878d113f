from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from texsynth.images import luminance
from texsynth.spectrum import (
    colour_spectrum_term,
    compute_spectrum,
    gray_spectrum_term,
    project_onto_spectrum,
)

SIZES = [(8, 8), (7, 9), (8, 5), (5, 8), (1, 6), (6, 1), (16, 12)]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gray_projection(image: Tensor, exemplar: Tensor) -> Tensor:
    """The image with the phase of `image` and the magnitudes of `exemplar`; [H, W]."""
    spectrum = torch.fft.fft2(image)
    return torch.fft.ifft2(torch.fft.fft2(exemplar).abs() * spectrum / spectrum.abs()).real


def colour_projection(image: Tensor, exemplar: Tensor) -> Tensor:
    """The exemplar [3, H, W] under one common phase z / |z|, z = sum_c X_c conj(I_c)."""
    spectrum, target = torch.fft.fft2(image), torch.fft.fft2(exemplar)
    z = (spectrum * target.conj()).sum(0)
    return torch.fft.ifft2(target * z / z.abs()).real


def gray_term(images: Tensor, exemplars: Tensor) -> Tensor:
    return gray_spectrum_term(images, compute_spectrum(exemplars).abs())


def colour_term(images: Tensor, exemplars: Tensor) -> Tensor:
    return colour_spectrum_term(images, compute_spectrum(exemplars))


def roll(image: Tensor, down: int, right: int) -> Tensor:
    return image.roll((down, right), (-2, -1))


@pytest.mark.parametrize("size", SIZES)
def test_gray_is_half_the_squared_distance_to_the_projection(size: tuple[int, int]) -> None:
    images, exemplars = draw(2, *size).requires_grad_(), draw(2, *size, seed=1)
    terms = gray_term(images, exemplars)
    (gradient,) = torch.autograd.grad(terms.sum(), images)
    for lane in range(2):
        image = images[lane].detach()
        residual = image - gray_projection(image, exemplars[lane])
        expected = sum(float(pixel) ** 2 for pixel in residual.flatten()) / 2
        assert terms[lane].item() == pytest.approx(expected, rel=1e-12)
        torch.testing.assert_close(gradient[lane], residual, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_colour_is_half_the_squared_distance_to_the_projection(size: tuple[int, int]) -> None:
    images, exemplars = draw(2, 3, *size).requires_grad_(), draw(2, 3, *size, seed=1)
    terms = colour_term(images, exemplars)
    (gradient,) = torch.autograd.grad(terms.sum(), images)
    for lane in range(2):
        image = images[lane].detach()
        residual = image - colour_projection(image, exemplars[lane])
        expected = sum(float(value) ** 2 for value in residual.flatten()) / 2
        assert terms[lane].item() == pytest.approx(expected, rel=1e-12)
        torch.testing.assert_close(gradient[lane], residual, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_colour_is_the_expanded_form_over_the_whole_plane(size: tuple[int, int]) -> None:
    """1/(2 M) sum_k [sum_c |X_c|^2 + sum_c |I_c|^2 - 2 |sum_c X_c conj(I_c)|]."""
    images, exemplars = draw(2, 3, *size), draw(2, 3, *size, seed=1)
    x, i = torch.fft.fft2(images), torch.fft.fft2(exemplars)
    z = (x * i.conj()).sum(1)
    squares = x.abs().square().sum(1) + i.abs().square().sum(1)
    expected = (squares - 2 * z.abs()).sum((1, 2)) / (2 * math.prod(size))
    torch.testing.assert_close(colour_term(images, exemplars), expected, rtol=1e-11, atol=0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (0, 1), (3, 2), (4, 4)])
def test_terms_are_zero_for_every_cyclic_shift(
    size: tuple[int, int], shift: tuple[int, int]
) -> None:
    exemplar = draw(1, 3, *size)
    shifted = roll(exemplar, *shift)
    assert float(colour_term(shifted, exemplar)) < 1e-25
    assert float(gray_term(shifted[:, 0], exemplar[:, 0])) < 1e-25


def test_shift_of_one_channel_alone_costs_in_colour() -> None:
    exemplar = draw(1, 3, 8, 8)
    torn = exemplar.clone()
    torn[:, 0] = roll(torn[:, 0], 2, 3)
    assert float(colour_term(torn, exemplar)) > 0.1


def test_gray_is_blind_to_chroma_noise_and_colour_is_not() -> None:
    exemplar = draw(1, 3, 9, 8)
    noise = draw(9, 8, seed=1) - 0.5
    noisy = exemplar.clone()
    noisy[:, 0] += noise / 0.2989  # adds to the luminance what the next line takes away
    noisy[:, 1] -= noise / 0.587
    assert float(gray_term(luminance(noisy), luminance(exemplar))) < 1e-25
    assert float(colour_term(noisy, exemplar)) > 1


def test_gradient_of_gray_is_zero_where_the_spectrum_is_exactly_zero() -> None:
    exemplar = draw(1, 6, 7)
    black = torch.zeros(1, 6, 7, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(gray_term(black, exemplar).sum(), black)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_gray_of_a_black_image_is_half_the_energy_of_the_exemplar() -> None:
    exemplar = draw(1, 6, 7)
    expected = exemplar.square().sum() / 2
    assert float(gray_term(torch.zeros_like(exemplar), exemplar)) == pytest.approx(float(expected))


def test_gradient_of_colour_is_finite_where_the_spectrum_is_exactly_zero() -> None:
    """Every phase is a minimiser there; with u = 1 the projection is the exemplar itself."""
    exemplar = draw(1, 3, 6, 7)
    black = torch.zeros(1, 3, 6, 7, dtype=torch.float64, requires_grad=True)
    term = colour_term(black, exemplar)
    (gradient,) = torch.autograd.grad(term.sum(), black)
    torch.testing.assert_close(gradient, -exemplar)
    assert term.item() == pytest.approx(float(exemplar.square().sum() / 2))


@pytest.mark.parametrize("kind", ["gray", "colour"])
def test_black_exemplars_have_finite_gradients(kind: str) -> None:
    images = draw(1, 3, 6, 7).requires_grad_()
    black = torch.zeros(1, 3, 6, 7, dtype=torch.float64)
    term = gray_term(images[:, 0], black[:, 0]) if kind == "gray" else colour_term(images, black)
    (gradient,) = torch.autograd.grad(term.sum(), images)
    expected = images.detach().clone()
    if kind == "gray":
        expected[:, 1:] = 0
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("size", [(4, 6), (5, 5)])
def test_gradcheck(size: tuple[int, int]) -> None:
    exemplars = draw(2, 3, *size, seed=1)
    images = draw(2, 3, *size).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: colour_term(x, exemplars), (images,))
    assert torch.autograd.gradcheck(lambda x: gray_term(x[:, 0], exemplars[:, 0]), (images,))


def test_colour_does_not_cancel_in_float32() -> None:
    """The expanded form subtracts numbers of 1e9 at frequency 0 of a bright image of 256 px."""
    exemplar = (0.8 + 0.2 * draw(1, 3, 64, 64)).float()
    shifted = roll(exemplar, 5, 11)
    assert float(colour_term(shifted, exemplar)) < 1e-8 * float(exemplar.square().sum())


def test_batch_equals_the_stack_of_singles() -> None:
    images, exemplars = draw(3, 3, 8, 10), draw(3, 3, 8, 10, seed=1)
    for term, x, e in (
        (colour_term, images, exemplars),
        (gray_term, images[:, 0], exemplars[:, 0]),
    ):
        singles = torch.cat([term(x[i : i + 1], e[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(term(x, e), singles, rtol=1e-14, atol=0)


def test_a_poisoned_lane_leaves_the_others_alone() -> None:
    images, exemplars = draw(3, 3, 8, 10), draw(3, 3, 8, 10, seed=1)
    poisoned = images.clone()
    poisoned[1, 0, 0, 0] = torch.nan
    before, after = colour_term(images, exemplars), colour_term(poisoned, exemplars)
    assert after[1].isnan()
    assert torch.equal(after[[0, 2]], before[[0, 2]])


# The projection


def project(images: Tensor, exemplars: Tensor) -> Tensor:
    return project_onto_spectrum(images, compute_spectrum(exemplars))


@pytest.mark.parametrize("size", SIZES)
def test_the_projection_is_that_of_the_whole_plane(size: tuple[int, int]) -> None:
    images, exemplars = draw(2, 3, *size), draw(2, 3, *size, seed=1)
    projected = project(images, exemplars)
    assert projected.shape == images.shape
    for lane in range(2):
        expected = colour_projection(images[lane], exemplars[lane])
        torch.testing.assert_close(projected[lane], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_the_terms_are_half_the_squared_distance_and_0_after_it(size: tuple[int, int]) -> None:
    images, exemplars = draw(2, 3, *size), draw(2, 3, *size, seed=1)
    projected = project(images, exemplars)
    distance = (images - projected).square().sum((1, 2, 3)) / 2
    torch.testing.assert_close(colour_term(images, exemplars), distance)
    assert (colour_term(projected, exemplars) < 1e-25).all()
    assert (gray_term(luminance(projected), luminance(exemplars)) < 1e-25).all()


@pytest.mark.parametrize("size", SIZES)
def test_projecting_again_changes_nothing(size: tuple[int, int]) -> None:
    images, exemplars = draw(2, 3, *size), draw(2, 3, *size, seed=1)
    once = project(images, exemplars)
    torch.testing.assert_close(project(once, exemplars), once, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (3, 2)])
def test_cyclic_shifts_of_the_exemplar_are_left_as_they_are(
    size: tuple[int, int], shift: tuple[int, int]
) -> None:
    exemplars = draw(2, 3, *size, seed=1)
    shifted = roll(exemplars, *shift)
    torch.testing.assert_close(project(shifted, exemplars), shifted, rtol=1e-10, atol=1e-11)


def test_no_image_of_the_exemplar_s_spectrum_is_nearer() -> None:
    """None of a thousand with other phases, far from the nearest or close to it."""
    image, exemplar = draw(1, 3, 8, 10), draw(1, 3, 8, 10, seed=1)
    nearest = project(image, exemplar)
    least = (image - nearest).square().sum()
    generator = torch.Generator().manual_seed(2)
    for number in range(1000):
        size = 10.0 ** (-3 * (number % 4) / 3)
        noise = torch.randn((8, 10), generator=generator, dtype=torch.float64)
        phase = torch.fft.rfft2(size * noise)
        # Odd phases, so that the image is real.
        turned = compute_spectrum(nearest) * torch.exp(1j * phase.imag)
        other = torch.fft.irfft2(turned, s=(8, 10))
        assert float(colour_term(other, exemplar)) < 1e-20
        assert (image - other).square().sum() >= least


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_flat_images_and_exemplars_have_finite_projections(value: float) -> None:
    flat, exemplar = torch.full((1, 3, 6, 7), value).double(), draw(1, 3, 6, 7)
    assert project(flat, exemplar).isfinite().all()
    torch.testing.assert_close(project(exemplar, flat), flat)


def test_projections_of_a_batch_are_those_of_singles() -> None:
    images, exemplars = draw(3, 3, 8, 10), draw(3, 3, 8, 10, seed=1)
    singles = [project(images[i : i + 1], exemplars[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(project(images, exemplars), torch.cat(singles), rtol=0, atol=1e-14)
    images[1, 0, 0, 0] = torch.nan
    spoilt = project(images, exemplars)
    assert spoilt[1].isnan().any()
    assert spoilt[[0, 2]].isfinite().all()
