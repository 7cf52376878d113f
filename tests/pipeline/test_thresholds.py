from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.flags import FAULTS
from pipeline.thresholds import MEASURES, OUTLYING, propose_loss, propose_thresholds


def frame_of(rows: int, **columns: Any) -> pd.DataFrame:
    values: dict[str, Any] = {name: [np.nan] * rows for name in MEASURES}
    values |= {"status": ["ok"] * rows, "category": ["a"] * rows, "delivered_loss": [1.0] * rows}
    values |= {name: [False] * rows for name in FAULTS}
    return pd.DataFrame(values | columns)


def normal(rows: int, mean: float, deviation: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, deviation, rows)


def test_of_normal_numbers_the_threshold_is_so_many_deviations_away() -> None:
    values = normal(4000, 0.8, 0.02)
    frame = frame_of(4000, displacement_score=values, sliced_wasserstein=values)
    below, above = propose_thresholds(frame)
    assert (below.measure, below.flag, below.worse) == ("displacement_score", "copy", "below")
    assert below.threshold == pytest.approx(0.8 - OUTLYING * 0.02, abs=0.005)
    assert above.threshold == pytest.approx(0.8 + OUTLYING * 0.02, abs=0.005)
    assert below.median == above.median == pytest.approx(np.median(values))
    assert max(below.outliers, above.outliers) < 8


def test_a_few_bad_rows_do_not_move_it() -> None:
    good = normal(200, 0.1, 0.01)
    clean, spoilt = frame_of(200, sliced_wasserstein=good), good.copy()
    spoilt[:10] = 5.0
    (before,) = propose_thresholds(clean)
    (after,) = propose_thresholds(frame_of(200, sliced_wasserstein=spoilt))
    assert after.threshold == pytest.approx(before.threshold, rel=0.1)
    assert after.outliers == 10


def test_outliers_are_those_of_their_category() -> None:
    values = np.concatenate([normal(50, 0.1, 0.01), normal(50, 0.9, 0.01, seed=1)])
    values[0] = 0.9
    categories = ["a"] * 50 + ["b"] * 50
    (own,) = propose_thresholds(frame_of(100, sliced_wasserstein=values, category=categories))
    (run,) = propose_thresholds(frame_of(100, sliced_wasserstein=values, category=[None] * 100))
    assert (own.outliers, run.outliers) == (1, 0)


def test_equal_numbers_have_no_outliers_and_few_rows_no_proposal() -> None:
    (flat,) = propose_thresholds(frame_of(20, sliced_wasserstein=[0.5] * 20))
    assert (flat.threshold, flat.outliers) == (0.5, 0)
    mostly = [0.5] * 19 + [0.9]
    (one,) = propose_thresholds(frame_of(20, sliced_wasserstein=mostly))
    assert 0.5 < one.threshold < 0.9
    assert one.outliers == 1
    assert propose_thresholds(frame_of(9, sliced_wasserstein=[0.5] * 9)) == []
    failed = frame_of(20, sliced_wasserstein=[0.5] * 20, status=["failed"] * 20)
    assert propose_thresholds(failed) == []


def test_the_loss_that_parts_good_from_faulty() -> None:
    losses = [*range(100, 130), *range(1000, 1020)]
    noisy = [False] * 30 + [True] * 20
    found = propose_loss(frame_of(50, delivered_loss=losses, noisy=noisy))
    assert (found.good, found.faulty, found.youden) == (30, 20, 1.0)
    assert found.threshold is not None
    assert 129 < found.threshold < 1000


def test_the_loss_against_every_threshold_tried_in_turn() -> None:
    losses = np.exp(normal(60, 5.0, 1.0))
    noisy = (losses + np.exp(normal(60, 5.0, 1.0, seed=1))) > 350
    found = propose_loss(frame_of(60, delivered_loss=losses, noisy=noisy))

    def youden(threshold: float) -> float:
        return float((losses[noisy] > threshold).mean() - (losses[~noisy] > threshold).mean())

    assert found.threshold is not None
    assert found.youden == pytest.approx(youden(found.threshold))
    assert found.youden == pytest.approx(max(youden(loss) for loss in losses))


def test_without_enough_of_both_nothing_is_said_of_the_loss() -> None:
    found = propose_loss(frame_of(40, noisy=[True] * 9 + [False] * 31))
    assert (found.good, found.faulty, found.threshold, found.youden) == (31, 9, None, None)
