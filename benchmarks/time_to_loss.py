"""Our synthesis beside the reference's algorithm: evaluations and seconds to its losses.

    python -m benchmarks.time_to_loss --exemplars DIR [--size 128] [--weights hed] [--json FILE]

Both work in turn on the same exemplars, weights, taps and threads. In the first table both minimise
the same function: Gram terms under the tap rule and the gray spectrum term, without a range
penalty. Ours is driven once, with a budget of `--share` of the baseline's evaluations, and looked
at as it goes; a loss that it has not reached by then counts as reached at the whole budget, and is
marked. An exemplar on which the baseline diverged, which has no line search, enters no mean. In the
second table the `default` preset as it is gets the time that the baseline took. Both
losses are the reference loss (gray spectrum) in float32, whatever was minimised; images are rounded
for both, where the reference would truncate.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from benchmarks.comparisons import EPOCHS, Comparison, Mark, tables
from benchmarks.copies import measure_copies
from benchmarks.environment import describe_environment
from benchmarks.exemplars import add_options, load_inputs
from benchmarks.reference_algorithm import ReferenceAlgorithm
from texsynth import (
    SynthesisConfig,
    TextureNetwork,
    TextureObjective,
    prepare_synthesis,
    synthesize,
)
from texsynth.config import PresetName
from texsynth.images import round_to_8_bits
from texsynth.precision import exact_arithmetic

EVALUATIONS_PER_EPOCH = 20
SAME_FUNCTION: dict[str, Any] = {
    "spectrum": "gray",
    "clamp": False,
    "range_weight": 0.0,
    "settle": False,
}
"""What makes a preset minimise the baseline's function."""


class Measure:
    """Reference losses of any image of one exemplar, outside all timing."""

    def __init__(self, network: TextureNetwork, exemplar: Tensor) -> None:
        with exact_arithmetic():
            self._objective = TextureObjective(
                network,
                exemplar[None].to(network.device),
                SynthesisConfig.preset("reference", taps="auto"),
            )
        self.taps = self._objective.taps

    @torch.no_grad()
    def loss(self, image: Tensor) -> float:
        """Of a float image [3, H, W]."""
        with exact_arithmetic():
            return self._objective(image[None].to(self._objective.network.device)).total.item()

    def delivered(self, image: Tensor) -> float:
        """Of the same in 8 bits."""
        return self.loss(round_to_8_bits(image[None])[0].float() / 255)


def run_baseline(
    network: TextureNetwork, exemplar: Tensor, measure: Measure, epochs: int
) -> list[Mark]:
    """The reference's algorithm, looked at after EPOCHS."""
    algorithm = ReferenceAlgorithm(network, exemplar, measure.taps, start=0)
    marks = []
    with exact_arithmetic():
        for record in algorithm.run(epochs):
            if record.epoch in EPOCHS:
                marks.append(
                    Mark(
                        record.evaluations,
                        record.seconds,
                        measure.loss(algorithm.image),
                        measure.delivered(algorithm.image),
                        record.epoch,
                    )
                )
    return marks


def run_ours(
    network: TextureNetwork,
    exemplar: Tensor,
    measure: Measure,
    config: SynthesisConfig,
    seed: int = 0,
    lanes: int = 1,
) -> tuple[list[Mark], Tensor]:
    """The first of some lanes, looked at whenever it looks at itself; the texture in 8 bits.

    Seconds are its share of those that all lanes take together, each with a seed of its own.
    """
    begun = time.perf_counter()
    exemplars, seeds = exemplar.expand(lanes, -1, -1, -1), range(seed, seed + lanes)
    work = prepare_synthesis(exemplars, seeds, config, network, lanes=lanes, device=network.device)
    seconds = (time.perf_counter() - begun) / lanes
    marks = []
    while True:
        begun = time.perf_counter()
        results = work.advance()
        seconds += (time.perf_counter() - begun) / lanes
        for result in results:
            if result.index == 0:
                marks.append(Mark(result.evaluations, seconds, measure.loss(result.image)))
                return marks, result.image_8bit
        for point in work.checkpoints():
            if point.index == 0 and point.image.shape == exemplar.shape:
                marks.append(Mark(point.spent, seconds, measure.loss(point.image)))


def compare(
    name: str,
    exemplar: Tensor,
    network: TextureNetwork,
    arguments: argparse.Namespace,
    epochs: int,
) -> Comparison:
    """Baseline, ours on the same function, and the preset for as long as the baseline took."""
    measure = Measure(network, exemplar)
    baseline = run_baseline(network, exemplar, measure, epochs)
    same = SynthesisConfig.preset(
        arguments.preset,
        evaluations=arguments.share * EVALUATIONS_PER_EPOCH * epochs,
        plateau_tolerance=0.0,
        **SAME_FUNCTION,
    )
    lanes = arguments.lanes
    ours, texture = run_ours(network, exemplar, measure, same, lanes=lanes)
    equal = next(mark for mark in baseline if mark.epoch == arguments.equal_epoch)
    ratio = statistics.median(mark.seconds / mark.evaluations for mark in ours)
    config = SynthesisConfig.preset(
        arguments.preset,
        evaluations=max(1.0, equal.seconds / ratio),
        plateau_tolerance=0.0,
        # A lane counts the time that those beside it take as well.
        time_limit_s=equal.seconds * lanes,
    )
    exemplars = exemplar.expand(lanes, -1, -1, -1)
    results = synthesize(
        exemplars, range(lanes), config, network, lanes=lanes, device=network.device
    )
    result = next(result for result in results if result.index == 0)
    stored = result.image_8bit.float() / 255
    mark = Mark(
        result.evaluations, result.seconds / lanes, measure.loss(result.image), measure.loss(stored)
    )
    first, second = measure_copies(
        torch.stack([texture.float() / 255, stored]), exemplar[None].expand(2, -1, -1, -1)
    )
    return Comparison(
        name,
        tuple(baseline),
        tuple(ours),
        mark,
        arguments.equal_epoch,
        (first, second),
    )


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_options(parser, size=128)
    parser.add_argument("--preset", choices=get_args(PresetName), default="default")
    parser.add_argument("--lanes", type=int, default=1, help="of ours; the baseline has one")
    parser.add_argument("--epochs", type=int, default=50, help="of the baseline, 20 at least")
    parser.add_argument("--long-epochs", type=int, default=250, help="on the first exemplars")
    parser.add_argument("--long", type=int, default=0, help="how many those are")
    parser.add_argument("--equal-epoch", type=int, choices=EPOCHS, default=20)
    parser.add_argument("--share", type=float, default=0.4, help="of the baseline's evaluations")
    parser.add_argument("--json", type=Path, help="write all marks here")
    return parser.parse_args()


def main() -> None:
    """Print both tables as Markdown."""
    arguments = parse_arguments()
    if arguments.epochs < arguments.equal_epoch:
        sys.exit(f"--epochs {arguments.epochs}, expected at least {arguments.equal_epoch}")
    exemplars, network = load_inputs(arguments)
    head = [
        *describe_environment(),
        f"* weights: {network.weights_id}, sha256 {network.weights_sha256[:16]}; "
        f"{arguments.size} px; lanes: {arguments.lanes}; budget of ours {arguments.share} of the "
        "evaluations",
    ]
    comparisons: list[Comparison] = []
    for number, (name, exemplar) in enumerate(exemplars.items()):
        epochs = arguments.long_epochs if number < arguments.long else arguments.epochs
        comparisons.append(compare(name, exemplar, network, arguments, epochs))
        print(f"{name}: done", file=sys.stderr, flush=True)
        if arguments.json:
            entries = [dataclasses.asdict(comparison) for comparison in comparisons]
            arguments.json.write_text(json.dumps({"head": head, "comparisons": entries}, indent=1))
    print("\n".join(["# Time to the baseline's loss", "", *head, "", *tables(comparisons)]))


if __name__ == "__main__":
    main()
