"""Does it help? A classifier of DTD's images, trained with and without the textures of a run.

    python -m examples.augment_dtd --dtd DIR --run RUN [--partitions 1 2] [--weights hed]

Every partition is an experiment of its own: trained on its train images and on textures of these
images alone, judged by its real test images. For each texture, `classic` adds an augmented copy of
the texture's parent instead, so that sets that are compared have as many items of each parent.
It takes minutes on a CPU, and prints what it finds, also when that is nothing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import torch

import texsynth
from examples.ablation import Experiment, Outcome, RefusedError
from examples.differences import Difference, average_by_photograph, compute_differences
from examples.frozen import Features
from pipeline import load_metrics
from pipeline.rundir import NotARunError, RunDirectory
from pipeline.selection import Selection, SelectionError, locate_rows
from texsynth import TextureNetwork, load_network
from texsynth.checkpoints import WeightsError

HEADER = ("training set", "items", "accuracy", "against", "difference", "95 % interval")
QUESTIONS = {
    "real + textures": "Textures added to the real images",
    "real + classic + textures": "Textures in place of a second classic copy",
}
"""Training sets whose differences the conclusion is about."""
REFUSALS = (RefusedError, NotARunError, SelectionError, WeightsError, OSError)


def make_parser() -> argparse.ArgumentParser:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dtd", type=Path, required=True, help="root of torchvision's DTD")
    parser.add_argument("--run", type=Path, required=True, help="run directory")
    parser.add_argument(
        *("--partitions", "--partition"),
        type=int,
        nargs="+",
        choices=range(1, 11),
        default=list(range(1, 11)),
        metavar="K",
        help="1 to 10; default: all",
    )
    parser.add_argument("--seeds", type=int, default=5, help="draws of classic copies")
    parser.add_argument("--ratio", type=float, help="textures per training image; default: all")
    parser.add_argument("--weights", default="hed", help="of the frozen network; default: hed")
    parser.add_argument("--normalisation", choices=("none", "imagenet"), help="of its input")
    parser.add_argument("--size", type=int, help="px that it sees; default: as the textures")
    return parser


def describe(
    experiment: Experiment, outcomes: Sequence[Outcome], metrics: pd.DataFrame
) -> Iterator[str]:
    """What was tried on what, one line each."""
    first, network = outcomes[0], experiment.features.network
    counts = ", ".join(f"{count} {split}" for split, count in first.images.items())
    yield (
        f"* data: {experiment.dtd}, {counts} images of {first.classes} classes in each of "
        f"{len(outcomes)} partitions; {len(experiment.seeds)} seeds"
    )
    weights = ", ".join(sorted(set(metrics["weights"])))
    used = span(outcome.textures for outcome in outcomes)
    parents = span(outcome.covered for outcome in outcomes)
    yield (
        f"* run: {experiment.run.path}, {len(metrics)} rows, made with {weights}; textures used in "
        f"each partition: {used}, of {parents} of its train images, none of other images"
    )
    yield (
        f"* network: {network.weights_id}, sha256 {network.weights_sha256[:16]}, frozen, seeing "
        f"{experiment.features.size} px; taps {', '.join(experiment.features.taps)}"
    )
    yield f"* versions: texsynth {texsynth.__version__}, torch {torch.__version__}"


def span(numbers: Iterable[int]) -> str:
    """`38 to 40`, or `40`."""
    ordered = sorted(set(numbers))
    return f"{ordered[0]}" if len(ordered) == 1 else f"{ordered[0]} to {ordered[-1]}"


def table_rows(outcomes: Sequence[Outcome], differences: Sequence[Difference]) -> Iterator[str]:
    """Accuracies and differences, in percent and points, as Markdown."""
    yield f"| {' | '.join(HEADER)} |"
    yield "| --- | ---: | ---: | --- | ---: | ---: |"
    found = {difference.name: difference for difference in differences}
    for name in outcomes[0].correct:
        items = span(outcome.items[name] for outcome in outcomes)
        accuracy = average_by_photograph(outcomes, name).mean()
        cells = [name, items, f"{100 * accuracy:.1f} %", "", "", ""]
        if name in found:
            this = found[name]
            cells[3:] = [
                this.against,
                f"{this.points:+.1f}",
                f"{this.low:+.1f} to {this.high:+.1f}",
            ]
        yield f"| {' | '.join(cells)} |"


def conclude(
    outcomes: Sequence[Outcome], differences: Sequence[Difference], network: TextureNetwork
) -> Iterator[str]:
    """What the numbers say, and what they do not."""
    for difference in differences:
        if difference.name in QUESTIONS:
            yield f"{QUESTIONS[difference.name]}: {difference.verdict}."
    photographs = len({path for outcome in outcomes for path in outcome.tested})
    yield (
        f"The intervals are over {photographs} test images of {outcomes[0].classes} classes, "
        f"for a linear classifier on a frozen {network.architecture}: they say nothing of more "
        "training images, or of a network that is trained."
    )
    if len(outcomes) == 1:
        yield "Other training images, those of other partitions, may give another answer."


def run_ablation(arguments: argparse.Namespace) -> Iterator[str]:
    """The lines of the result.

    Raises:
        RefusedError, SelectionError, NotARunError: Run and data set do not fit together.
        WeightsError: The network cannot be had.
        OSError: A file of theirs cannot be read.
    """
    began = time.monotonic()
    run = RunDirectory(arguments.run)
    size = arguments.size or find_size(locate_rows(run, Selection()))
    metrics = load_metrics(run)
    network = load_network(arguments.weights, normalisation=arguments.normalisation)
    experiment = Experiment(
        dtd=arguments.dtd,
        run=run,
        ratio=arguments.ratio,
        seeds=range(arguments.seeds),
        features=Features(network, size),
    )
    outcomes = [experiment.run_partition(number) for number in arguments.partitions]
    differences = compute_differences(outcomes)
    yield "# Does it help?\n"
    yield from describe(experiment, outcomes, metrics)
    yield f"* time: {time.monotonic() - began:.0f} s\n"
    yield from table_rows(outcomes, differences)
    yield ""
    yield from conclude(outcomes, differences, network)
    if network.weights_sha256 in set(metrics["weights_sha256"]):
        yield (
            "The textures were made with these weights: to this network they look like their "
            "parents, and can hardly add to them. Other --weights tell more."
        )


def find_size(rows: pa.Table) -> int:
    """The side of the textures, px.

    Raises:
        RefusedError: They are not squares of one size.
    """
    sides = sorted({*rows["height"].to_pylist(), *rows["width"].to_pylist()})
    if len(sides) != 1:
        raise RefusedError(f"textures have sides of {sides} px: expected one, or --size")
    return int(sides[0])


def main() -> None:
    """Print the result as Markdown; what is refused ends with exit code 2."""
    parser = make_parser()
    try:
        for line in run_ablation(parser.parse_args()):
            print(line)
    except REFUSALS as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
