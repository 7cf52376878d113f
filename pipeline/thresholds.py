"""Thresholds that a run's own numbers suggest; proposals to be looked at, not truths.

Of each measure, the value at which a row's robust z-score reaches 3.5: Iglewicz and Hoaglin, "How
to Detect and Handle Outliers" (1993), M = 0.6745 (x - median) / MAD, with the mean absolute
deviation where the MAD is 0. For the loss, the value that best parts the rows with faults from
those without (Youden, "Index for rating diagnostic tests", Cancer 1950).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.flags import FAULTS, find_comparisons

OUTLYING = 3.5
"""Robust z-score from which a value is an outlier (Iglewicz and Hoaglin)."""
FEWEST_ROWS = 10
"""Rows without which nothing is proposed: of a run, of a category, with and without faults."""
MEASURES: dict[str, tuple[str, float]] = {
    one.measure: (one.flag, -1.0 if one.is_below else 1.0)
    for one in find_comparisons()
    if one.flag in FAULTS
}
"""Measures with a threshold in the standing rule of a fault: the flag, and 1 where a texture is bad
above it, -1 below."""


@dataclass(frozen=True)
class Proposal:
    """What the distribution of one measure suggests.

    Attributes:
        measure, flag: Column, and the flag whose rule it stands in.
        worse: `above` or `below`.
        rows: That have the measure.
        median, threshold: Of all rows; where the robust z-score of the run is 3.5.
        outliers: Rows beyond 3.5 in the distribution of their own category, or of the run where the
            category has fewer than 10 rows.
    """

    measure: str
    flag: str
    worse: str
    rows: int
    median: float
    threshold: float
    outliers: int


@dataclass(frozen=True)
class LossProposal:
    """Which delivered loss best tells rows with faults from those without.

    Attributes:
        good, faulty: Rows without and with any of FAULTS.
        threshold: None where either are fewer than 10.
        youden: Share of faulty rows above it, less that of good ones; 1 parts them wholly, 0 not.
    """

    good: int
    faulty: int
    threshold: float | None
    youden: float | None


def propose_thresholds(metrics: pd.DataFrame) -> list[Proposal]:
    """A proposal for every measure that enough rows have.

    Args:
        metrics: Rows of one run, as `load_metrics` gives them.
    """
    ok = metrics[metrics["status"] == "ok"]
    found = []
    for measure, (flag, sign) in MEASURES.items():
        rows = ok[[measure, "category"]].dropna(subset=[measure])
        if len(rows) < FEWEST_ROWS:
            continue
        values = sign * rows[measure]
        centre, scale = _centre_and_scale(values)
        found.append(
            Proposal(
                measure,
                flag,
                "above" if sign > 0 else "below",
                len(rows),
                sign * centre,
                sign * (centre + OUTLYING * scale),
                _count_outliers(values, rows["category"]),
            )
        )
    return found


def propose_loss(metrics: pd.DataFrame) -> LossProposal:
    """The loss that parts rows with and without other faults best, if there are enough of both."""
    ok = metrics[(metrics["status"] == "ok") & metrics["delivered_loss"].notna()]
    faulty = ok[list(FAULTS)].fillna(False).astype(bool).any(axis=1).to_numpy()
    good = len(ok) - int(faulty.sum())
    if min(good, len(ok) - good) < FEWEST_ROWS:
        return LossProposal(good, len(ok) - good, None, None)
    losses = ok["delivered_loss"].to_numpy(float)
    order = np.argsort(losses)
    # Youden's index with the threshold between each loss and the next.
    index = np.cumsum(~faulty[order]) / good - np.cumsum(faulty[order]) / (len(ok) - good)
    best = int(np.argmax(index[:-1]))
    between = math.sqrt(losses[order][best] * losses[order][best + 1])
    return LossProposal(good, len(ok) - good, between, float(index[best]))


def _count_outliers(values: pd.Series, categories: pd.Series) -> int:
    """Values far above those of their category."""
    centre, scale = _centre_and_scale(values)
    bounds = pd.Series(centre + OUTLYING * scale, values.index)
    for _, own in values.groupby(categories):
        if len(own) >= FEWEST_ROWS:
            middle, spread = _centre_and_scale(own)
            bounds[own.index] = middle + OUTLYING * spread
    return int((values > bounds).sum())


def _centre_and_scale(values: pd.Series) -> tuple[float, float]:
    """Median, and the robust estimate of a standard deviation."""
    centre = float(values.median())
    deviations = (values - centre).abs()
    scale = float(deviations.median()) / 0.6745
    return centre, scale or 1.253314 * float(deviations.mean())
