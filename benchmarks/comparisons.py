"""Marks of two descents beside each other, and the tables of `benchmarks.time_to_loss`."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.copies import CopyMeasures

EPOCHS = (20, 50, 100, 250)
"""Of the baseline, at which it is looked at."""


@dataclass(frozen=True)
class Mark:
    """How far one of the two was at some moment.

    Args:
        evaluations: at full size.
        seconds: of its own work; where several lanes share the time, its share.
        loss: reference loss of the float image.
        delivered: of the image in 8 bits; None where it was not asked for.
        epoch: of the baseline.
    """

    evaluations: float
    seconds: float
    loss: float
    delivered: float | None = None
    epoch: int | None = None


@dataclass(frozen=True)
class Comparison:
    """All that was measured on one exemplar.

    Args:
        name: of the exemplar.
        baseline: its marks at EPOCHS.
        ours: our marks while minimising the same function.
        equal_time: the mark of the preset as it is, stopped at the baseline's seconds.
        equal_epoch: of the baseline, whose seconds they were.
        copies: copy measures of our two textures.
    """

    name: str
    baseline: tuple[Mark, ...]
    ours: tuple[Mark, ...]
    equal_time: Mark
    equal_epoch: int
    copies: tuple[CopyMeasures, CopyMeasures]

    def reached(self, epoch: int) -> tuple[Mark, Mark, bool] | None:
        """The baseline's mark at an epoch, our first mark at or below its loss, and if it is."""
        marks = [mark for mark in self.baseline if mark.epoch == epoch]
        if not marks:
            return None
        below = [mark for mark in self.ours if mark.loss <= marks[0].loss]
        return marks[0], (below or self.ours[-1:])[0], bool(below)


def geometric_mean(values: Iterable[float]) -> float:
    """Exponential of the mean logarithm."""
    return math.exp(statistics.mean(map(math.log, values)))


def tables(comparisons: Sequence[Comparison]) -> list[str]:
    """Both tables as Markdown lines."""
    lines = ["## The same function: until ours reaches the baseline's loss", ""]
    lines.append(
        "| exemplar | epochs | loss | evaluations | ours | fewer | seconds | ours | faster "
        "| textures/h | ours |"
    )
    lines.append("| --- |" + " ---: |" * 10)
    for epoch in EPOCHS:
        lines += _rows_of_epoch(comparisons, epoch)
    lines += ["", "`>`: not reached within the budget, which is given.", ""]
    lines += _equal_time(comparisons)
    copies = sum(measures.is_copy for c in comparisons for measures in c.copies)
    lines += ["", f"Copies by the thresholds of `texsynth run`: {copies} of our "]
    lines[-1] += f"{2 * len(comparisons)} textures."
    return lines


def _rows_of_epoch(comparisons: Sequence[Comparison], epoch: int) -> list[str]:
    rows, fewer, faster = [], [], []
    for comparison in comparisons:
        reached = comparison.reached(epoch)
        if reached is None:
            continue
        theirs, ours, is_below = reached
        if not math.isfinite(theirs.loss):
            rows.append(f"| {comparison.name} | {epoch} | diverged |{' |' * 8}")
            continue
        fewer.append(theirs.evaluations / ours.evaluations)
        faster.append(theirs.seconds / ours.seconds)
        more, less = ("", "") if is_below else ("> ", "< ")
        rows.append(
            f"| {comparison.name} | {epoch} | {theirs.loss:,.0f} | {theirs.evaluations:,.0f} | "
            f"{more}{ours.evaluations:,.0f} | {less}{fewer[-1]:.1f} | {theirs.seconds:.0f} | "
            f"{more}{ours.seconds:.0f} | {less}{faster[-1]:.1f} | "
            f"{3600 / theirs.seconds:.1f} | {less}{3600 / ours.seconds:.1f} |"
        )
    if fewer:
        means = f"**{geometric_mean(fewer):.1f}** | | | **{geometric_mean(faster):.1f}**"
        rows.append(f"| **geometric mean of {len(fewer)}** | {epoch} | | | | {means} | | |")
    return rows


def _equal_time(comparisons: Sequence[Comparison]) -> list[str]:
    epoch = comparisons[0].equal_epoch
    lines = [
        f"## The preset as it is, at the seconds of {epoch} epochs of the baseline",
        "",
        "| exemplar | float loss | ours | delivered loss | ours | lower | displacement | layout |",
        "| --- |" + " ---: |" * 7,
    ]
    ratios = []
    for comparison in comparisons:
        theirs = next(mark for mark in comparison.baseline if mark.epoch == epoch)
        ours = comparison.equal_time
        if theirs.delivered is None or ours.delivered is None:
            raise ValueError(f"{comparison.name}: no delivered loss at epoch {epoch}")
        losses = f"diverged | {ours.loss:,.0f} | | {ours.delivered:,.0f} | "
        if math.isfinite(theirs.loss):
            ratios.append(theirs.delivered / ours.delivered)
            losses = f"{theirs.loss:,.0f} | {ours.loss:,.0f} | {theirs.delivered:,.0f} | "
            losses += f"{ours.delivered:,.0f} | {ratios[-1]:.1f}"
        lines.append(
            f"| {comparison.name} | {losses} | "
            f"{comparison.copies[1].displacement:.2f} | {comparison.copies[1].layout:.2f} |"
        )
    if ratios:
        found = f"median {statistics.median(ratios):.1f}, least {min(ratios):.1f}"
        lines += ["", f"Delivered loss, baseline over ours: {found}."]
    return lines


def load_comparisons(paths: Iterable[Path]) -> list[Comparison]:
    """What `--json` wrote, of one or more runs."""
    comparisons = []
    for path in paths:
        for entry in json.loads(path.read_text())["comparisons"]:
            marks = {key: tuple(Mark(**m) for m in entry[key]) for key in ("baseline", "ours")}
            rest = {
                "copies": tuple(CopyMeasures(*measures) for measures in entry["copies"]),
                "equal_time": Mark(**entry["equal_time"]),
            }
            comparisons.append(Comparison(**(entry | marks | rest)))
    return comparisons
