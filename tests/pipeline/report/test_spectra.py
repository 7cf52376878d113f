"""The difference of two spectra, against its definition."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.report.spectra import compute_spectrum_difference, draw_spectrum_difference


def test_the_difference_of_spectra_by_its_definition() -> None:
    generator = np.random.default_rng(0)
    texture, exemplar = generator.integers(0, 256, (2, 6, 6, 3), np.uint8)
    powers = []
    for image in (texture, exemplar):
        power = np.zeros((6, 6))
        for channel in range(3):
            for v, u in np.ndindex(6, 6):
                y, x = np.indices((6, 6))
                wave = np.exp(-2j * np.pi * (u * x + v * y) / 6)
                power[(v + 3) % 6, (u + 3) % 6] += (
                    abs((image[..., channel] / 255 * wave).sum()) ** 2
                )
        powers.append(power + 3 * 36 / 12 / 255**2)
    expected = 10 * np.log10(powers[0] / powers[1])
    found = compute_spectrum_difference(texture, exemplar)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    shifted = np.roll(texture, (2, 3), (0, 1))
    np.testing.assert_allclose(compute_spectrum_difference(shifted, texture), 0, atol=1e-9)
    with pytest.raises(ValueError, match="expected one shape"):
        compute_spectrum_difference(texture, exemplar[:5])


def test_a_difference_of_spectra_is_red_where_there_is_more() -> None:
    steps = np.array([[-50.0, -20.0, 0.0, 20.0]])
    image = draw_spectrum_difference(steps)
    pixels = np.asarray(image.convert("RGB")).astype(int)[0]
    assert image.mode == "P"
    assert (pixels[0] == pixels[1]).all()
    assert pixels[1, 2] > pixels[1, 0]
    assert pixels[3, 0] > pixels[3, 2]
    assert np.ptp(pixels[2]) < 8


def test_large_spectra_are_averaged_over_blocks() -> None:
    image = np.random.default_rng(0).integers(0, 256, (300, 260, 3), np.uint8)
    assert compute_spectrum_difference(image, image[::-1]).shape == (100, 86)
