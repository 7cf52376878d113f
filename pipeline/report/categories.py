"""The table of categories: how many textures each has, what is wrong with them, their medians."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from pipeline.report.measures import Flag, Measure


@dataclass(frozen=True)
class CategoryRow:
    """A category in numbers.

    Attributes:
        name: The category; None for rows without one.
        rows: All of them.
        good, flagged, failed: Textures that are accepted, that are not, and rows without one;
            together all rows.
        faults: Rows at fault by each flag, in the order of the flags.
        medians: Of each measure, in their order; NaN where there is no number.
    """

    name: str | None
    rows: int
    good: int
    flagged: int
    failed: int
    faults: tuple[int, ...]
    medians: tuple[float, ...]


def tabulate_categories(
    rows: pd.DataFrame, measures: tuple[Measure, ...], flags: tuple[Flag, ...]
) -> list[CategoryRow]:
    """The categories of a run, those with the largest share of bad rows first.

    Args:
        rows: With `category`, `status`, `flagged`, and the columns of measures and flags.
        measures: Medians are taken of them, over the rows with status ok.
        flags: One value of each is bad news; a row whose flag is null is not at fault.
    """
    made = rows["status"] == "ok"
    at_fault = pd.DataFrame(
        {flag.name: made & (rows[flag.name] == (not flag.good_news)) for flag in flags},
        index=rows.index,
    )
    flagged = rows["flagged"]
    categories = []
    for name, group in rows.groupby("category", dropna=False, sort=True):
        here = group.index
        ok = int(made[here].sum())
        medians = group.loc[made[here], [measure.name for measure in measures]].median()
        categories.append(
            CategoryRow(
                name=None if pd.isna(name) else str(name),
                rows=len(group),
                good=ok - int(flagged[here].sum()),
                flagged=int(flagged[here].sum()),
                failed=len(group) - ok,
                faults=tuple(int(n) for n in at_fault.loc[here].sum()),
                medians=tuple(map(float, medians)),
            )
        )
    return sorted(categories, key=lambda category: category.good / category.rows)
