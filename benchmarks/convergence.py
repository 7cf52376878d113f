"""What each part of the optimiser brings: loss against evaluations, variant by variant.

    python -m benchmarks.convergence --exemplars DIR [--size 64] [--weights hed] [--seeds 3]

All variants minimise the baseline's function (Gram terms under the tap rule, gray spectrum term, no
range penalty) with the same budget, but the last two, which are the `default` preset with and
without weights by sensitivity. Each differs from ours in what its name says. Losses are the
reference loss of the float image, in float32, as geometric means over exemplars and seeds. Probes
are charged as those of ours, however many a variant has.
"""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any
from unittest.mock import patch

from torch import Tensor

import texsynth.lane
import texsynth.lanes
import texsynth.levels
import texsynth.sensitivity
from benchmarks.comparisons import geometric_mean
from benchmarks.copies import measure_copies
from benchmarks.environment import describe_environment
from benchmarks.exemplars import add_options, load_inputs
from benchmarks.time_to_loss import SAME_FUNCTION, Measure, run_ours
from texsynth import (
    LBFGSConfig,
    SynthesisConfig,
    TextureNetwork,
)
from texsynth.images import resize
from texsynth.shapes import Images

SHARES = (1 / 3, 2 / 3, 1.0)
"""Of the budget, where the loss is looked at."""
PLAIN: dict[str, Any] = {**SAME_FUNCTION, "weighting": "none"}
OURS: dict[str, Any] = {**SAME_FUNCTION, "levels": 2}


def enlarge(
    images: Images, exemplars: Images, seeds: Sequence[int], *, periodic: bool = False
) -> Images:
    """In place of `texsynth.start.refine`: nothing but the resize."""
    del seeds
    return resize(images, exemplars.shape[-2], exemplars.shape[-1], periodic=periodic)


MODULES = {
    "refine": texsynth.lanes,
    "SLOW_FALL": texsynth.lane,
    "LEVEL_GROWTH": texsynth.levels,
}
"""Where things are that are no constant of `texsynth.sensitivity`."""
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "**ours: weights by sensitivity, two levels**": (OURS, {}),
    "weighting none, noise start, one level": ({**PLAIN, "start": "noise", "levels": 1}, {}),
    "weighting none, one level": ({**PLAIN, "levels": 1}, {}),
    "weighting none, enlarged only": ({**PLAIN, "levels": 2}, {"refine": enlarge}),
    "weighting none": ({**PLAIN, "levels": 2}, {}),
    "one level": ({**OURS, "levels": 1}, {}),
    "enlarged only": (OURS, {"refine": enlarge}),
    "as many evaluations at both levels": (OURS, {"LEVEL_GROWTH": 1}),
    "history 20": ({**OURS, "optimizer": LBFGSConfig(history=20)}, {}),
    "history 50": ({**OURS, "optimizer": LBFGSConfig(history=50)}, {}),
    "floor 1e-2": (OURS, {"FLOOR": 1e-2}),
    "floor 1e-6": (OURS, {"FLOOR": 1e-6}),
    "weighted to the end": (OURS, {"SLOW_FALL": 0.0}),
    "2 probes": (OURS, {"PROBES": 2}),
    "32 probes": (OURS, {"PROBES": 32}),
    "`default` with weighting none": ({"levels": 2, "weighting": "none"}, {}),
    "`default`": ({"levels": 2}, {}),
}


@contextlib.contextmanager
def patched(changes: dict[str, Any]) -> Iterator[None]:
    """Constants of `texsynth.sensitivity`, or of MODULES, changed for a while."""
    with contextlib.ExitStack() as stack:
        for name, value in changes.items():
            module = MODULES.get(name, texsynth.sensitivity)
            stack.enter_context(patch.object(module, name, value))
        yield


def losses_of(
    network: TextureNetwork, exemplar: Tensor, config: SynthesisConfig, seed: int
) -> tuple[list[float], bool]:
    """Losses at SHARES of the budget, and whether the texture is over a copy threshold."""
    measure = Measure(network, exemplar)
    marks, texture = run_ours(network, exemplar, measure, config, seed)
    losses = []
    for share in SHARES:
        spent = [mark for mark in marks if mark.evaluations <= share * config.evaluations + 1]
        losses.append(spent[-1].loss if spent else math.nan)
    measures = measure_copies(texture[None].float() / 255, exemplar[None])
    return losses, measures[0].is_copy


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_options(parser, size=64)
    parser.add_argument("--evaluations", type=float, default=150, help="budget")
    parser.add_argument("--seeds", type=int, default=3)
    return parser.parse_args()


def main() -> None:
    """Print the table as Markdown, a line as soon as it is known."""
    arguments = parse_arguments()
    exemplars, network = load_inputs(arguments)
    spent = [round(share * arguments.evaluations) for share in SHARES]
    print("\n".join(["# What each part of the optimiser brings", "", *describe_environment()]))
    print(
        f"* weights: {network.weights_id}; {arguments.size} px; {arguments.seeds} seeds of ", end=""
    )
    print(", ".join(exemplars), end="\n\n")
    print(f"| variant | {' | '.join(f'at {count}' for count in spent)} | last / ours | copies |")
    print("| --- |" + " ---: |" * (len(SHARES) + 2))
    rows: dict[str, list[float]] = {}
    for name, (changes, constants) in VARIANTS.items():
        changes = {"evaluations": arguments.evaluations, "plateau_tolerance": 0.0} | changes
        config = SynthesisConfig.preset("default", **changes)
        with patched(constants):
            found = [
                losses_of(network, exemplar, config, seed)
                for exemplar in exemplars.values()
                for seed in range(arguments.seeds)
            ]
        columns = zip(*(losses for losses, _ in found), strict=True)
        rows[name] = [geometric_mean(column) for column in columns]
        ours = next(iter(rows.values()))[-1]
        cells = " | ".join(f"{loss:,.0f}" for loss in rows[name])
        copies = sum(copied for _, copied in found)
        print(f"| {name} | {cells} | {rows[name][-1] / ours:.2f} | {copies} |", flush=True)


if __name__ == "__main__":
    main()
