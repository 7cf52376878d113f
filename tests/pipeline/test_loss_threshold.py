from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pipeline.flags import FAULTS
from pipeline.loss_threshold import climb_losses, propose_loss


def frame_of(losses: Any, noisy: Any, **columns: Any) -> pd.DataFrame:
    rows = len(losses)
    names = [f"e{k}" for k in range(rows)]
    values: dict[str, Any] = {name: [False] * rows for name in FAULTS}
    values |= {"status": ["ok"] * rows, "task_id": names, "exemplar_id": names}
    return pd.DataFrame(values | {"delivered_loss": losses, "noisy": noisy} | columns)


def noise(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(5.0, 1.0, rows)


def test_the_loss_that_parts_good_from_faulty() -> None:
    losses = [*range(100, 130), *range(1000, 1020)]
    found = propose_loss(frame_of(losses, [False] * 30 + [True] * 20))
    assert (found.good, found.faulty, found.youden) == (30, 20, 1.0)
    assert found.threshold is not None
    assert found.interval is not None
    assert found.chance is not None
    assert 129 < found.threshold < 1000
    assert 100 < found.interval[0] <= found.threshold <= found.interval[1] < 1020
    assert found.chance < 1e-6


@pytest.mark.parametrize("digits", [0, 6])
def test_the_loss_against_every_threshold_tried_in_turn(digits: int) -> None:
    losses = np.exp(noise(60, 0)).round(digits) // (30 if digits == 0 else 1e-9)
    noisy = (losses + losses.std() * (noise(60, 1) - 5)) > np.median(losses)
    found = propose_loss(frame_of(losses, noisy))

    def youden(threshold: float) -> float:
        return float((losses[noisy] > threshold).mean() - (losses[~noisy] > threshold).mean())

    assert found.threshold is not None
    assert found.youden == pytest.approx(youden(found.threshold))
    assert found.youden == pytest.approx(max(youden(loss) for loss in losses))
    by_scipy = stats.ks_2samp(losses[~noisy], losses[noisy], alternative="greater", method="asymp")
    assert found.youden == pytest.approx(by_scipy.statistic)
    assert found.chance == pytest.approx(by_scipy.pvalue, abs=0.05)


def test_a_loss_that_tells_nothing_is_said_to() -> None:
    chances = []
    for seed in range(8):
        noisy = np.random.default_rng(seed).random(80) < 0.5
        chances.append(propose_loss(frame_of(np.exp(noise(80, seed + 99)), noisy)).chance)
    assert sum(chance is not None and chance > 0.05 for chance in chances) >= 6


def test_alike_variations_do_not_narrow_the_interval() -> None:
    losses = np.exp(noise(40, 0))
    noisy = losses * np.exp(noise(40, 1) - 5) > np.median(losses)
    one = propose_loss(frame_of(losses, noisy))
    alike = frame_of(np.repeat(losses, 8), np.repeat(noisy, 8), exemplar_id=np.repeat(range(40), 8))
    apart = alike.assign(exemplar_id=range(320))
    widths = []
    for frame in (frame_of(losses, noisy), alike, apart):
        found = propose_loss(frame)
        assert found.interval is not None
        widths.append(np.log(found.interval[1] / found.interval[0]))
    assert one.threshold == propose_loss(alike).threshold
    assert widths[0] == pytest.approx(widths[1], rel=0.3)
    assert widths[2] < widths[1]


@pytest.mark.parametrize("losses", [np.arange(40.0) + 1, np.ones(40)])
def test_without_enough_of_both_or_with_equal_losses_nothing_is_said(losses: np.ndarray) -> None:
    few = 9 if losses.std() else 20
    found = propose_loss(frame_of(losses, [True] * few + [None] * (40 - few)))
    assert (found.good, found.faulty) == (40 - few, few)
    assert (found.threshold, found.youden, found.interval, found.chance) == (None,) * 4


def test_the_ladder_climbs_through_the_middles_of_the_fifths() -> None:
    losses = np.random.default_rng(0).permutation(np.arange(1.0, 101.0))
    rungs = climb_losses(frame_of(losses, losses > 70))
    assert [rung.loss for rung in rungs] == [11, 31, 51, 71, 91]
    assert [rung.rank for rung in rungs] == [0.1, 0.3, 0.5, 0.7, 0.9]
    assert [rung.faulty_share for rung in rungs] == [0, 0, 0, 0.5, 1]
    assert rungs[2].over_median == pytest.approx(51 / 50.5)
    assert [losses[int(rung.task_id[1:])] for rung in rungs] == [rung.loss for rung in rungs]
    assert climb_losses(frame_of(losses[:9], losses[:9] > 70)) == []
