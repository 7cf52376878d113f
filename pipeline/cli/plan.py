"""`texsynth plan`: what a run would cost, before it begins."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from pipeline.config import RunConfig, load_config
from pipeline.plan import RunPlan, plan_run
from texsynth.memory import SHARE_OF_FREE_MEMORY


def plan(
    manifest: Path,
    /,
    *,
    out: Path | None = None,
    options: Annotated[RunConfig, Parameter(name="*")] = RunConfig(),  # noqa: B008
    config: Path | None = None,
    set_: Annotated[list[str], Parameter(name="--set", negative=(), show_default=False)] = [],  # noqa: B006
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Say what a run would cost: tasks, evaluations, memory, disk, hours.

    It takes the settings of `texsynth run`. Half a minute at most is spent on timing evaluations on
    this machine's device; nothing is run and nothing is written.

    Args:
        manifest: CSV or Parquet; `texsynth manifest` makes one.
        out: Run directory whose finished tasks are left out.
        options: All other settings.
        config: YAML file of settings; `texsynth config show` prints one.
        set_: One setting, as NAME=VALUE; synthesis.NAME=VALUE reaches the preset's settings.
        json_: Print one JSON object.
    """
    resolved = load_config(options, file=config, assignments=set_)
    with Console(stderr=True).status("timing a few evaluations"):
        planned = plan_run(manifest, resolved, out)
    if json_:
        print(json.dumps(dataclasses.asdict(planned), indent=2))
        return
    console = Console()
    for line in _describe(planned):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _describe(plan: RunPlan) -> Iterator[str]:
    parts = [
        _count(plan.exemplars, "exemplar"),
        _count(plan.crops, "crop"),
        _count(plan.variations, "variation"),
    ]
    if plan.blends:
        parts[-1] = f"({parts[-1]} + {_count(plan.blends, 'blend')})"
    done = f"; {plan.tasks_done:,} done, {plan.tasks_left:,} left" if plan.tasks_done else ""
    categories = _count(plan.categories, "category", "categories")
    yield f"tasks: {' x '.join(parts)} = {plan.tasks:,}, in {categories}{done}"
    levels = ", ".join(f"{x.evaluations_per_task:,} at {x.side_px} px" for x in plan.levels)
    yield (
        f"evaluations: at most {plan.evaluations_per_task:,.0f} of full size per task ({levels}), "
        f"{plan.evaluations_total:,.0f} in all; a plateau ends a task earlier"
    )
    yield from _describe_memory(plan)
    yield (
        f"disk: {_size(plan.output_bytes_total)}, {_size(plan.output_bytes_per_task)} per texture "
        "as PNG at most; finalizing takes the size of the run once more"
    )
    yield from _describe_time(plan)


def _describe_memory(plan: RunPlan) -> Iterator[str]:
    on_cpu = plan.device == "cpu"
    whose = "physical memory" if on_cpu else "free memory of the GPU"
    shared = f", shared by {plan.actors} actors" if on_cpu and plan.actors > 1 else ""
    yield (
        f"lanes: {plan.lanes} per actor, {_size(plan.memory_bytes_per_lane)} each; "
        f"{plan.lanes_that_fit} fit in {SHARE_OF_FREE_MEMORY:.0%} of the "
        f"{_size(plan.memory_bytes_of_device)} of {whose}{shared}"
    )
    if plan.lanes > plan.lanes_that_fit:
        yield "warning: more lanes than fit; a run may end for want of memory"


def _describe_time(plan: RunPlan) -> Iterator[str]:
    scaled = [
        f"{level.side_px} px from {level.measured_at_px} px"
        for level in plan.levels
        if level.measured_at_px != level.side_px
    ]
    yield (
        f"speed (estimate; {plan.device_name}, {_count(plan.lanes_measured, 'lane')} busy"
        f"{', scaled by area: ' + ', '.join(scaled) if scaled else ''}): "
        f"{plan.device_s_per_full_size_evaluation:.3g} s per full-size evaluation of a task, "
        f"{plan.textures_per_device_hour:.3g} textures per device hour"
    )
    actors = _count(plan.actors, "actor")
    where = f"{actors} on this machine's cores" if plan.device == "cpu" else f"{actors}, a GPU each"
    yield (
        f"time (estimate): at most {plan.device_hours_total:.3g} device hours, "
        f"{plan.wall_hours:.3g} hours with {where}"
    )


def _count(number: int, noun: str, plural: str | None = None) -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def _size(count: float) -> str:
    """Bytes in a unit that leaves up to three digits before the point."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:,.3g} TiB"
