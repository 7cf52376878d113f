"""What the kind and the weight of the spectrum term do to regular and to irregular textures.

    python -m benchmarks.spectrum_weights --exemplars DIR --textures DIR [--size 128]

The `default` preset with every setting of the spectrum term, on the same exemplars with the same
seed and budget, none stopped early, and once more from another seed. The measures are not what is
minimised, but for one: autocorrelation_error is near kin of the spectrum term. Which exemplars are
regular says `texsynth.triage_exemplars`. Every texture is kept as a PNG, and a later run takes it
up.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.comparisons import geometric_mean
from benchmarks.environment import describe_environment
from benchmarks.exemplars import add_options, load_inputs
from benchmarks.published_pairs import obtain_texture
from texsynth import SynthesisConfig, TextureNetwork, load_network, score, triage_exemplars
from texsynth.images import tensor_to_pil

WEIGHTS = (10.0, 1.0, 0.1, 0.01, 0.001)
SETTINGS: dict[str, dict[str, Any]] = {
    "colour-reference": {},
    **{f"colour-{weight:g}": {"spectrum_weight": weight} for weight in WEIGHTS},
    "gray-reference": {"spectrum": "gray"},
    **{f"gray-{weight:g}": {"spectrum": "gray", "spectrum_weight": weight} for weight in WEIGHTS},
    "none": {"spectrum": "none"},
}
"""Changes of the `default` preset; the first, no change, is what others are held against."""
CHANCE = "colour-reference, seed 1"
"""The first setting from another seed: what differs from it as little says nothing."""
RATIOS = (
    *("wavelet_kl", "held_out_gram_error", "autocorrelation_error"),
    *("displacement_score", "phase_correlation_peak"),
)
"""Measures above 0, given over those of the first setting."""
DRIFTS = ("local_mean_drift", "local_contrast_drift")
"""Measures that are good near 0, given as mean distances from it."""
HIGHER_IS_BETTER = {"displacement_score"}
LEAST = 1e-6
"""Of a measure in a ratio."""

Scores = Mapping[str, Sequence[Mapping[str, float]]]
"""Setting to the measures of its textures, exemplar by exemplar."""


def make_textures(
    folder: Path, exemplar: Tensor, network: TextureNetwork, arguments: argparse.Namespace
) -> dict[str, Tensor]:
    """Setting to texture [3, size, size] of one exemplar, each kept in the folder."""
    preset = SynthesisConfig.preset(
        "default", evaluations=arguments.evaluations, plateau_tolerance=0.0
    )
    textures = {}
    for setting in arguments.settings:
        config = preset.with_values(SETTINGS[setting])
        path = folder / f"{setting}.png"
        textures[setting] = obtain_texture(path, exemplar, config, network).image
    path = folder / "seed-1.png"
    textures[CHANCE] = obtain_texture(path, exemplar, preset, network, seed=1).image
    return textures


def measure_texture(texture: Tensor, exemplar: Tensor, judge: TextureNetwork) -> dict[str, float]:
    """RATIOS, DRIFTS and the chroma noise over the exemplar's; the held-out tap is the judge's."""
    found = dataclasses.asdict(score(texture, exemplar, judge))
    noise, own_noise = (max(found[f"{of}chroma_noise"], LEAST) for of in ("", "exemplar_"))
    ratios = {name: max(found[name], LEAST) for name in RATIOS}
    return ratios | {name: found[name] for name in DRIFTS} | {"chroma_noise": noise / own_noise}


def table_rows(scores: Scores) -> list[str]:
    """One line per setting: means over exemplars, and on how many of them it beats the first."""
    first = next(iter(scores.values()))
    rows = []
    for setting, found in scores.items():
        cells = []
        for measure in RATIOS:
            ratios = [
                mine[measure] / theirs[measure] for mine, theirs in zip(found, first, strict=True)
            ]
            better = sum((r > 1) if measure in HIGHER_IS_BETTER else (r < 1) for r in ratios)
            cells.append(f"{geometric_mean(ratios):.2f} ({better})")
        cells += [f"{statistics.mean(abs(mine[name]) for mine in found):.3f}" for name in DRIFTS]
        cells.append(f"{geometric_mean(mine['chroma_noise'] for mine in found):.2f}")
        rows.append(f"| {setting} | {' | '.join(cells)} |")
    return rows


def print_group(
    group: str, names: Sequence[str], scores: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> None:
    """The table of one group of exemplars."""
    print(f"## {group}: {', '.join(names)}\n")
    columns = [*(f"{measure}, ratio" for measure in RATIOS), *(f"abs. {name}" for name in DRIFTS)]
    print(f"| spectrum | {' | '.join(columns)} | chroma_noise / exemplar's |")
    print("| --- |" + " ---: |" * (len(columns) + 1))
    rows = table_rows(
        {setting: [scores[name][setting] for name in names] for setting in scores[names[0]]}
    )
    print("\n".join(rows), end="\n\n")


def write_sheet(path: Path, rows: Sequence[Sequence[Tensor]]) -> None:
    """A row for each exemplar: itself, then its textures in the order of the tables."""
    tensor_to_pil(torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)).save(path)


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_options(parser, size=128)
    parser.add_argument("--judge", default="hed", help="weights of the held-out Gram error")
    parser.add_argument("--evaluations", type=float, default=100, help="budget")
    parser.add_argument("--textures", type=Path, required=True, help="folder of what is made")
    parser.add_argument(
        "--settings", nargs="*", choices=SETTINGS, default=list(SETTINGS), help="all unless given"
    )
    parser.add_argument("--sheet", type=Path, help="write a picture of all textures here")
    return parser.parse_args()


def main() -> None:
    """Print the tables as Markdown."""
    arguments = parse_arguments()
    exemplars, network = load_inputs(arguments)
    judge = load_network(arguments.judge, device=arguments.device)
    print("\n".join(["# Kind and weight of the spectrum term", "", *describe_environment()]))
    print(f"* weights: {network.weights_id}; judge: {judge.weights_id}; {arguments.size} px\n")
    groups: dict[str, list[str]] = {"Regular": [], "Irregular": []}
    sheet, scores = {}, {}
    for name, exemplar in exemplars.items():
        (triage,) = triage_exemplars(exemplar[None])
        groups["Regular" if triage.kind == "regular" else "Irregular"].append(name)
        textures = make_textures(arguments.textures / name, exemplar, network, arguments)
        scores[name] = {
            setting: measure_texture(texture, exemplar, judge)
            for setting, texture in textures.items()
        }
        sheet[name] = [exemplar, *textures.values()]
    for group, names in groups.items():
        if names:
            print_group(group, names, scores)
    if arguments.sheet:
        write_sheet(arguments.sheet, [sheet[name] for names in groups.values() for name in names])


if __name__ == "__main__":
    main()
