"""What an evaluation by tiles costs, in evaluations of the whole image at once.

    python -m benchmarks.tile_cost [--side 1024] [--tiles 256,512] [--weights hed] [--device cuda]

The exemplar is 128 px of noise, whose pixels cost what others do. Value and gradient of one lane
under the `default` preset, weighted by sensitivity; whole and tiles take turns, and a ratio is of
medians.
"""

from __future__ import annotations

import argparse

import torch

from benchmarks.environment import describe_environment
from benchmarks.roofline import time_runs
from texsynth import SynthesisConfig, TextureNetwork, TextureObjective, load_network
from texsynth.canvas import make_canvas
from texsynth.precision import exact_arithmetic
from texsynth.tiling import largest_view

EXEMPLAR_PX = 128


def measure(
    network: TextureNetwork, side: int, tiles: list[int | None], seconds: float
) -> dict[int | None, float]:
    """Median seconds of an evaluation by side of a tile, px; None is the whole image."""
    generator = torch.Generator().manual_seed(0)
    exemplar = torch.rand(1, 3, EXEMPLAR_PX, EXEMPLAR_PX, generator=generator).to(network.device)
    image = torch.rand(1, 3, side, side, generator=generator).to(network.device)
    canvas = make_canvas(exemplar, (side, side))
    objectives = {}
    for tile_px in tiles:
        config = SynthesisConfig.preset("default", tile_px=tile_px)
        objectives[tile_px] = TextureObjective(network, exemplar, config, canvas)
        objectives[tile_px].even_out(image)
    runs = {
        str(tile_px): lambda objective=objective: objective.value_and_gradient(image)
        for tile_px, objective in objectives.items()
    }
    found = time_runs(runs, seconds, network.device)
    return {tile_px: found[str(tile_px)] for tile_px in tiles}


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--side", type=int, default=1024, help="of the texture, px")
    parser.add_argument("--tiles", default="256,512", help="sides of tiles, px, with commas")
    parser.add_argument("--weights", default="hed")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each row, on average")
    arguments = parser.parse_args()
    network = load_network(arguments.weights, device=arguments.device)
    tiles = [None, *(int(word) for word in arguments.tiles.split(","))]
    taps = network.resolve_taps("auto", EXEMPLAR_PX, EXEMPLAR_PX)
    size = (arguments.side, arguments.side)
    with exact_arithmetic():
        seconds = measure(network, arguments.side, tiles, arguments.seconds)
    print("\n".join(["# Evaluations by tiles", "", *describe_environment()]))
    print(f"* weights: {network.weights_id}; {arguments.side} px; taps: {', '.join(taps)}\n")
    print("| tile, px | with its halo at most, px | evaluation, s | of the whole image's |")
    print("| --- | ---: | ---: | ---: |")
    for tile_px, value in seconds.items():
        view = size if tile_px is None else largest_view(network, taps, size, tile_px)
        name = "whole" if tile_px is None else tile_px
        print(f"| {name} | {max(view)} | {value:.3g} | {value / seconds[None]:.2f} |")


if __name__ == "__main__":
    main()
