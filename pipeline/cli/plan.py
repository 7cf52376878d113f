"""`texsynth plan`: what a run would cost, before it begins."""

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators
from rich.console import Console

from pipeline.cli.places import LocalFile
from pipeline.config import RunConfig
from pipeline.config_file import load_config
from pipeline.measured import MeasuredError, MeasuredSpeed, load_measured
from pipeline.plan import RunPlan, plan_run
from pipeline.prices import TEXTURES, Cost, compute_costs, load_prices
from texsynth.memory import SHARE_OF_FREE_MEMORY

Positive = Annotated[float, Parameter(validator=validators.Number(gt=0))]


def plan(
    manifest: Path,
    /,
    *,
    out: Path | None = None,
    options: Annotated[RunConfig, Parameter(name="*")] = RunConfig(),  # noqa: B008
    config: LocalFile | None = None,
    set_: Annotated[list[str], Parameter(name="--set", negative=(), show_default=False)] = [],  # noqa: B006
    price: str | None = None,
    measured: LocalFile | None = None,
    seconds_per_evaluation: Positive | None = None,
    device_memory_gib: Positive | None = None,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Say what a run would cost: tasks, evaluations, memory, disk, hours.

    It takes the settings of `texsynth run`. Half a minute at most is spent on timing evaluations on
    this machine's device, none if --measured or --seconds-per-evaluation gives the speed of another
    one; nothing is run and nothing is written.

    Args:
        manifest: CSV or Parquet; `texsynth manifest` makes one.
        out: Run directory whose finished tasks are left out.
        options: All other settings.
        config: YAML file of settings; `texsynth config show` prints one.
        set_: One setting, as NAME=VALUE; synthesis.NAME=VALUE reaches the preset's settings.
        price: What a device costs, USD per hour, or a YAML list of machines with their prices
            (deploy/prices.example.yaml): then the costs of 1,000 textures and of the run are said.
        measured: Speed of the device that the run will have: a result of benchmarks/roofline.py.
        seconds_per_evaluation: The same as one number: of its device, for one evaluation of one
            texture at full size.
        device_memory_gib: Free memory of that device, GiB; by default no limit is known.
        json_: Print one JSON object.
    """
    prices = load_prices(price) if price is not None else ()
    resolved = load_config(options, file=config, assignments=set_)
    elsewhere = _load_speed(measured, seconds_per_evaluation, device_memory_gib, resolved)
    with Console(stderr=True).status("timing a few evaluations"):
        planned = plan_run(manifest, resolved, out, elsewhere=elsewhere)
    costs = compute_costs(planned, prices)
    if json_:
        found = dataclasses.asdict(planned) | {"costs": [c.model_dump(mode="json") for c in costs]}
        print(json.dumps(found, indent=2))
        return
    console = Console()
    for line in [*_describe(planned), *_describe_costs(planned, costs)]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _load_speed(
    measured: Path | None, seconds: float | None, memory_gib: float | None, config: RunConfig
) -> MeasuredSpeed | None:
    """That of another device; None if this machine's is to be timed."""
    if measured is not None and seconds is not None:
        raise MeasuredError("measured and seconds_per_evaluation are both given, expected one")
    if measured is None and seconds is None:
        if memory_gib is not None:
            raise MeasuredError(
                "device_memory_gib is of a device that is measured elsewhere, expected measured or "
                "seconds_per_evaluation beside it"
            )
        return None
    if measured is not None:
        speed = load_measured(measured)
    else:
        side = math.sqrt(math.prod(config.texture_size))
        speed = MeasuredSpeed(
            seconds_by_lanes={0: seconds or 0.0}, side_px=side, device_name="as given"
        )
    memory = None if memory_gib is None else int(memory_gib * 2**30)
    return dataclasses.replace(speed, memory_bytes=memory)


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
    count = plan.lanes or "any number"
    lanes = f"lanes: {count} per actor, {_size(plan.memory_bytes_per_lane)} each"
    if plan.memory_bytes_of_device is None or plan.lanes_that_fit is None:
        yield f"{lanes}; the memory of the device is not known (--device-memory-gib)"
        return
    on_cpu = plan.device == "cpu"
    whose = "physical memory" if on_cpu else "free memory of the device"
    shared = f", shared by {plan.actors} actors" if on_cpu and plan.actors > 1 else ""
    yield (
        f"{lanes}; {plan.lanes_that_fit} fit in {SHARE_OF_FREE_MEMORY:.0%} of the "
        f"{_size(plan.memory_bytes_of_device)} of {whose}{shared}"
    )
    if plan.lanes_that_fit == 0 and plan.history_that_fits:
        yield (
            f"warning: not one lane fits with a history of {plan.history}; with one of "
            f"{plan.history_that_fits} it does: --set "
            f"synthesis.optimizer.history={plan.history_that_fits}"
        )
    elif plan.lanes_that_fit == 0:
        yield "warning: not one lane fits, with any history; take smaller textures or tiles"
    elif plan.lanes > plan.lanes_that_fit:
        yield "warning: more lanes than fit; a run may end for want of memory"


def _describe_costs(plan: RunPlan, costs: Sequence[Cost]) -> Iterator[str]:
    for cost in costs:
        price = cost.price
        found = ", ".join(str(x) for x in (price.found_on, price.source) if x is not None)
        devices = f" with {price.devices} devices" if price.devices > 1 else ""
        yield (
            f"cost (estimate) at {price.usd_per_hour:g} USD per hour of {price.name}{devices}"
            f"{f' ({found})' if found else ''}: {cost.usd_per_1000_textures:.3g} USD per "
            f"{TEXTURES:,} textures, at most {cost.usd_total:.3g} USD for the "
            f"{_count(plan.tasks_left, 'task')} left"
        )
    if costs:
        yield "not in it: machines that start, wait, or have no device; disks and traffic"


def _describe_time(plan: RunPlan) -> Iterator[str]:
    scaled = [
        f"{level.side_px} px from {level.measured_at_px} px"
        for level in plan.levels
        if level.measured_at_px != level.side_px
    ]
    yield (
        f"speed (estimate; {plan.device_name}{_busy(plan)}"
        f"{', scaled by area: ' + ', '.join(scaled) if scaled else ''}): "
        f"{plan.device_s_per_full_size_evaluation:.3g} s per full-size evaluation of a task, "
        f"{plan.textures_per_device_hour:.3g} textures per device hour"
    )
    actors = _count(plan.actors, "actor")
    if plan.actors_at_least < plan.actors:
        actors = f"{plan.actors_at_least} to {actors} (reckoned with {plan.actors})"
    own = "a GPU" if plan.device.startswith("cuda") else "a device"
    where = f"{actors} on this machine's cores" if plan.device == "cpu" else f"{actors}, {own} each"
    yield (
        f"time (estimate): at most {plan.device_hours_total:.3g} device hours, "
        f"{plan.wall_hours:.3g} hours with {where}"
    )


def _busy(plan: RunPlan) -> str:
    """Lanes, where they are known."""
    return f", {_count(plan.lanes_measured, 'lane')} busy" if plan.lanes_measured else ""


def _count(number: int, noun: str, plural: str | None = None) -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def _size(count: float) -> str:
    """Bytes in a unit that leaves up to three digits before the point."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:,.3g} TiB"
