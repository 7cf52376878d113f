"""Which delivered loss tells good textures from bad, as far as one run can say.

The published 1500 belongs to certain weights, taps and a size; with others two things stand in for
it: the loss that best parts the rows with faults from those without, by Youden's index,
J = max_t (share of faulty rows above t - share of others above t) ("Index for rating diagnostic
tests", Cancer 1950); and textures to look at, from the lowest loss to the highest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.flags import FAULTS
from pipeline.outliers import FEWEST_ROWS, select_finished

RESAMPLES = 500
COVERAGE = (5.0, 95.0)
"""Percentiles between which the loss of nine resamples of ten lies."""
RUNGS = 5


@dataclass(frozen=True)
class LossProposal:
    """Which delivered loss best tells rows with faults from those without.

    Attributes:
        good, faulty: Rows without and with any of FAULTS.
        threshold: None where either are fewer than 10, or all losses are equal.
        youden: Of the threshold; 1 parts them wholly, 0 not.
        interval: Where the threshold lies in nine of ten runs of as many exemplars, drawn from
            those of this run (bootstrap).
        chance: How often the index is as high where the loss says nothing of the faults:
            exp(-2 J^2 m n / (m + n)), the one-sided test of Smirnov.
    """

    good: int
    faulty: int
    threshold: float | None = None
    youden: float | None = None
    interval: tuple[float, float] | None = None
    chance: float | None = None


@dataclass(frozen=True)
class Rung:
    """A fifth of the textures, by delivered loss.

    Attributes:
        rank: Share of all textures whose loss is lower than that of `task_id`.
        loss: Of the texture in the middle.
        over_median: Its ratio to the median of the run.
        faulty_share: Of the textures of this fifth, those with any of FAULTS.
        task_id: Of the texture in the middle, to be looked at.
    """

    rank: float
    loss: float
    over_median: float
    faulty_share: float
    task_id: str


def propose_loss(metrics: pd.DataFrame) -> LossProposal:
    """The loss that parts rows with and without faults best, if there are enough of both.

    Args:
        metrics: Rows of one run, as `load_metrics` gives them.
    """
    rows = _order_by_loss(metrics)
    losses, faulty = rows["delivered_loss"].to_numpy(float), _find_faulty(rows)
    bad = int(faulty.sum())
    good = len(rows) - bad
    enough = min(good, bad) >= FEWEST_ROWS
    found = _part(losses, faulty, np.ones(len(rows))) if enough else None
    if found is None:
        return LossProposal(good, bad)
    threshold, youden = found
    interval = _resample(losses, faulty, rows["exemplar_id"])
    chance = math.exp(-2 * youden**2 * good * bad / (good + bad))
    return LossProposal(good, bad, threshold, youden, interval, chance)


def climb_losses(metrics: pd.DataFrame) -> list[Rung]:
    """The textures in the middle of every fifth, the lowest losses first; none of too few rows."""
    rows = _order_by_loss(metrics)
    if len(rows) < FEWEST_ROWS:
        return []
    median = float(rows["delivered_loss"].median())
    rungs = []
    for part in np.array_split(np.arange(len(rows)), RUNGS):
        middle = int(part[len(part) // 2])
        loss = float(rows["delivered_loss"].iloc[middle])
        faulty = float(_find_faulty(rows.iloc[part]).mean())
        ratio = loss / median if median else math.nan
        rungs.append(
            Rung(middle / len(rows), loss, ratio, faulty, str(rows["task_id"].iloc[middle]))
        )
    return rungs


def _order_by_loss(metrics: pd.DataFrame) -> pd.DataFrame:
    ok = select_finished(metrics)
    return ok.dropna(subset=["delivered_loss"]).sort_values("delivered_loss", kind="stable")


def _find_faulty(rows: pd.DataFrame) -> NDArray[np.bool_]:
    faulty: NDArray[np.bool_] = (rows[list(FAULTS)] == True).any(axis=1).to_numpy(bool)  # noqa: E712 - or null
    return faulty


def _part(
    losses: NDArray[np.float64], faulty: NDArray[np.bool_], weights: NDArray[np.float64]
) -> tuple[float, float] | None:
    """The threshold of the highest index and that index; None where no threshold parts anything.

    Args:
        losses: [n], rising.
        faulty: [n].
        weights: [n], how often each row counts.
    """
    held = weights > 0
    losses, faulty, weights = losses[held], faulty[held], weights[held]
    below = [np.cumsum(weights * kind) for kind in (~faulty, faulty)]
    if min(sums[-1] for sums in below) == 0:
        return None
    index = below[0] / below[0][-1] - below[1] / below[1][-1]
    # Between equal losses there is no threshold.
    index = np.where(np.diff(losses) > 0, index[:-1], -np.inf)
    best = int(np.argmax(index)) if len(index) else 0
    if not len(index) or np.isinf(index[best]):
        return None
    return math.sqrt(losses[best] * losses[best + 1]), float(index[best])


def _resample(
    losses: NDArray[np.float64], faulty: NDArray[np.bool_], exemplars: pd.Series
) -> tuple[float, float] | None:
    """Where thresholds lie if exemplars are drawn anew: their variations are alike."""
    numbers, names = pd.factorize(exemplars)
    generator = np.random.default_rng(0)
    found = []
    for _ in range(RESAMPLES):
        drawn = generator.multinomial(len(names), np.full(len(names), 1 / len(names)))
        parted = _part(losses, faulty, drawn[numbers].astype(float))
        found += [] if parted is None else [parted[0]]
    if not found:
        return None
    low, high = np.percentile(found, COVERAGE)
    return float(low), float(high)
