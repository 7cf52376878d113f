"""`texsynth calibrate RUN`: thresholds that the run's own numbers suggest."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipeline.query import load_metrics
from pipeline.rundir import RunDirectory, require_run
from pipeline.thresholds import LossProposal, propose_loss, propose_thresholds


def calibrate(run: Path, /) -> None:
    """Propose thresholds for the flags from the distributions of a run; nothing is changed.

    Args:
        run: Run directory, finished or not.
    """
    directory, console = RunDirectory(run), Console()
    require_run(directory)
    metrics = load_metrics(directory)
    proposals = propose_thresholds(metrics)
    table = Table("measure", "flag", "bad", "rows", "median", "proposed", "outliers")
    for one in proposals:
        cells = [one.measure, one.flag, one.worse, str(one.rows), f"{one.median:.4g}"]
        table.add_row(*cells, f"{one.threshold:.4g}", str(one.outliers))
    if proposals:
        console.print(table)
        say = "proposed: where the robust z-score is 3.5. A guess from this run alone: look at the "
        say += "rows beyond it before you take it over, with `texsynth reflag RUN --rule ...`."
    else:
        say = "too few rows with measures to propose anything; expected at least 10"
    console.print(say, highlight=False)
    console.print(_describe_loss(propose_loss(metrics)), highlight=False)


def _describe_loss(loss: LossProposal) -> str:
    counts = f"{loss.good} rows without faults, {loss.faulty} with some"
    if loss.threshold is None or loss.youden is None:
        return f"loss: no threshold can be told from {counts}; expected at least 10 of each"
    return (
        f"loss: {loss.threshold:,.0f} parts {counts} best (Youden's index {loss.youden:.2f}; 1 is "
        "perfect, 0 nothing). A guess: it stands for the flags of this run, not for people's eyes."
    )
