"""What counting an exemplar's border positions as a texture's does to larger textures' borders.

    texsynth manifest demo --out demo.csv
    python -m benchmarks.output_borders --exemplars demo-images --size 64 --factor 3

Textures FACTOR times their exemplars' side, the `default` preset, one seed. `border_contrast` is 0
where the ring along the border has the colours of the inside; `deviation` is the standard deviation
of the luminance in a ring of 6 px over that inside. With a reach of 0 all positions count alike.
"""

from __future__ import annotations

import argparse
import statistics
from unittest.mock import patch

from torch import Tensor

import texsynth.borders
from benchmarks.environment import describe_environment
from benchmarks.exemplars import add_options, load_inputs
from texsynth import SynthesisConfig, TextureNetwork, synthesize
from texsynth.artefacts import border_contrast
from texsynth.images import luminance

REACHES = (0.0, 0.5, 1.0)
RING_PX = 6


def compute_deviation(image: Tensor) -> float:
    """Of the ring over the inside, of [3, H, W]."""
    gray = luminance(image[None])[0]
    ring = gray.clone().fill_(1).bool()
    ring[RING_PX:-RING_PX, RING_PX:-RING_PX] = False
    return float(gray[ring].std() / gray[~ring].std())


def make_texture(
    network: TextureNetwork, exemplar: Tensor, factor: int, evaluations: float, reach: float
) -> Tensor:
    """[3, H, W] in [0, 1], as it is stored."""
    height, width = exemplar.shape[1:]
    config = SynthesisConfig.preset("default", evaluations=evaluations)
    with patch.object(texsynth.borders, "BORDER_REACH", reach):
        results = synthesize(
            exemplar[None],
            [0],
            config,
            network,
            output_size=(factor * height, factor * width),
            lanes=1,
            device=network.device,
        )
        return next(results).image_8bit.float() / 255


def main() -> None:
    """Print the table as Markdown, a line as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    add_options(parser, size=64)
    parser.add_argument("--factor", type=int, default=3, help="of the side")
    parser.add_argument("--evaluations", type=float, default=80, help="budget")
    arguments = parser.parse_args()
    exemplars, network = load_inputs(arguments)
    print("\n".join(["# Borders of larger textures", "", *describe_environment()]))
    print(
        f"* weights: {network.weights_id}; exemplars of {arguments.size} px, textures "
        f"{arguments.factor} times as large, {arguments.evaluations:g} evaluations\n"
    )
    names = [f"{measure}, reach {reach:g}" for reach in REACHES for measure in ("contrast", "dev.")]
    print(f"| exemplar | its contrast | {' | '.join(names)} |")
    print("| --- |" + " ---: |" * (1 + len(names)))
    rows = []
    for name, exemplar in exemplars.items():
        row = [float(border_contrast(exemplar[None]))]
        for reach in REACHES:
            texture = make_texture(
                network, exemplar, arguments.factor, arguments.evaluations, reach
            )
            row += [float(border_contrast(texture[None])), compute_deviation(texture)]
        rows.append(row)
        print(f"| {name} | {' | '.join(f'{value:.2f}' for value in row)} |", flush=True)
    means = [statistics.mean(column) for column in zip(*rows, strict=True)]
    print(f"| mean | {' | '.join(f'{value:.2f}' for value in means)} |")


if __name__ == "__main__":
    main()
