"""Textures of which it is known what is wrong with them, and what the measures say of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from torch import Tensor
from torch.nn import functional

from texsynth import (
    QualityMeasures,
    load_exemplar,
    measure_quality,
    sibling_distance,
    triage_exemplars,
)
from texsynth.images import round_to_8_bits
from texsynth.start import draw_starts

TEXTURES = ("brick", "grass", "gravel")
SIDE, PATCH, OVERLAP = 96, 32, 8

Measures = tuple[QualityMeasures, ...]


@pytest.fixture(scope="module")
def photographs() -> Tensor:
    """[3, 3, 192, 192]: four crops of SIDE px of each texture."""
    folder = Path(skimage.data.__file__).parent
    return torch.stack([load_exemplar(folder / f"{name}.png", 2 * SIDE) for name in TEXTURES])


@pytest.fixture(scope="module")
def exemplars(photographs: Tensor) -> Tensor:
    return photographs[..., :SIDE, :SIDE]


def quilt(exemplar: Tensor, generator: np.random.Generator) -> Tensor:
    """Image quilting without cuts: patches that fit their neighbours best out of 100 drawn ones.

    Efros and Freeman, "Image quilting for texture synthesis and transfer" (SIGGRAPH 2001).
    """
    step = PATCH - OVERLAP
    count = -(-(SIDE - OVERLAP) // step)
    canvas = exemplar.new_zeros(3, count * step + OVERLAP, count * step + OVERLAP)
    for row in range(0, count * step, step):
        for column in range(0, count * step, step):
            here = canvas[:, row : row + PATCH, column : column + PATCH]
            places = generator.integers(0, SIDE - PATCH + 1, (100, 2))
            patches = [exemplar[:, r : r + PATCH, c : c + PATCH] for r, c in places]
            top, left = OVERLAP if row else 0, OVERLAP if column else 0

            squares = [(patch - here).square() for patch in patches]
            misfits = [float(s[:, :top].sum() + s[..., :left].sum()) for s in squares]
            best = patches[int(np.argmin(misfits))]
            here[:, top // 2 :, left // 2 :] = best[:, top // 2 :, left // 2 :]
    return canvas[:, :SIDE, :SIDE]


def measure(textures: Tensor, exemplars: Tensor) -> Measures:
    """Of what is stored: clamped and rounded to 8 bits."""
    return measure_quality(round_to_8_bits(textures).float() / 255, exemplars)


@pytest.fixture(scope="module")
def another_crop(photographs: Tensor, exemplars: Tensor) -> Measures:
    """The best that a synthesis can hope for: the same texture, new."""
    return measure(photographs[..., SIDE:, SIDE:], exemplars)


@pytest.fixture(scope="module")
def noise(exemplars: Tensor) -> Measures:
    generator = torch.Generator().manual_seed(0)
    return measure(torch.rand(exemplars.shape, generator=generator), exemplars)


@pytest.fixture(scope="module")
def random_phase(exemplars: Tensor) -> Measures:
    return measure(draw_starts(exemplars, [1, 2, 3], "random_phase"), exemplars)


def values(lanes: Measures, name: str) -> np.ndarray:
    return np.array([getattr(measures, name) for measures in lanes])


def test_an_exact_copy_is_seen_by_all_and_has_no_error(exemplars: Tensor) -> None:
    for measures in measure(exemplars, exemplars):
        assert measures.displacement_score < 0.01
        assert measures.layout_correlation > 0.999
        assert measures.phase_correlation_peak > 0.9
        assert measures.verbatim_share == 1
        assert measures.colour_mean_distance < 1e-3
        assert measures.colour_covariance_distance < 1e-2
        assert measures.sliced_wasserstein < 2e-3
        assert measures.spectrum_error < 0.02
        assert measures.colour_spectrum_error < 0.02
        assert measures.autocorrelation_error < 0.01
        assert measures.high_frequency_ratio == pytest.approx(1, abs=0.01)
        assert abs(measures.local_mean_drift) < 1e-3
        assert abs(measures.local_contrast_drift) < 1e-3
        assert measures.seam_score == pytest.approx(measures.exemplar_seam_score, rel=1e-2)


def test_a_cyclic_shift_is_a_phase_peak(exemplars: Tensor) -> None:
    for measures in measure(exemplars.roll((37, 50), (2, 3)), exemplars):
        assert measures.phase_correlation_peak > 0.9
        assert abs(measures.layout_correlation) < 0.4
        assert measures.layout_correlation_shifted > 0.5
        assert measures.displacement_score < 0.2
        assert measures.verbatim_share > 0.7
        assert measures.spectrum_error < 0.02


def test_image_quilting_is_a_verbatim_share(exemplars: Tensor, another_crop: Measures) -> None:
    generator = np.random.default_rng(0)
    quilted = torch.stack([quilt(exemplar, generator) for exemplar in exemplars])
    found = measure(quilted, exemplars)
    assert (values(found, "displacement_score") < 0.4).all()
    assert (values(found, "verbatim_share") > 0.4).all()
    assert (values(found, "verbatim_share") > values(another_crop, "verbatim_share") + 0.1).all()
    # Neither of the whole image's measures sees it.
    assert (values(found, "layout_correlation") < 0.8).all()
    assert (values(found, "phase_correlation_peak") < 0.4).all()


def test_new_images_are_no_copies(
    another_crop: Measures, noise: Measures, random_phase: Measures
) -> None:
    for lanes in (another_crop, noise, random_phase):
        assert (values(lanes, "displacement_score") > 0.7).all()
        assert (values(lanes, "layout_correlation") < 0.5).all()
        assert (values(lanes, "phase_correlation_peak") < 0.2).all()
    # Brick is regular: blocks of it are like each other.
    assert (values(another_crop, "verbatim_share") < [0.6, 0.1, 0.1]).all()
    for lanes in (noise, random_phase):
        assert (values(lanes, "verbatim_share") == 0).all()


def test_white_noise_is_off_in_everything_but_copies(
    noise: Measures, another_crop: Measures
) -> None:
    for name in (
        *("colour_covariance_distance", "sliced_wasserstein", "spectrum_error"),
        *("colour_spectrum_error", "wavelet_kl", "chroma_noise"),
    ):
        assert (values(noise, name) > values(another_crop, name)).all(), name
    assert (values(noise, "high_frequency_ratio") > 2).all()
    assert (values(noise, "chroma_noise") > 0.3).all()
    assert (values(noise, "exemplar_chroma_noise") < 1e-3).all()
    assert values(noise, "autocorrelation_error") == pytest.approx(1, abs=0.15)


def test_random_phase_has_spectrum_and_colours_but_no_structure(
    random_phase: Measures, another_crop: Measures
) -> None:
    assert (values(random_phase, "spectrum_error") < 0.03).all()
    assert (values(random_phase, "colour_spectrum_error") < 0.03).all()
    assert (values(random_phase, "colour_mean_distance") < 0.002).all()
    assert (values(random_phase, "colour_covariance_distance") < 0.02).all()
    assert values(random_phase, "high_frequency_ratio") == pytest.approx(1, abs=0.02)
    # The periodic image has no seam.
    assert values(random_phase, "seam_score") == pytest.approx(1, abs=0.2)
    # Its marginals are Gaussian. So nearly are those of grass and gravel, not those of brick.
    assert random_phase[0].wavelet_kl > 5 * another_crop[0].wavelet_kl


def test_blur_loses_fine_detail(exemplars: Tensor) -> None:
    padded = functional.pad(exemplars, (2, 2, 2, 2), mode="reflect")
    found = measure(functional.avg_pool2d(padded, 5, 1), exemplars)
    assert (values(found, "high_frequency_ratio") < 0.4).all()
    assert (values(found, "wavelet_kl") > 20).all()
    assert (values(found, "spectrum_error") > 0.3).all()
    assert (values(found, "colour_covariance_distance") > 0.4).all()
    # The layout is still the exemplar's.
    assert (values(found, "layout_correlation") > 0.9).all()
    assert (values(found, "colour_mean_distance") < 0.005).all()


def test_another_texture_is_off_in_colour_and_marginals(
    exemplars: Tensor, another_crop: Measures
) -> None:
    found = measure(exemplars[[1, 2, 0]], exemplars)
    for name in ("sliced_wasserstein", "colour_mean_distance", "wavelet_kl"):
        assert (values(found, name) > values(another_crop, name)).all(), name


def test_clamping_shows_as_clipped_values(exemplars: Tensor) -> None:
    overdriven = 0.5 + 4 * (exemplars - 0.5)
    for measures in measure_quality(overdriven, exemplars):
        assert measures.out_of_range_share > 0.1
    for measures in measure(overdriven, exemplars):
        assert measures.out_of_range_share == 0
        assert measures.clipped_share > measures.exemplar_clipped_share + 0.3


def test_uneven_contrast_shows_as_drift(exemplars: Tensor, another_crop: Measures) -> None:
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    strength = torch.where((y < SIDE // 2) == (x < SIDE // 2), 1.6, 0.4)
    means = exemplars.mean((2, 3), keepdim=True)
    found = measure(means + strength * (exemplars - means), exemplars)
    assert (values(found, "local_contrast_drift") > 0.3).all()
    assert (np.abs(values(another_crop, "local_contrast_drift")) < 0.15).all()


def test_siblings(photographs: Tensor) -> None:
    crops = torch.stack([photographs[1, :, :SIDE, :SIDE], photographs[1, :, SIDE:, SIDE:]])
    collapsed = torch.cat([crops, crops[:1] * 0.9])
    assert sibling_distance(collapsed).tolist() == pytest.approx([0, 1, 0], abs=0.15)


def test_controls_as_exemplars(exemplars: Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand((1, 3, SIDE, SIDE), generator=generator)
    batch = torch.cat([exemplars, noise, 0.5 + 0.02 * noise])
    kinds = [found.kind for found in triage_exemplars(batch)]
    assert kinds == ["regular", "stochastic", "stochastic", "stochastic", "flat"]
