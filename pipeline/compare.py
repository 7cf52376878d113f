"""Two runs compared, texture by texture: which is better at what, and how sure that is.

Textures are paired by (exemplar_id, crop, variation). Of a measure that is a ratio scale the
summary is the ratio of the geometric means, B over A; of a score it is the mean difference, B less
A. Both are means over exemplars of the means over their pairs, d = mean_e mean_p d_ep with
d_ep = ln b - ln a or b - a: variations of one exemplar are alike, and counted one by one they would
make the interval too narrow. The interval is Student's: d +- t(0.975, n - 1) s / sqrt(n), for n
exemplars with standard deviation s.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from pipeline.pairs import NORMALISATION, AnyRun, describe_differences, load_pairs, mask_same

CONFIDENCE = 0.95
SOURCE = ("exemplar_sha256", "crop_left", "crop_top", "crop_side")
SIZE = ("height", "width")
NETWORK = ("weights_sha256", "taps", NORMALISATION)


class CompareError(ValueError):
    """Two runs that have no texture in common."""


@dataclass(frozen=True)
class Measure:
    """A column that is compared.

    Attributes:
        name: Of the column.
        summary: `ratio` of geometric means, or `difference` of means.
        lower_is_better: Else higher.
        same: Columns that must be the same in both runs, or its values say different things.
    """

    name: str
    summary: Literal["ratio", "difference"]
    lower_is_better: bool
    same: tuple[str, ...] = SIZE


MEASURES = (
    Measure("delivered_loss", "ratio", True, (*SIZE, *NETWORK)),
    Measure("float_loss", "ratio", True, (*SIZE, *NETWORK)),
    Measure("displacement_score", "difference", False),
    Measure("chroma_noise", "ratio", True),
    Measure("evaluations", "ratio", True),
    Measure("seconds", "ratio", True, (*SIZE, "device")),
)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What the pairs say of one measure.

    Attributes:
        measure: Name of the column.
        category: Of the exemplars; None for all of them.
        pairs: Textures of which both runs have a finite value.
        exemplars: Of these.
        b_wins: Pairs in which B is better.
        ties: Pairs in which both are the same.
        kind: `ratio` or `difference`.
        value: Geometric mean of B over that of A, or mean of B less that of A; null without pairs.
        low: Lower end of the interval; null with fewer than two exemplars.
        high: Upper end.
        left_out: Pairs without a ratio, one value being 0; they count as wins and ties.
    """

    measure: str
    category: str | None
    pairs: int
    exemplars: int
    b_wins: int
    ties: int
    kind: Literal["ratio", "difference"]
    value: float | None
    low: float | None
    high: float | None
    left_out: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What two runs have in common, and who is better at it.

    Attributes:
        names: Of the runs A and B.
        textures: Of each.
        pairs: Of textures with the same exemplar, crop and variation, made from the same pixels.
        warnings: Why something is not compared, or less sure than it looks.
        summaries: By measure.
        by_category: By category, then measure.
    """

    names: tuple[str, str]
    textures: tuple[int, int]
    pairs: int
    warnings: tuple[str, ...]
    summaries: tuple[Summary, ...]
    by_category: tuple[Summary, ...]


def compare_runs(run_a: AnyRun, run_b: AnyRun) -> Comparison:
    """Compare the textures that both runs have.

    Pairs whose source or crop differ are left out of everything, and those whose size, weights or
    taps differ out of the measures that depend on them, with a warning.

    Raises:
        NotARunError: One is no run directory.
        QueryError: Both are the same, or one is damaged.
        CompareError: They have no texture in common.
    """
    columns = [name for measure in MEASURES for name in (measure.name, *measure.same)]
    loaded = load_pairs(run_a, run_b, [*columns, *SOURCE])
    pairs = loaded.frame[mask_same(loaded.frame, SOURCE)]
    warnings = [*loaded.problems]
    for name in SOURCE:
        warnings += describe_differences(loaded.frame, name, "their pairs are not compared")
    if pairs.empty:
        reasons = "".join(f"; {warning}" for warning in warnings)
        raise CompareError(f"{' and '.join(loaded.names)}: no texture in common{reasons}")
    for name in dict.fromkeys(name for measure in MEASURES for name in measure.same):
        measures = ", ".join(measure.name for measure in MEASURES if name in measure.same)
        warnings += describe_differences(pairs, name, f"no {measures} of these")
    by_category = [
        _summarise(group, measure, str(category))
        for category, group in pairs.groupby("category", sort=True)
        for measure in MEASURES
    ]
    return Comparison(
        names=loaded.names,
        textures=loaded.textures,
        pairs=len(pairs),
        warnings=tuple(warnings),
        summaries=tuple(_summarise(pairs, measure, None) for measure in MEASURES),
        by_category=tuple(by_category),
    )


def compute_interval(differences: Iterable[float]) -> tuple[float, float] | None:
    """The 95 % interval of a mean by Student's t; None of fewer than two numbers."""
    values = np.asarray(list(differences), float)
    if len(values) < 2:
        return None
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stats.sem(values))
    mean = float(values.mean())
    return mean - half, mean + half


def _summarise(pairs: pd.DataFrame, measure: Measure, category: str | None) -> Summary:
    comparable = pairs[mask_same(pairs, measure.same)]
    a = comparable[f"{measure.name}_a"].to_numpy(float)
    b = comparable[f"{measure.name}_b"].to_numpy(float)
    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    exemplars = comparable["exemplar_id"].to_numpy()[known]
    better = b < a if measure.lower_is_better else b > a
    usable = (a > 0) & (b > 0) if measure.summary == "ratio" else np.ones(len(a), bool)
    value, low, high = _estimate(a[usable], b[usable], exemplars[usable], measure.summary)
    return Summary(
        measure=measure.name,
        category=category,
        pairs=len(a),
        exemplars=len(np.unique(exemplars)),
        b_wins=int(better.sum()),
        ties=int((a == b).sum()),
        kind=measure.summary,
        value=value,
        low=low,
        high=high,
        left_out=int((~usable).sum()),
    )


def _estimate(
    a: Any, b: Any, exemplars: Any, summary: Literal["ratio", "difference"]
) -> tuple[float | None, float | None, float | None]:
    """Value and interval, as the module says."""
    if not len(a):
        return None, None, None
    differences = np.log(b) - np.log(a) if summary == "ratio" else b - a
    means = pd.Series(differences).groupby(exemplars).mean()
    low, high = compute_interval(means) or (None, None)
    numbers = (float(means.mean()), low, high)
    if summary == "difference":
        return numbers
    value, low, high = (None if number is None else math.exp(number) for number in numbers)
    return value, low, high
