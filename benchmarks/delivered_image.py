"""What clamping and rounding take from a texture, and what `clamp` and `settle` give back.

    python -m benchmarks.delivered_image --exemplars DIR [--size 64] [--weights hed]

The `default` preset, and the same without settling pixels, and without minimising the clamped
image, on the same exemplars with the same budget. Both losses are the reference loss in float32: of
the float image that the synthesis gives, and of the 8-bit one that is stored.
"""

from __future__ import annotations

import argparse
from typing import Any

from torch import Tensor

from benchmarks.comparisons import geometric_mean
from benchmarks.environment import describe_environment
from benchmarks.exemplars import add_options, load_inputs
from texsynth import SynthesisConfig, SynthesisResult, TextureNetwork, synthesize

VARIANTS: dict[str, dict[str, Any]] = {
    "`default`": {},
    "without `settle`": {"settle": False},
    "without `clamp` too": {"settle": False, "clamp": False},
}


def run_variants(
    network: TextureNetwork, exemplar: Tensor, evaluations: float
) -> dict[str, SynthesisResult]:
    """One texture by every variant, from one seed; none is stopped early."""
    found = {}
    for name, changes in VARIANTS.items():
        config = SynthesisConfig.preset(
            "default", evaluations=evaluations, plateau_tolerance=0.0, **changes
        )
        found[name] = next(
            synthesize(exemplar[None], [0], config, network, lanes=1, device=network.device)
        )
    return found


def table_row(name: str, variant: str, result: SynthesisResult) -> str:
    """One line of the table."""
    floating, delivered = result.float_loss.total, result.delivered_loss.total
    cells = [
        *(name, variant, f"{floating:,.0f}", f"{delivered:,.0f}"),
        *(f"{delivered / floating:.2f}", f"{result.out_of_range:.3f}"),
    ]
    return f"| {' | '.join(cells)} |"


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_options(parser, size=64)
    parser.add_argument("--evaluations", type=float, default=1000, help="budget")
    return parser.parse_args()


def main() -> None:
    """Print the table as Markdown."""
    arguments = parse_arguments()
    exemplars, network = load_inputs(arguments)
    print("\n".join(["# From the float image to the stored one", "", *describe_environment()]))
    print(f"* weights: {network.weights_id}; {arguments.size} px\n")
    print("| exemplar | variant | float loss | delivered loss | delivered / float |", end="")
    print(" out of range |\n| --- | --- |" + " ---: |" * 4)
    delivered: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for name, exemplar in exemplars.items():
        found = run_variants(network, exemplar, arguments.evaluations)
        for variant, result in found.items():
            print(table_row(name, variant, result), flush=True)
            delivered[variant].append(result.delivered_loss.total)
    means = {variant: geometric_mean(losses) for variant, losses in delivered.items()}
    best = means.pop("`default`")
    ratios = [f"{mean / best:.2f} {variant}" for variant, mean in means.items()]
    print("\nDelivered loss over that of `default`, geometric means: " + ", ".join(ratios) + ".")


if __name__ == "__main__":
    main()
