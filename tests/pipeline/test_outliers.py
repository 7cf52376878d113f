"""Robust z-scores, against their equations written out row by row."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.outliers import (
    FEWEST_ROWS,
    MEASURES,
    OUTLYING,
    find_outliers,
    name_small_categories,
    score_measure,
)

MEASURE = "sliced_wasserstein"
VALUES = st.one_of(st.none(), st.sampled_from([0.0, 0.5]), st.floats(-1e3, 1e3).map(np.float32))
ROWS = st.lists(st.tuples(st.sampled_from(["a", "b", None]), VALUES), min_size=1, max_size=60)


def frame_of(rows: list[tuple[str | None, Any]], measure: str = MEASURE) -> pd.DataFrame:
    values: dict[str, Any] = {name: [np.nan] * len(rows) for name in MEASURES}
    values |= {"status": ["ok"] * len(rows), "task_id": [f"t{k}" for k in range(len(rows))]}
    values |= {"category": [category for category, _ in rows]}
    return pd.DataFrame(values | {measure: [np.nan if v is None else float(v) for _, v in rows]})


def score_slowly(value: float, among: list[float]) -> tuple[float, float]:
    median = statistics.median(among)
    deviations = [abs(other - median) for other in among]
    deviation = statistics.median(deviations)
    if deviation > 0:
        return median, 0.6745 * (value - median) / deviation
    mean = statistics.fmean(deviations)
    return median, (value - median) / (1.253314 * mean) if mean else 0.0


@settings(max_examples=25)
@given(rows=ROWS)
def test_scores_are_those_of_the_equations(rows: list[tuple[str | None, Any]]) -> None:
    scored = score_measure(frame_of(rows), MEASURE)
    known = [(k, category, float(v)) for k, (category, v) in enumerate(rows) if v is not None]
    assert list(scored["task_id"]) == [f"t{k}" for k, _, _ in known]
    for (_, category, value), row in zip(known, scored.to_dict("records"), strict=True):
        own = [v for _, other, v in known if other == category]
        is_own = category is not None and len(own) >= FEWEST_ROWS
        median, z = score_slowly(value, own if is_own else [v for _, _, v in known])
        assert row["of"] == ("category" if is_own else "run")
        assert (row["value"], row["median"]) == (value, median)
        assert row["z"] == pytest.approx(z, rel=1e-9, abs=1e-9)


@settings(max_examples=25)
@given(rows=ROWS, factor=st.sampled_from([0.25, 4.0]), shift=st.integers(-5, 5))
def test_scores_do_not_know_units(
    rows: list[tuple[str | None, Any]], factor: float, shift: int
) -> None:
    # Steps of 1/8: neither the factor nor the shift rounds, so that what is equal stays equal.
    rows = [(c, None if v is None else round(float(v) * 8) / 8) for c, v in rows]
    moved = [(c, None if v is None else factor * v + shift) for c, v in rows]
    before, after = (score_measure(frame_of(part), MEASURE)["z"] for part in (rows, moved))
    np.testing.assert_allclose(after, before, rtol=1e-9, atol=1e-9)


def spread(category: str | None, middle: float, count: int) -> list[tuple[str | None, Any]]:
    return [(category, middle + 0.01 * k) for k in range(count)]


@pytest.mark.parametrize(("measure", "sign"), [(MEASURE, 1), ("displacement_score", -1)])
def test_what_stands_out_is_what_is_bad_for_its_category(measure: str, sign: int) -> None:
    rows = spread("a", 0.1, 20) + spread("b", 0.9, 20)
    rows += [("a", 0.2 + sign * 0.75), ("a", 0.2 - sign * 0.6), ("b", 1.0 + sign * 0.5)]
    found = find_outliers(frame_of(rows, measure))
    assert list(found["task_id"]) == ["t40", "t42"]
    assert list(found["of"]) == ["category"] * 2
    assert (sign * found["z"] > OUTLYING).all()
    assert found["median"].tolist() == pytest.approx([0.2, 1.0], abs=0.02)


def test_rows_of_small_categories_are_held_against_the_run() -> None:
    rows = [*spread("a", 0.1, 30), ("few", 5.0), (None, 6.0), *spread("b", 0.1, FEWEST_ROWS)]
    frame = frame_of(rows)
    found = find_outliers(frame)
    assert found[["task_id", "of"]].to_numpy().tolist() == [["t31", "run"], ["t30", "run"]]
    assert name_small_categories(frame) == ["few"]


def test_equal_values_few_rows_and_failures_have_no_outliers() -> None:
    assert find_outliers(frame_of([("a", 0.5)] * 20)).empty
    assert len(find_outliers(frame_of([("a", 0.5)] * 19 + [("a", 0.9)]))) == 1
    assert find_outliers(frame_of([*spread("a", 0, 8), ("a", 9.0)])).empty
    spoilt = frame_of([*spread("a", 0, 20), ("a", 9.0)])
    assert len(find_outliers(spoilt)) == 1
    assert find_outliers(spoilt.assign(status="failed")).empty
