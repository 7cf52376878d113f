"""Delivered loss and copy measures of the `default` preset against `reference`, same evaluations.

    python -m benchmarks.preset_quality --exemplars DIR [--weights hed] [--size 128]

Both presets work on the same exemplars with the same weights, seeds, budget and tap rule. The loss
is the reference loss (gray spectrum) of the stored 8-bit image for both, whatever was minimised.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import get_args

import torch
from PIL import Image

from benchmarks.copies import DISPLACEMENT_THRESHOLD, LAYOUT_THRESHOLD, measure_copies
from benchmarks.environment import describe_environment
from texsynth import (
    SynthesisConfig,
    SynthesisResult,
    TextureNetwork,
    chroma_noise,
    load_exemplar,
    load_network,
    synthesize,
)
from texsynth.config import PresetName
from texsynth.images import tensor_to_pil

PRESETS: tuple[PresetName, ...] = get_args(PresetName)


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--exemplars", type=Path, required=True, help="folder of images")
    parser.add_argument("--pattern", default="exemplar_*.png", help="which files of the folder")
    parser.add_argument("--weights", default="hed")
    parser.add_argument("--size", type=int, default=128, help="px")
    parser.add_argument("--evaluations", type=float, default=600)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pictures", type=Path, help="write a sheet of all textures here")
    return parser.parse_args()


def run_preset(
    preset: PresetName,
    exemplars: torch.Tensor,
    network: TextureNetwork,
    arguments: argparse.Namespace,
) -> list[SynthesisResult]:
    """One texture of each exemplar, all with the same budget and none stopped early."""
    config = SynthesisConfig.preset(
        preset, evaluations=arguments.evaluations, plateau_tolerance=0.0
    )
    seeds = list(range(len(exemplars)))
    found = synthesize(
        exemplars, seeds, config, network, lanes=len(exemplars), device=arguments.device
    )
    return sorted(found, key=lambda result: result.index)


def table_row(name: str, preset: str, result: SynthesisResult, exemplar: torch.Tensor) -> str:
    """One line of the table: losses, copy measures, chroma noise."""
    texture = result.image_8bit[None].float() / 255
    (copies,) = measure_copies(texture, exemplar[None])
    noise = chroma_noise(texture).item()
    own_noise = chroma_noise(exemplar[None]).item()
    cells = [
        *(name, preset, f"{result.float_loss.total:,.0f}", f"{result.delivered_loss.total:,.0f}"),
        *(f"{measure:.2f}" for measure in copies),
        *("yes" if copies.is_copy else "no", f"{noise:.1e}", f"{own_noise:.1e}"),
        *(f"{result.out_of_range:.3f}", f"{result.evaluations:.0f}", f"{result.seconds:.0f}"),
    ]
    return f"| {' | '.join(cells)} |"


def write_sheet(path: Path, rows: list[list[torch.Tensor]]) -> None:
    """Exemplars above, then one row of textures per preset, at twice their size."""
    sheet = tensor_to_pil(torch.cat([torch.cat(row, dim=2) for row in rows], dim=1))
    sheet.resize((2 * sheet.width, 2 * sheet.height), Image.Resampling.LANCZOS).save(path)


def main() -> None:
    """Print the comparison as Markdown."""
    arguments = parse_arguments()
    paths = sorted(arguments.exemplars.glob(arguments.pattern))
    if not paths:
        sys.exit(f"no {arguments.pattern} in {arguments.exemplars}")
    names = [path.stem.removeprefix("exemplar_") for path in paths]
    exemplars = torch.stack([load_exemplar(path, arguments.size) for path in paths])
    network = load_network(arguments.weights)
    results = {p: run_preset(p, exemplars, network, arguments) for p in PRESETS}
    print("# Presets at equal evaluations\n")
    print("\n".join(describe_environment()))
    print(f"* weights: {network.weights_id}, sha256 {network.weights_sha256[:16]}")
    print(f"* taps: {', '.join(results['default'][0].taps)}; {arguments.size} px\n")
    print(
        "| exemplar | preset | float loss | delivered loss | displacement | layout | shifted |",
        end="",
    )
    print(" copy | chroma noise | exemplar's | out of range | evaluations | seconds |")
    print("| --- | --- |" + " ---: |" * 11)
    ratios = []
    for index, name in enumerate(names):
        for preset in PRESETS:
            print(table_row(name, preset, results[preset][index], exemplars[index]))
        delivered = [results[preset][index].delivered_loss.total for preset in PRESETS]
        ratios.append(delivered[PRESETS.index("reference")] / delivered[PRESETS.index("default")])
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    print(f"\nDelivered loss, reference over default: {', '.join(f'{r:.1f}' for r in ratios)};")
    print(f"geometric mean {mean:.1f}. A copy is a displacement score below", end=" ")
    print(f"{DISPLACEMENT_THRESHOLD} or a layout correlation above {LAYOUT_THRESHOLD}.")
    if arguments.pictures:
        textures = [
            [result.image_8bit.float() / 255 for result in results[preset]] for preset in PRESETS
        ]
        write_sheet(arguments.pictures, [list(exemplars), *textures])


if __name__ == "__main__":
    main()
