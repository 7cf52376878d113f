"""Every measure of published textures and of ours, beside the same exemplars, at equal scoring.

    python -m benchmarks.quality_table --pairs DIR --weights FILE --normalisation imagenet \
        --judge hed --evaluations 400 --textures OUT

DIR holds `exemplar_NAME.png` and `synth_NAME.png` of one size. Ours are made by the `default`
preset, one seed, and written to OUT; one that is there already is scored as it is stored, so that a
run that was cut off goes on. Prints a table for every exemplar, then one of all.

Ours minimise Gram errors of the network in --weights, the published ones those of another: measures
with that network are no even ground. Those with --judge are, if neither used it, and those without
a network need none.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.environment import describe_environment
from benchmarks.pair_scores import (
    GOALS,
    JUDGED,
    NETWORK_GOALS,
    Scores,
    Verdict,
    find_better,
    measure_of,
    score_texture,
)
from benchmarks.published_pairs import Effort, load_pairs, obtain_texture
from texsynth import SynthesisConfig, TextureNetwork, load_network, triage_exemplars

Pair = tuple[Scores, Scores]
"""Of the published texture and of ours."""


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=Path, required=True, help="folder of published pairs")
    parser.add_argument("--weights", default="hed", help="that ours are made with")
    parser.add_argument("--normalisation", help="of its input: none or imagenet")
    parser.add_argument("--judge", help="weights that neither was made with")
    parser.add_argument("--evaluations", type=float, default=400, help="budget of ours")
    parser.add_argument("--textures", type=Path, required=True, help="folder that keeps ours")
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def describe_making(
    config: SynthesisConfig, network: TextureNetwork, judge: TextureNetwork | None
) -> list[str]:
    """What ours are made by, and what all are measured with."""
    lines = [
        f"* ours: preset `default`, at most {config.evaluations:g} evaluations, seed 0",
        f"* network of ours and of the measures: {_describe_network(network)}",
    ]
    if judge is not None:
        lines.append(f"* judge, used by neither: {_describe_network(judge)}")
    return lines


def _describe_network(network: TextureNetwork) -> str:
    return f"{network.weights_id}, tensors' sha256 {network.weights_sha256[:16]}"


def describe_exemplar(name: str, exemplar: Tensor, effort: Effort, pair: Pair) -> list[str]:
    """The table of one exemplar, as Markdown."""
    (kind,) = triage_exemplars(exemplar[None])
    lines = [
        f"## {name}",
        "",
        f"{kind.kind.replace('_', ' ')}, {exemplar.shape[2]}x{exemplar.shape[1]} px. Ours: "
        f"{effort.evaluations:.0f} evaluations in {effort.seconds:.0f} s, ended by "
        f"{effort.stop_reason}.",
        "",
        "| measure | published | ours | exemplar or good | better |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for measure, theirs, mine, better in compare(pair):
        target = pair[0].own.get(measure_of(measure))
        words = GOALS[measure_of(measure)].words if target is None else format_value(target)
        cells = (measure, format_value(theirs), format_value(mine), words, better)
        lines.append(f"| {' | '.join(cells)} |")
    faults = [", ".join(scores.faults) or "none" for scores in pair]
    lines.append(f"| faults by the standing rules | {faults[0]} | {faults[1]} | none | |")
    for measure, reason in pair[1].skipped.items():
        lines += ["", f"Not measured: {measure}: {reason}."]
    return lines


def describe_all(pairs: Mapping[str, Pair]) -> list[str]:
    """One table of all exemplars: published / ours, the better in bold; and how often ours is."""
    lines = [
        "## Published / ours",
        "",
        f"| measure | {' | '.join(pairs)} | ours better |",
        "| --- |" + " ---: |" * (len(pairs) + 1),
    ]
    compared = {name: {row[0]: row[1:] for row in compare(pair)} for name, pair in pairs.items()}
    counts: dict[str, Counter[Verdict]] = {}
    for measure in dict.fromkeys(measure for rows in compared.values() for measure in rows):
        found = [rows.get(measure) for rows in compared.values()]
        verdicts = Counter[Verdict](row[2] for row in found if row is not None and row[2])
        wins = f"{verdicts['ours']} of {verdicts.total()}" if verdicts else "no verdict"
        cells = ["" if row is None else _format_pair(*row) for row in found]
        lines.append(f"| {measure} | {' | '.join(cells)} | {wins} |")
        counts.setdefault(_ground(measure), Counter()).update(verdicts)
    faults = [
        " / ".join(", ".join(scores.faults) or "none" for scores in pair) for pair in pairs.values()
    ]
    lines += [f"| faults | {' | '.join(faults)} | |", ""]
    for ground, verdicts in counts.items():
        lines.append(
            f"* {ground}: of {verdicts.total()} comparisons ours is better in {verdicts['ours']}, "
            f"the published texture in {verdicts['published']}; {verdicts['equal']} are equal"
        )
    return lines


def _ground(measure: str) -> str:
    """What a comparison stands on."""
    if measure.endswith(JUDGED):
        return "with the judge"
    return "with the network of ours" if measure_of(measure) in NETWORK_GOALS else "without network"


def compare(pair: Pair) -> Iterator[tuple[str, float, float, Verdict]]:
    """Measure, value of the published texture, of ours, and which is better."""
    published, ours = pair
    for measure, theirs in published.values.items():
        mine = ours.values[measure]
        own = published.own.get(measure_of(measure))
        yield measure, theirs, mine, find_better(measure, theirs, mine, own)


def _format_pair(published: float, ours: float, better: Verdict) -> str:
    texts = {"published": format_value(published), "ours": format_value(ours)}
    return " / ".join(f"**{text}**" if key == better else text for key, text in texts.items())


def format_value(value: float) -> str:
    """Three digits; losses without fractions."""
    return f"{value:,.0f}" if math.isfinite(value) and abs(value) >= 1000 else f"{value:.3g}"


def main() -> None:
    """Print all tables as Markdown."""
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    images = load_pairs(arguments.pairs)
    network = load_network(
        arguments.weights, normalisation=arguments.normalisation, device=arguments.device
    )
    judge = load_network(arguments.judge, device=arguments.device) if arguments.judge else None
    config = SynthesisConfig.preset("default", evaluations=arguments.evaluations)
    print("\n".join(["# Published textures and ours", "", *describe_environment()]))
    print("\n".join(describe_making(config, network, judge)), flush=True)
    pairs = {}
    for name, (exemplar, published) in images.items():
        ours = obtain_texture(arguments.textures / f"synth_{name}.png", exemplar, config, network)
        theirs, mine = (
            score_texture(texture, exemplar, network, judge) for texture in (published, ours.image)
        )
        pairs[name] = (theirs, mine)
        print("\n".join(["", *describe_exemplar(name, exemplar, ours.effort, pairs[name])]))
    print("\n".join(["", *describe_all(pairs)]))


if __name__ == "__main__":
    main()
