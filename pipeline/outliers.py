"""Rows that stand out in their category, by robust z-scores.

With the median m and the median absolute deviation MAD of a category,

    z = 0.6745 (x - m) / MAD,

or (x - m) / (1.2533 times the mean absolute deviation) where the MAD is 0: Iglewicz and Hoaglin,
"How to Detect and Handle Outliers" (1993). Both scales estimate a standard deviation.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from pipeline.flags import FAULTS, Comparison, find_comparisons

OUTLYING = 3.5
"""Robust z-score from which a value is an outlier (Iglewicz and Hoaglin)."""
FEWEST_ROWS = 10
"""Rows without which a distribution is not looked at: of a run, of a category."""
MEASURES: dict[str, Comparison] = {
    one.measure: one for one in find_comparisons() if one.flag in FAULTS
}
"""Measures with a threshold in the standing rule of a fault."""
COLUMNS = ("task_id", "category", "measure", "value", "median", "z", "of")


@dataclass(frozen=True)
class Distribution:
    """Where the values of a measure lie.

    Attributes:
        rows: That have a value.
        median: Of the values.
        scale: Robust estimate of their standard deviation; 0 if all are equal.
    """

    rows: int
    median: float
    scale: float

    def score(self, values: pd.Series) -> pd.Series:
        """Robust z-scores; 0 where all values of the distribution are equal."""
        return (values - self.median) / (self.scale or float("inf"))

    def bound(self, sign: int) -> float:
        """The value whose score is OUTLYING, above the median for 1 and below it for -1."""
        return self.median + sign * OUTLYING * self.scale


def describe_distribution(values: pd.Series) -> Distribution:
    """The distribution of some values, none of them null."""
    median = float(values.median())
    deviations = (values - median).abs()
    scale = float(deviations.median()) / 0.6745
    return Distribution(len(values), median, scale or 1.253314 * float(deviations.mean()))


def describe_categories(values: pd.Series, categories: pd.Series) -> dict[str, Distribution]:
    """The distribution of every category with at least FEWEST_ROWS values."""
    return {
        str(name): describe_distribution(part)
        for name, part in values.groupby(categories)
        if len(part) >= FEWEST_ROWS
    }


def score_measure(metrics: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Every row with a value held against its category, or against the run.

    Args:
        metrics: Rows of one run that have a texture.
        measure: A column.

    Returns:
        A row for each value, under the index of `metrics`: `task_id`, `category`, `measure`,
        `value`, the `median` it is held against, the robust `z`, and `of`: `category`, or `run`
        where the category has fewer than FEWEST_ROWS values or the row has none.
    """
    rows = metrics[["task_id", "category", measure]].dropna(subset=[measure])
    values = rows[measure]
    run = describe_distribution(values)
    scored = rows[["task_id", "category"]].assign(
        measure=measure, value=values, median=run.median, z=run.score(values), of="run"
    )
    for name, own in describe_categories(values, rows["category"]).items():
        here = rows.index[rows["category"] == name]
        scored.loc[here, "median"] = own.median
        scored.loc[here, "z"] = own.score(values[here])
        scored.loc[here, "of"] = "category"
    return scored


def find_outliers(metrics: pd.DataFrame) -> pd.DataFrame:
    """Rows that stand out in their category on the bad side of any of MEASURES, the farthest first.

    Args:
        metrics: Rows of one run, as `load_metrics` gives them.

    Returns:
        As `score_measure`, one row for each measure in which a texture stands out.
    """
    ok = select_finished(metrics)
    found = [pd.DataFrame(columns=COLUMNS)]
    for measure in find_measured(ok):
        scored = score_measure(ok, measure)
        outlying = scored[sign_of(measure) * scored["z"] > OUTLYING]
        found += [] if outlying.empty else [outlying]
    outliers = pd.concat(found[1:] or found)
    return outliers.sort_values("z", key=abs, ascending=False, kind="stable", ignore_index=True)


def name_small_categories(metrics: pd.DataFrame) -> list[str]:
    """Categories of which fewer than FEWEST_ROWS rows have a texture."""
    counts = select_finished(metrics)["category"].value_counts()
    return sorted(str(name) for name in counts.index[counts < FEWEST_ROWS])


def select_finished(metrics: pd.DataFrame) -> pd.DataFrame:
    """The rows that have a texture."""
    return metrics[metrics["status"] == "ok"]


def find_measured(metrics: pd.DataFrame) -> list[str]:
    """Those of MEASURES that at least FEWEST_ROWS rows have."""
    return [name for name in MEASURES if metrics[name].notna().sum() >= FEWEST_ROWS]


def sign_of(measure: str) -> int:
    """1 where a texture is bad above the threshold of a measure, -1 below."""
    return -1 if MEASURES[measure].is_below else 1
