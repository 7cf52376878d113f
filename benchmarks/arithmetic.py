"""What an evaluation costs, and what a texture is worth, by the arithmetic of its convolutions.

    python -m benchmarks.arithmetic --exemplars DIR --size 256 --evaluations 400 --device cuda

One lane for each exemplar, one seed, the `default` preset, the same budget. The variants differ in
how texsynth's levels and steps compute: float32 as it is shipped, without cuDNN's deterministic
choice, and TF32, of whose mantissa 10 bits are left. Losses are the reference loss of the stored
image, in float32 for all. Seconds are of the second run of each: the first chooses and loads
kernels. The variants take turns in one process on one device.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator
from unittest.mock import patch

import torch
from torch import Tensor

import texsynth.lanes
from benchmarks.comparisons import geometric_mean
from benchmarks.environment import describe_environment
from benchmarks.exemplars import add_options, load_inputs
from benchmarks.time_to_loss import Measure
from texsynth import SynthesisConfig, TextureNetwork, synthesize
from texsynth.precision import exact_arithmetic


def arithmetic(
    *, deterministic: bool, convolutions: bool, products: bool
) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """In place of `texsynth.precision.exact_arithmetic`: TF32 where it is true."""

    @contextlib.contextmanager
    def context() -> Iterator[None]:
        flags = {"benchmark": False, "deterministic": deterministic, "allow_tf32": convolutions}
        # It puts the setting of products back, too.
        with exact_arithmetic(), torch.backends.cudnn.flags(enabled=True, **flags):
            torch.backends.cuda.matmul.allow_tf32 = products
            yield

    return context


VARIANTS = {
    "float32": exact_arithmetic,
    "float32, not deterministic": arithmetic(
        deterministic=False, convolutions=False, products=False
    ),
    "TF32 convolutions": arithmetic(deterministic=True, convolutions=True, products=False),
    "TF32 convolutions and products": arithmetic(
        deterministic=True, convolutions=True, products=True
    ),
}


def run_variant(
    network: TextureNetwork, exemplars: dict[str, Tensor], config: SynthesisConfig, repeats: int
) -> tuple[dict[str, float], float]:
    """Delivered loss by exemplar, and the seconds of the last repeat."""
    images = torch.stack(list(exemplars.values()))
    stored: dict[str, Tensor] = {}
    seconds = 0.0
    for _ in range(repeats):
        begun = time.perf_counter()
        results = synthesize(
            images,
            [0] * len(images),
            config,
            network,
            lanes=len(images),
            device=network.device,
        )
        names = list(exemplars)
        stored = {names[result.index]: result.image_8bit for result in results}
        seconds = time.perf_counter() - begun
    losses = {
        name: Measure(network, exemplar).delivered(stored[name].float() / 255)
        for name, exemplar in exemplars.items()
    }
    return losses, seconds


def main() -> None:
    """Print the table as Markdown, a line as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_options(parser, size=256)
    parser.add_argument("--evaluations", type=float, default=400, help="budget")
    parser.add_argument("--most", type=int, default=16, help="exemplars at most")
    arguments = parser.parse_args()
    exemplars, network = load_inputs(arguments)
    exemplars = dict(list(exemplars.items())[: arguments.most])
    config = SynthesisConfig.preset(
        "default", evaluations=arguments.evaluations, plateau_tolerance=0.0
    )
    print("\n".join(["# Arithmetic of the convolutions", "", *describe_environment()]))
    print(
        f"* weights: {network.weights_id}; {arguments.size} px; {len(exemplars)} exemplars, one "
        f"lane each; {arguments.evaluations:g} evaluations\n"
    )
    print("| arithmetic | seconds | faster | loss / that of float32 | least | most |")
    print("| --- |" + " ---: |" * 5)
    first: tuple[dict[str, float], float] | None = None
    for name, context in VARIANTS.items():
        with patch.object(texsynth.lanes, "exact_arithmetic", context):
            found = run_variant(network, exemplars, config, 1 + (network.device.type == "cuda"))
        first = first or found
        ratios = [found[0][key] / loss for key, loss in first[0].items()]
        print(
            f"| {name} | {found[1]:.1f} | {first[1] / found[1]:.2f} | "
            f"{geometric_mean(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
