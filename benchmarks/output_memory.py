"""Memory of one lane against the size of its texture: estimated, and as the allocator counts it.

    python -m benchmarks.output_memory [--measure 128,256] [--weights random:0] [--device cuda]

The exemplar is 128 px. Estimates are of the preset `default` with its history and half of it; what
is measured is a synthesis of one evaluation per level with a history of 10, beside its estimate.
"""

from __future__ import annotations

import argparse

import torch

from benchmarks.environment import describe_environment
from benchmarks.lane_memory import measure_peak
from texsynth import LBFGSConfig, SynthesisConfig, TextureNetwork, load_network
from texsynth.levels import compute_levels
from texsynth.memory import estimate_lane_bytes

EXEMPLAR = (128, 128)
SIDES = (128, 256, 512, 1024, 2048)
HISTORIES = (100, 50)
MEASURED_HISTORY = 10
"""Short, so that what the network takes can be told."""


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--measure", default="", help="sides, px, with commas")
    parser.add_argument("--weights", default="random:0")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    network = load_network(options.weights, device=options.device)
    print("\n".join([*describe_environment(), "", *estimate(network)]))
    sides = [int(side) for side in options.measure.split(",") if side]
    if sides:
        print("\n".join(["", *measure(network, sides)]))


def estimate(network: TextureNetwork) -> list[str]:
    """A table of GiB by side and history."""
    lines = ["| texture, px | " + " | ".join(f"history {h}, GiB" for h in HISTORIES) + " |"]
    lines.append("| ---: " * (1 + len(HISTORIES)) + "|")
    for side in SIDES:
        bytes_of = [_estimate(network, history, side) for history in HISTORIES]
        lines.append(f"| {side} | " + " | ".join(f"{b / 2**30:.2f}" for b in bytes_of) + " |")
    return lines


def measure(network: TextureNetwork, sides: list[int]) -> list[str]:
    """A table of MiB by side, estimated and given out."""
    lines = ["| texture, px | estimated, MiB | measured, MiB | ratio |", "| ---: " * 4 + "|"]
    exemplar = torch.rand(1, 3, *EXEMPLAR, generator=torch.Generator().manual_seed(0))
    for side in sides:
        config = SynthesisConfig(optimizer=LBFGSConfig(history=MEASURED_HISTORY))
        estimated = _estimate(network, MEASURED_HISTORY, side)
        measured = measure_peak(network, config, exemplar, 1, (side, side))
        ratio = f"{estimated / measured:.2f}"
        lines.append(f"| {side} | {estimated / 2**20:.0f} | {measured / 2**20:.0f} | {ratio} |")
    return lines


def _estimate(network: TextureNetwork, history: int, side: int) -> int:
    config = SynthesisConfig(optimizer=LBFGSConfig(history=history))
    sizes = compute_levels(config, side, side, EXEMPLAR)
    return estimate_lane_bytes(network, config, sizes, EXEMPLAR)


if __name__ == "__main__":
    main()
