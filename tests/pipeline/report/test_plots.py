"""Histograms, curves and numbers."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.report.plots import _levels, curves_svg, measure_svg
from pipeline.report.text import format_number


@pytest.mark.parametrize("values", [[0.0], [3.0, 3.0], [-1.0, 1e9], [1e-9, 1e9], [np.nan, np.inf]])
def test_any_values_have_a_histogram(values: list[float]) -> None:
    svg = measure_svg(np.array(values), 2.0)
    assert svg.startswith("<svg") == bool(np.isfinite(values).any())


def test_curves_break_between_levels() -> None:
    curve = [{"evaluations": float(k), "loss": 10.0 - k, "side": 64 << (k > 2)} for k in range(6)]
    assert list(_levels(curve)) == [
        ([0.0, 1.0, 2.0], [10.0, 9.0, 8.0]),
        ([3.0, 4.0, 5.0], [7.0, 6.0, 5.0]),
    ]
    assert curves_svg([[{"evaluations": 1.0, "loss": 0.0, "side": 8}]]) == ""
    assert curves_svg([curve] * 9).startswith("<svg")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (float("nan"), "-"),
        (1234567.8, "1,234,568"),
        (0.83119, "0.8312"),
        (97.055, "97.06"),
    ],
)
def test_numbers_read_well(value: float | None, text: str) -> None:
    assert format_number(value) == text
