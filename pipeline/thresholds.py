"""Thresholds that a run's own numbers suggest; proposals to be looked at, not truths.

Of each measure, the value at which a row's robust z-score reaches 3.5 (`pipeline.outliers`): one
for the run, and one for each category whose own differs from it by more than chance.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from pipeline.flags import COMPARISON, RULES
from pipeline.outliers import (
    MEASURES,
    OUTLYING,
    describe_categories,
    describe_distribution,
    find_measured,
    select_finished,
    sign_of,
)
from pipeline.sandbox import quote_text

STANDARD_ERRORS = 3.0
"""By how many of its standard errors the threshold of a category must differ from that of the run:
then chance makes one of about 370 do so."""
VARIANCE_OF_BOUND = math.pi / 2 + OUTLYING**2 * 1.361
"""Of a median plus 3.5 scales of n normal values, in sigma^2 / n. pi/2 is that of the median; 1.361
that of MAD / 0.6745, whose efficiency is 37 % (Rousseeuw and Croux, "Alternatives to the Median
Absolute Deviation", JASA 1993)."""


@dataclass(frozen=True)
class Proposal:
    """What the distribution of one measure suggests.

    Attributes:
        measure, flag: Column, and the flag whose rule it stands in.
        worse: `above` or `below`.
        rows: That have the measure.
        median: Of all rows.
        standing: Threshold in the standing rule, a number or a column.
        threshold: Where the robust z-score of the run is 3.5, to four digits.
        by_category: Thresholds of the categories where they differ enough to matter, likewise.
    """

    measure: str
    flag: str
    worse: str
    rows: int
    median: float
    standing: float | str
    threshold: float
    by_category: Mapping[str, float]


def propose_thresholds(metrics: pd.DataFrame) -> list[Proposal]:
    """A proposal for every measure that enough rows have.

    Args:
        metrics: Rows of one run, as `load_metrics` gives them.
    """
    ok = select_finished(metrics)
    return [_propose(ok, measure) for measure in find_measured(ok)]


def propose_rules(proposals: Sequence[Proposal]) -> dict[str, str]:
    """The standing rules of flags with the proposed thresholds in them, by flag."""
    by_measure = {one.measure: one for one in proposals}

    def replace(found: re.Match[str]) -> str:
        measure, sign, _ = found.groups()
        if measure not in by_measure:
            return found.group()
        return f"{measure} {sign} {_threshold_as_sql(by_measure[measure])}"

    flags = dict.fromkeys(one.flag for one in proposals)
    return {flag: COMPARISON.sub(replace, RULES[flag]) for flag in flags}


def _propose(metrics: pd.DataFrame, measure: str) -> Proposal:
    rows = metrics[[measure, "category"]].dropna(subset=[measure])
    values, sign = rows[measure], sign_of(measure)
    run = describe_distribution(values)
    threshold = _rounded(run.bound(sign))
    categories = describe_categories(values, rows["category"])
    usual = statistics.median(own.scale for own in categories.values()) if categories else 0.0
    by_category = {}
    for name, own in categories.items():
        bound = _rounded(own.bound(sign))
        here = sign * values[rows["category"] == name]
        judged_otherwise = ((here > sign * bound) != (here > sign * threshold)).any()
        # A scale that came out small by chance would make its own error small.
        error = max(own.scale, usual) * math.sqrt(VARIANCE_OF_BOUND / own.rows)
        if judged_otherwise and abs(bound - threshold) > STANDARD_ERRORS * error:
            by_category[name] = bound
    standing = MEASURES[measure]
    worse = "below" if standing.is_below else "above"
    return Proposal(
        *(measure, standing.flag, worse, run.rows, run.median, standing.threshold),
        *(threshold, by_category),
    )


def _threshold_as_sql(proposal: Proposal) -> str:
    # A name that a terminal would obey or break is not printed: it keeps the threshold of the run.
    own = {name: value for name, value in proposal.by_category.items() if name.isprintable()}
    if not own:
        return repr(proposal.threshold)
    cases = " ".join(f"WHEN {quote_text(name)} THEN {value!r}" for name, value in own.items())
    return f"CASE category {cases} ELSE {proposal.threshold!r} END"


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
