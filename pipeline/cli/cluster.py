"""`texsynth cluster check`: whether a cluster, or the file that starts one, is fit for a run."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter, validators
from rich.console import Console
from rich.table import Table

from pipeline.cli import EXIT_FAILED_ROWS
from pipeline.cli.places import LocalFile
from pipeline.cluster.check import CheckPlan, check_cluster
from pipeline.cluster.launch_file import check_launch_file
from pipeline.cluster.probe import NodeReport, Outcome
from pipeline.cluster.verdict import CheckedNode, ClusterReport, find_problems
from pipeline.config import RunConfig
from pipeline.config_file import load_config
from pipeline.preflight import check_run
from pipeline.rundir import RunDirectory
from pipeline.storage import as_path
from pipeline.terminal import visible
from texsynth.config import ConfigError

NARROWEST = 150
"""Columns that the table takes where nobody says how wide the terminal is."""
DASH = "-"

app = App(name="cluster", help="Look at a cluster before a run.", version_flags=[])


@app.command
def check(
    file: LocalFile | None = None,
    /,
    *,
    manifest: Path | None = None,
    out: Path | None = None,
    options: Annotated[RunConfig, Parameter(name="*")] = RunConfig(),  # noqa: B008
    config: LocalFile | None = None,
    set_: Annotated[list[str], Parameter(name="--set", negative=(), show_default=False)] = [],  # noqa: B006
    timeout: Annotated[float, Parameter(validator=validators.Number(gt=0))] = 600.0,
) -> int:
    """Say whether a cluster is fit for a run, or the cluster.yaml that is to start one.

    With --address every node is asked for its versions, for the weights, for the way to the run
    directory and for the time, and one node of each kind makes a texture, on a GPU if it has one.
    Nothing is left behind. It takes the settings of `texsynth run`. Exit codes: 0 all is well, 3
    something is not, 2 bad usage, or no cluster there.

    Args:
        file: For `ray up`: checked by itself, without any machine.
        manifest: Of the run: its first image is what is tried.
        out: Run directory to be: every node must see it, and write to it.
        options: All other settings, --address among them.
        config: YAML file of settings; `texsynth config show` prints one.
        set_: One setting, as NAME=VALUE; synthesis.NAME=VALUE reaches the preset's settings.
        timeout: For the answers of all nodes together, and again for the trials, s.
    """
    resolved = load_config(options, file=config, assignments=set_)
    if file is None and resolved.address is None:
        raise ConfigError("nothing to check; expected a cluster.yaml, --address, or both")
    problems = []
    console = Console()
    if file is not None:
        problems += [f"{file}: {text}" for text in check_launch_file(file)]
    if resolved.address is not None:
        plan = _plan(resolved, manifest, out, timeout)
        with Console(stderr=True).status("asking the nodes"):
            found = check_cluster(resolved.address, plan)
        if console.width < NARROWEST and not console.is_terminal:
            console = Console(width=NARROWEST)
        console.print(_table(found))
        problems += find_problems(found)
    for problem in problems:
        console.print(f"problem: {visible(problem)}", highlight=False, markup=False, soft_wrap=True)
    if not problems:
        print("all is well")
    return EXIT_FAILED_ROWS if problems else 0


def _plan(config: RunConfig, manifest: Path | None, out: Path | None, timeout: float) -> CheckPlan:
    """What is to be asked; a manifest is checked here as a run would.

    Raises:
        What `check_run` raises.
    """
    root, task = "", None
    if manifest is not None:
        run = None if out is None else RunDirectory(as_path(out))
        checked = check_run(manifest, config, run)
        task = next(iter(checked.tasks.first(1))).slice(0, 1)
        root = checked.record.root
    place = None if out is None else str(as_path(out))
    return CheckPlan(config=config, out=place, root=root, task=task, timeout_s=timeout)


def _table(found: ClusterReport) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("node", "has", "versions", "weights", "run directory", "clock", "trial"):
        table.add_column(name, overflow="fold")
    table.add_row("driver", "", *_report_cells(found.driver), DASH, DASH)
    for node in found.nodes:
        cells = [DASH] * 3 if node.report is None else _report_cells(node.report)
        table.add_row(visible(node.name), node.kind, *cells, _clock_cell(node), _cell(node.trial))
    return table


def _report_cells(report: NodeReport) -> list[str]:
    versions = " ".join(f"{name} {version}" for name, version in report.versions.items())
    weights = report.weights.value[:16] or "failed"
    return [visible(versions), weights, _cell(report.run_directory)]


def _clock_cell(node: CheckedNode) -> str:
    if node.clock is None:
        return DASH
    return f"{node.clock.ahead_s:+.2f} s ± {node.clock.within_s:.2f}"


def _cell(outcome: Outcome | None) -> str:
    """What was found; what went wrong has a line of its own below the table."""
    if outcome is None:
        return DASH
    return visible(outcome.value) or "failed"
