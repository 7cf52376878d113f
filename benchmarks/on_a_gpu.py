"""Every measurement that wants a GPU, one after another, each within a limit of time.

    python -m benchmarks.on_a_gpu --exemplars DIR --out DIR [--weights FILE] [--only NAME ...]

Writes what each prints to OUT/NAME.md, and what it says on the way to OUT/NAME.err; one that does
not end in time or fails does not keep the others from their turn. Needs texsynth's own packages,
not Ray: about ten minutes on one large GPU. Exit code 1 if any failed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Step:
    """One command.

    Args:
        limit_s: after which it is ended.
        arguments: of `python -m`; EXEMPLARS, WEIGHTS and OUT are filled in.
    """

    limit_s: float
    arguments: str


STEPS = {
    "tests": Step(150, "pytest -q -m gpu tests/texsynth tests/pipeline/test_plan.py"),
    "roofline_256px_gpu": Step(
        90, "benchmarks.roofline --size 256 --weights random:0 --lanes 1,4,16,48 --seconds 1 CUDA"
    ),
    "roofline_128px_gpu": Step(
        60, "benchmarks.roofline --size 128 --weights random:0 --lanes 1,16,64 --seconds 1 CUDA"
    ),
    "arithmetic_gpu": Step(
        120, "benchmarks.arithmetic --size 256 --evaluations 200 EXEMPLARS WEIGHTS CUDA"
    ),
    "output_memory_gpu": Step(60, "benchmarks.output_memory --measure 128,256,512,1024,2048 CUDA"),
    "tile_cost_gpu": Step(
        60, "benchmarks.tile_cost --side 2048 --tiles 512,1024 --weights random:0 CUDA"
    ),
    "time_to_loss_256px_gpu": Step(
        240,
        "benchmarks.time_to_loss --size 256 --lanes 16 --json OUT/time_to_loss_256px_gpu.json "
        "EXEMPLARS WEIGHTS CUDA",
    ),
}


def fill(arguments: str, options: argparse.Namespace) -> list[str]:
    """The words of a command, its blanks filled in."""
    weights = ["--weights", options.weights]
    if options.normalisation:
        weights += ["--normalisation", options.normalisation]
    blanks = {
        "EXEMPLARS": ["--exemplars", str(options.exemplars)],
        "WEIGHTS": weights,
        "CUDA": ["--device", "cuda"],
    }
    words: list[str] = []
    for word in arguments.split():
        words += blanks.get(word, [word.replace("OUT/", f"{options.out}/")])
    return words


def run_step(name: str, step: Step, options: argparse.Namespace) -> str:
    """What came of it, in a few words."""
    begun = time.monotonic()
    command = [sys.executable, "-m", *fill(step.arguments, options)]
    said, erred = (options.out / f"{name}.{suffix}" for suffix in ("md", "err"))
    with said.open("w") as output, erred.open("w") as errors:
        try:
            code = subprocess.run(
                command, stdout=output, stderr=errors, timeout=step.limit_s, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            return f"not done within {step.limit_s:.0f} s: {said}"
    result = "done" if code == 0 else f"exit code {code}, see {erred}"
    return f"{result} in {time.monotonic() - begun:.0f} s: {said}"


def main() -> int:
    """Run the steps and say how each went."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--exemplars", type=Path, required=True, help="folder of images")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--weights", default="hed")
    parser.add_argument("--normalisation", help="of the network's input: none or imagenet")
    parser.add_argument("--only", nargs="*", choices=STEPS, default=list(STEPS))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    outcomes = []
    for name in options.only:
        outcomes.append(run_step(name, STEPS[name], options))
        print(f"{name}: {outcomes[-1]}", flush=True)
    return int(not all(outcome.startswith("done") for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
