"""What the pipeline costs beside the synthesis: the same tasks as a bare loop, inline, through Ray.

    python -m benchmarks.pipeline_overhead [--size 64] [--weights hed] [--repeat 3]

The settings take turns, each in processes of its own and with all cores: two actors share them, one
has them all. The steady part runs from the first task's beginning to the last row's commit (of the
bare loop: to the last result); what comes before and after, such as imports, the start of Ray, the
weights and finalize, is a fixed price of each command. A device is idle while its actor, between
its first and its last work, is not inside `Synthesis.advance`: the `block` lines of the log say it.

The machine must do nothing else: where a thread of several is kept from its core, the others spin
for it, and a setting becomes many times slower. How long they spin before they sleep is libgomp's
choice in the bare loop, and differs in the others: OMP_WAIT_POLICY or GOMP_SPINCOUNT, set for this
command, hold for all.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow.parquet as pq
import skimage.data
import torch

from benchmarks.calibrate_hed import TEXTURES
from benchmarks.environment import describe_environment
from pipeline.config import RunConfig
from pipeline.manifest import load_manifest
from pipeline.prepare import ExemplarSource, prepare_tasks
from pipeline.rundir import RunDirectory
from pipeline.tasks import expand_tasks
from texsynth import load_network, synthesize
from texsynth.images import image_to_tensor

COMMAND = [sys.executable, "-c", "from pipeline.cli import main; main()", "run"]
BARE, INLINE = "bare loop", "inline"
SETTINGS: dict[str, tuple[str, ...]] = {
    BARE: (),
    INLINE: ("--executor", "inline"),
    "Ray, one actor": ("--actors", "1"),
    "Ray, two actors": ("--actors", "2"),
}
IMAGES = Path(skimage.data.__file__).parent


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One command.

    Attributes:
        setting: of SETTINGS.
        command_s: of the whole command.
        steady_s: from the first task's beginning to the last row's commit.
        textures: made.
        evaluations: spent on them, at full size.
        idle_share: of the time between the actors' first and last work; None for the bare loop.
        lanes_at_work: mean over the time in syntheses, per actor.
    """

    setting: str
    command_s: float
    steady_s: float
    textures: int
    evaluations: float
    idle_share: float | None
    lanes_at_work: float


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=int, default=64, help="px")
    parser.add_argument("--weights", default="hed")
    parser.add_argument("--tasks", type=int, default=16)
    parser.add_argument("--evaluations", type=float, default=300)
    parser.add_argument("--lanes", type=int, default=4)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write every measurement here")
    return parser.parse_args()


def write_manifest(path: Path, tasks: int) -> None:
    """As many exemplars as tasks, over and over the textures that scikit-image ships."""
    lines = [f"x{index:05d},{TEXTURES[index % len(TEXTURES)]}" for index in range(tasks)]
    path.write_text("\n".join(["exemplar_id,path", *lines]) + "\n")


def measure_bare(manifest: Path, config: RunConfig, lanes: int) -> Measurement:
    """The tasks of a manifest in one call of `synthesize`, their exemplars decoded before."""
    begun = time.monotonic()
    # A process of its own, as the pipeline has: nothing is warm, nothing is left.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        done = process.submit(_run_bare, manifest, config, lanes).result()
    return Measurement(setting=BARE, command_s=time.monotonic() - begun, **done)


def _run_bare(manifest: Path, config: RunConfig, lanes: int) -> dict[str, Any]:
    torch.set_num_threads(os.cpu_count() or 1)
    table = load_manifest(manifest, root=str(IMAGES)).table
    tasks = expand_tasks(table, crops=1, variations=1, seed=config.seed)
    tasks = prepare_tasks(tasks, ExemplarSource(str(IMAGES), config))
    shape = (len(tasks), config.size, config.size, 3)
    pixels = torch.frombuffer(bytearray(b"".join(tasks["pixels"].to_pylist())), dtype=torch.uint8)
    exemplars = torch.stack([image_to_tensor(image.numpy()) for image in pixels.reshape(shape)])
    device = config.device or "cpu"
    network = load_network(config.weights, device=device)
    synthesis = config.resolve_synthesis()
    begun = time.monotonic()
    seeds = tasks["seed"].to_pylist()
    results = list(synthesize(exemplars, seeds, synthesis, network, lanes=lanes, device=device))
    steady_s = time.monotonic() - begun
    return {
        "steady_s": steady_s,
        "textures": len(results),
        "evaluations": sum(result.evaluations for result in results),
        "idle_share": None,
        "lanes_at_work": sum(result.seconds for result in results) / steady_s,
    }


def measure_pipeline(setting: str, manifest: Path, config: RunConfig, out: Path) -> Measurement:
    """The tasks of a manifest by `texsynth run`, in an empty directory.

    Raises:
        CalledProcessError: if the command fails, or a task of it.
    """
    options = {
        "out": out,
        "root": IMAGES,
        "weights": config.weights,
        "size": config.size,
        "evaluations": config.evaluations,
        "lanes": config.lanes,
        "device": config.device,
    }
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    # Actors of Ray set their threads themselves.
    threads = {"OMP_NUM_THREADS": str(os.cpu_count() or 1)} if setting == INLINE else {}
    begun = time.monotonic()
    subprocess.run(
        [*COMMAND, str(manifest), *words, *SETTINGS[setting]],
        check=True,
        stdout=subprocess.DEVNULL,
        env=os.environ | threads,
    )
    command_s = time.monotonic() - begun
    return Measurement(setting=setting, command_s=command_s, **read_run(RunDirectory(out)))


def read_run(run: RunDirectory) -> dict[str, Any]:
    """What a finished run says about its time: the values of a `Measurement`."""
    lines = [json.loads(line) for line in run.log.read_text().splitlines()]
    blocks: dict[str, list[tuple[float, float, float]]] = {}
    for line in lines:
        if line["event"] == "block":
            begin = datetime.datetime.fromisoformat(line["begun_at"]).timestamp()
            times = (begin, begin + line["seconds"], line["synthesis_seconds"])
            blocks.setdefault(line["actor"], []).append(times)
    begins = {actor: min(begin for begin, _, _ in own) for actor, own in blocks.items()}
    ends = {actor: max(end for _, end, _ in own) for actor, own in blocks.items()}
    synthesis_s = sum(seconds for own in blocks.values() for _, _, seconds in own)
    worked_s = sum(ends[actor] - begins[actor] for actor in blocks)
    rows = pq.read_table(run.metrics, columns=["seconds", "evaluations"])
    return {
        "steady_s": max(ends.values()) - min(begins.values()),
        "textures": len(rows),
        "evaluations": sum(rows["evaluations"].to_pylist()),
        "idle_share": 1 - synthesis_s / worked_s,
        "lanes_at_work": sum(rows["seconds"].to_pylist()) / synthesis_s,
    }


def measure_all(settings: list[str], config: RunConfig, tasks: int) -> list[Measurement]:
    """One measurement of each setting, in this order."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "manifest.csv"
        write_manifest(manifest, tasks)
        for number, setting in enumerate(settings):
            if setting == BARE:
                found.append(measure_bare(manifest, config, int(config.lanes)))
            else:
                out = Path(folder) / f"run{number}"
                found.append(measure_pipeline(setting, manifest, config, out))
    return found


def table_row(setting: str, repeats: list[dict[str, Measurement]]) -> str:
    """One line of the table: medians over the repeats, and the range of the steady part."""
    own = [found[setting] for found in repeats]
    steady = [one.steady_s for one in own]
    idle = [one.idle_share for one in own if one.idle_share is not None]
    cells = [
        setting,
        f"{median(one.command_s for one in own):.1f}",
        f"{median(one.command_s - one.steady_s for one in own):.1f}",
        f"{median(steady):.1f} ({min(steady):.1f} to {max(steady):.1f})",
        f"{median(found[setting].steady_s / found[BARE].steady_s for found in repeats):.3f}",
        f"{median(3600 * one.textures / one.steady_s for one in own):,.0f}",
        f"{100 * median(idle):.1f} %" if idle else "",
        f"{median(one.lanes_at_work for one in own):.2f}",
        f"{median(one.evaluations for one in own):,.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the comparison as Markdown."""
    arguments = parse_arguments()
    settings = list(SETTINGS)
    if arguments.device == "cuda" and torch.cuda.device_count() < 2:
        settings.remove("Ray, two actors")
    names = ("size", "weights", "evaluations", "lanes", "device")
    config = RunConfig.model_validate({name: getattr(arguments, name) for name in names}).resolved()
    repeats = []
    for number in range(arguments.repeat):
        # To and fro, so that a machine that slows down or warms up favours none.
        order = settings if number % 2 == 0 else settings[::-1]
        found = measure_all(order, config, arguments.tasks)
        repeats.append({one.setting: one for one in found})
    print("# The pipeline beside a bare loop\n")
    print("\n".join(describe_environment()))
    print(f"* {arguments.tasks} tasks, {arguments.lanes} lanes; medians of {arguments.repeat}\n")
    print("| setting | whole command, s | fixed price, s | first task to last row, s |", end="")
    print(" ratio to the bare loop | textures/h | idle | lanes at work | evaluations |")
    print("| --- |" + " ---: |" * 8)
    for setting in settings:
        print(table_row(setting, repeats))
    if arguments.json:
        measurements = [dataclasses.asdict(one) for found in repeats for one in found.values()]
        environment = describe_environment()
        values = {"environment": environment, "measurements": measurements}
        arguments.json.write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    main()
