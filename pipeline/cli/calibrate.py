"""`texsynth calibrate RUN`: thresholds that the run's own numbers suggest."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pipeline.loss_threshold import LossProposal, climb_losses, propose_loss
from pipeline.outliers import FEWEST_ROWS, OUTLYING, find_outliers, name_small_categories
from pipeline.query import load_metrics
from pipeline.query_output import write_table
from pipeline.rundir import RunDirectory
from pipeline.storage import as_path
from pipeline.terminal import visible
from pipeline.thresholds import Proposal, propose_rules, propose_thresholds

LISTED = 20
"""Outlying rows that are printed, the farthest."""
MOST_BY_CHANCE = 0.05
GUESS = (
    f"proposed: where the robust z-score is {OUTLYING}, of the run or of a category. A guess from"
    " this run alone,\nwhich takes most of its textures for good: look at the rows beyond it"
    " before you take it over, with"
)


def calibrate(run: Path, /) -> None:
    """Propose thresholds for the flags from the distributions of a run; nothing is changed.

    Args:
        run: Run directory, finished or not.
    """
    metrics = load_metrics(RunDirectory(run))
    proposals = propose_thresholds(metrics)
    if proposals:
        _print_thresholds(proposals, run)
        _print_outliers(metrics)
    else:
        print(f"too few rows with measures to propose anything; expected at least {FEWEST_ROWS}")
    _print_losses(metrics, run)


def _print_thresholds(proposals: Sequence[Proposal], run: Path) -> None:
    header = ("measure", "flag", "bad", "rows", "median", "standing", "proposed", "by category")
    rows = [
        [
            *(one.measure, one.flag, one.worse, one.rows, one.median),
            *(str(one.standing), one.threshold, _range(one)),
        ]
        for one in proposals
    ]
    write_table(header, rows)
    print(f"\n{GUESS}")
    for flag, rule in propose_rules(proposals).items():
        print(_reflag_command(run, f"{flag}: {rule}"))


def _range(proposal: Proposal) -> str:
    own = proposal.by_category.values()
    return f"{len(own)}: {min(own):.4g} to {max(own):.4g}" if own else "none"


def _reflag_command(run: Path, rule: str) -> str:
    return f"texsynth reflag {visible(shlex.quote(str(as_path(run))))} --rule {shlex.quote(rule)}"


def _print_outliers(metrics: pd.DataFrame) -> None:
    outliers = find_outliers(metrics)
    count, textures = len(outliers), outliers["task_id"].nunique()
    print(f"\n{count} values stand out in their category, of {textures} textures", end="")
    print(f"; the farthest {LISTED}:" if count > LISTED else ":" if count else "")
    if count:
        header = ("task_id", "category", "measure", "value", "its median", "z", "held against")
        shown = outliers.head(LISTED).astype(object)
        shown["category"] = shown["category"].where(shown["category"].notna(), "")
        write_table(header, shown.to_numpy().tolist())
    small = name_small_categories(metrics)
    if small:
        names = visible(", ".join(small[:LISTED])) + (", ..." if len(small) > LISTED else "")
        print(f"held against the whole run, with fewer than {FEWEST_ROWS} rows: {names}")


def _print_losses(metrics: pd.DataFrame, run: Path) -> None:
    for threshold in metrics["loss_threshold"].dropna().unique():
        known = metrics.loc[metrics["loss_threshold"] == threshold, "delivered_loss"].dropna()
        below = int((known < threshold).sum())
        print(f"\nloss: {below} of {len(known)} textures are below the run's own {threshold:,.6g}")
    if metrics["loss_threshold"].isna().all():
        print("\nloss: no published threshold applies to these weights, size and taps")
    print(_describe_loss(propose_loss(metrics), run))
    rungs = climb_losses(metrics)
    if rungs:
        print("\nFifths of the textures by delivered loss, and the one in the middle of each:")
        header = ("rank", "delivered_loss", "over the median", "with faults", "look at")
        rows = [
            (f"{r.rank:.0%}", r.loss, r.over_median, f"{r.faulty_share:.0%}", r.task_id)
            for r in rungs
        ]
        write_table(header, rows)
        print("Whether `below 1500` is like one of these only eyes can tell: take the loss between")
        print("the last that you call good and the first that you do not.")


def _describe_loss(loss: LossProposal, run: Path) -> str:
    counts = f"{loss.good} textures without faults, {loss.faulty} with some"
    threshold, chance, interval = loss.threshold, loss.chance, loss.interval
    if threshold is None or chance is None or interval is None:
        wanted = f"expected at least {FEWEST_ROWS} of each, and losses that differ"
        return f"loss: no threshold can be told from {counts}; {wanted}"
    parts = f"{threshold:,.6g} parts {counts} best (Youden's index {loss.youden:.2f}: 1 is perfect,"
    if chance > MOST_BY_CHANCE:
        return f"loss: {parts} 0 nothing),\nbut no better than chance might: it tells nothing here"
    low, high = interval
    rule = f"delivered_below_threshold: delivered_loss < {threshold:.4g}"
    return (
        f"loss: {parts} 0 nothing;\nin nine of ten runs like this one it would lie between"
        f" {low:,.6g} and {high:,.6g}). A guess: it stands for\nthe flags of this run, not for"
        f" people's eyes.\n{_reflag_command(run, rule)}"
    )
