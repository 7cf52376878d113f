from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pipeline.flags import RULES, evaluate_rules
from pipeline.outliers import FEWEST_ROWS, MEASURES, OUTLYING
from pipeline.schema import row_schema
from pipeline.thresholds import Proposal, propose_rules, propose_thresholds


def frame_of(rows: int, **columns: Any) -> pd.DataFrame:
    values: dict[str, Any] = {name: [np.nan] * rows for name in MEASURES}
    values |= {"status": ["ok"] * rows, "category": ["a"] * rows}
    return pd.DataFrame(values | columns)


def normal(rows: int, mean: float, deviation: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, deviation, rows)


def test_of_normal_numbers_the_threshold_is_so_many_deviations_away() -> None:
    values = normal(4000, 0.8, 0.02)
    frame = frame_of(4000, displacement_score=values, sliced_wasserstein=values)
    below, above = propose_thresholds(frame)
    assert (below.measure, below.flag, below.worse) == ("displacement_score", "copy", "below")
    assert (below.standing, above.standing) == ("copy_displacement_threshold", 0.05)
    assert below.threshold == pytest.approx(0.8 - OUTLYING * 0.02, abs=0.005)
    assert above.threshold == pytest.approx(0.8 + OUTLYING * 0.02, abs=0.005)
    assert below.median == above.median == pytest.approx(np.median(values))


def test_a_few_bad_rows_do_not_move_it() -> None:
    good = normal(200, 0.1, 0.01)
    spoilt = np.where(np.arange(200) < 10, 5.0, good)
    (before,) = propose_thresholds(frame_of(200, sliced_wasserstein=good))
    (after,) = propose_thresholds(frame_of(200, sliced_wasserstein=spoilt))
    assert after.threshold == pytest.approx(before.threshold, rel=0.1)


def test_few_rows_or_failures_have_no_proposal() -> None:
    few = FEWEST_ROWS - 1
    assert propose_thresholds(frame_of(few, sliced_wasserstein=[0.5] * few)) == []
    failed = frame_of(20, sliced_wasserstein=[0.5] * 20, status=["failed"] * 20)
    assert propose_thresholds(failed) == []


def test_categories_of_one_distribution_have_no_threshold_of_their_own() -> None:
    names = [f"c{k % 40}" for k in range(2000)]
    values = {measure: normal(2000, 0.5, 0.1, seed=k) for k, measure in enumerate(MEASURES)}
    proposals = propose_thresholds(frame_of(2000, category=names, **values))
    own = sum(len(one.by_category) for one in proposals)
    assert own < 0.02 * 40 * len(proposals)


def propose_for(values: np.ndarray, names: list[str | None]) -> Proposal:
    (found,) = propose_thresholds(frame_of(len(values), sliced_wasserstein=values, category=names))
    return found


def test_a_category_has_its_own_where_some_row_is_judged_otherwise_and_rows_are_many() -> None:
    usual, noisy = normal(400, 0.1, 0.02), normal(60, 0.3, 0.02, seed=1)
    names: list[str | None] = [*["a"] * 400, *["b"] * 60]
    found = propose_for(np.concatenate([usual, noisy]), names)
    assert found.by_category["b"] == pytest.approx(0.3 + OUTLYING * 0.02, abs=0.03)
    few = propose_for(np.concatenate([usual, noisy[: FEWEST_ROWS - 1]]), names[:409])
    assert "b" not in few.by_category
    # As far below all others: its own threshold is another, but judges none of its rows otherwise.
    quiet = propose_for(np.concatenate([usual, normal(60, 0.02, 0.002, seed=1)]), names)
    assert "b" not in quiet.by_category


def test_the_rules_judge_every_row_by_the_threshold_of_its_category() -> None:
    names = ["it's", "a OR b", "\x1b[31m", None]
    count = 60 * len(names)
    category = [names[k % len(names)] for k in range(count)]
    levels = {"it's": 0.1, "a OR b": 0.9, "\x1b[31m": 2.0, None: 0.5}
    values = normal(count, 0, 0.02) + [levels[name] for name in category]
    values[:8] += 1.0
    proposals = propose_thresholds(
        frame_of(count, category=category, high_frequency_ratio=values, displacement_score=values)
    )
    rules = propose_rules(proposals)
    assert set(rules) == {"copy", "noisy"}
    assert all(rule.isprintable() for rule in rules.values())
    assert rules["noisy"].endswith(" OR chroma_noise > 3 * exemplar_chroma_noise + 0.01")
    one = next(p for p in proposals if p.measure == "high_frequency_ratio")
    assert {"it's", "a OR b"} <= set(one.by_category)
    printed = {name: value for name, value in one.by_category.items() if name.isprintable()}
    expected = [
        value > printed.get(name or "", one.threshold)
        for name, value in zip(category, values, strict=True)
    ]
    table = row_schema().empty_table().to_pandas().reindex(range(count))
    table = table.assign(category=category, high_frequency_ratio=values)
    arrow = pa.Table.from_pandas(table, row_schema(), preserve_index=False)
    found = evaluate_rules(arrow, {**RULES, **rules})["noisy"].to_pylist()
    assert [value is True for value in found] == expected
    assert 0 < sum(expected) < count
