"""How many textures a process loads in a second: `python -m benchmarks.loading_rate`.

Of a run, or of one made here: random-phase textures of the exemplars in scikit-image's wheel, which
compress as synthesised ones do. One process, one thread: as many images per second of CPU time as
a core gives, and by the clock, which also counts what else the machine does. The best of some
passes over all images.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pyarrow as pa
import torch
import torchvision
from PIL import Image, features
from torchvision.io import ImageReadMode, decode_png

from benchmarks.environment import describe_environment
from pipeline import BufferedShuffle, StreamedTextures, SyntheticTextures
from pipeline.finalize import finalize
from pipeline.image_reader import decode_texture
from pipeline.manifest import demo_manifest
from pipeline.rundir import RunDirectory
from pipeline.schema import row_schema, rows_to_table
from pipeline.selection import Selection, locate_rows, read_images
from pipeline.shards import commit_rows
from texsynth import load_exemplar
from texsynth.images import round_to_8_bits, tensor_to_pil
from texsynth.start import draw_starts

GOAL = 2000
SHUFFLED = 300
"""Images of the passes that would take long over all of them."""
IN_ORDER = "`SyntheticTextures`, storage order"
IN_BUFFER = "`SyntheticTextures`, `BufferedShuffle`"
COMPRESSIONS: dict[str, dict[str, int]] = {
    "level 6, as rows have it": {},
    "level 1": {"compress_level": 1},
    "level 9": {"compress_level": 9},
    "run lengths alone (`compress_type=3`)": {"compress_type": 3},
    "stored (`compress_level=0`)": {"compress_level": 0},
}


def make_run(folder: Path, images: int, size_px: int) -> RunDirectory:
    """A finished run of random-phase textures, as many of each exemplar."""
    demo = demo_manifest(folder).to_pylist()
    exemplars = [load_exemplar(folder / entry["path"], size_px) for entry in demo]
    rows = []
    for number in range(images):
        which = number % len(demo)
        (texture,) = draw_starts(exemplars[which][None], [number], "random_phase")
        task_id = f"{demo[which]['exemplar_id']}-c0-v{number}"
        rows.append(
            _make_row(task_id, demo[which], tensor_to_pil(round_to_8_bits(texture[None])[0]))
        )
    run = RunDirectory(folder / "run")
    run.create()
    commit_rows(run, rows_to_table(rows, row_schema()))
    finalize(run, pa.array([row["task_id"] for row in rows]))
    return run


def _make_row(task_id: str, entry: dict[str, Any], texture: Image.Image) -> dict[str, Any]:
    named = ("preset", "config_fingerprint", "weights", "texsynth_version", "torch_version")
    return dict.fromkeys(named, "") | {
        **{"task_id": task_id, "exemplar_id": entry["exemplar_id"], "path": entry["path"]},
        **{"category": entry["category"], "crop": 0, "variation": 0, "seed": 0, "attempts": 1},
        **{"status": "ok", "finished_at": datetime.now(UTC)},
        **{"height": texture.height, "width": texture.width},
        "image": {"bytes": encode(texture, {}), "path": f"{task_id}.png"},
    }


def exhaust(items: Iterable[object]) -> int:
    """Take all items; gives how many."""
    return sum(1 for _ in items)


def decode_with_pillow(pngs: list[bytes]) -> int:
    """As the loaders do."""
    return exhaust(decode_texture(png, "") for png in pngs)


def decode_with_torchvision(pngs: list[bytes]) -> int:
    """To tensors."""
    data = (torch.frombuffer(bytearray(png), dtype=torch.uint8) for png in pngs)
    return exhaust(decode_png(one, ImageReadMode.RGB) for one in data)


def take(textures: SyntheticTextures, order: Iterable[int]) -> int:
    """Items of a data set by their numbers."""
    return exhaust(textures[index] for index in order)


def measure(passes: Mapping[str, Callable[[], int]], repeat: int) -> dict[str, tuple[float, float]]:
    """Images per second of CPU time and of the clock, the best of some turns through all passes."""
    best = dict.fromkeys(passes, (0.0, 0.0))
    for _ in range(repeat):
        for name, run_pass in passes.items():
            clock, cpu = time.perf_counter(), time.process_time()
            images = run_pass()
            rates = (images / (time.process_time() - cpu), images / (time.perf_counter() - clock))
            best[name] = (max(best[name][0], rates[0]), max(best[name][1], rates[1]))
    return best


def list_passes(run: RunDirectory, pngs: list[bytes]) -> dict[str, Callable[[], int]]:
    """What is measured, by name."""
    textures = SyntheticTextures(run, accepted_only=False)
    anywhere = np.random.default_rng(0).permutation(len(textures))[:SHUFFLED].tolist()
    stream = partial(StreamedTextures, run, accepted_only=False)
    return {
        "decoding alone, Pillow": partial(decode_with_pillow, pngs),
        "decoding alone, torchvision, to a tensor": partial(decode_with_torchvision, pngs),
        "reading alone": lambda: exhaust(read_images(run, textures.rows)),
        IN_ORDER: partial(take, textures, range(len(textures))),
        IN_BUFFER: partial(take, textures, BufferedShuffle(textures)),
        "`SyntheticTextures`, shuffled without a buffer": partial(take, textures, anywhere),
        "`StreamedTextures`, storage order": partial(exhaust, stream(buffer=0)),
        "`StreamedTextures`, buffer of 1024 images": partial(exhaust, stream()),
    }


def measure_run(run: RunDirectory, repeat: int) -> list[str]:
    """The lines of the result."""
    located = locate_rows(run, Selection(accepted_only=False))
    pngs = [png for _, png in read_images(run, located)]
    side, size = decode_texture(pngs[0], "").width, sum(map(len, pngs)) / len(pngs)
    rates = measure(list_passes(run, pngs), repeat)
    decoding = rates[IN_ORDER][0] / rates["decoding alone, Pillow"][0]
    return [
        f"* {len(pngs):,} images of {side} px, {size:,.0f} bytes each; best of {repeat} passes",
        f"* in storage order {rates[IN_ORDER][0]:,.0f} images/s of a core, goal {GOAL:,}; shuffled "
        f"within a buffer {rates[IN_BUFFER][0] / rates[IN_ORDER][0]:.0%} of that",
        f"* decoding PNG takes {decoding:.0%} of the time in storage order",
        "",
        "| pass | images/s of CPU time | images/s by the clock |",
        "| --- | ---: | ---: |",
        *(f"| {name} | {cpu:,.0f} | {clock:,.0f} |" for name, (cpu, clock) in rates.items()),
        "",
        *compare_compressions(pngs[:: -(-len(pngs) // SHUFFLED)], repeat),
    ]


def compare_compressions(pngs: list[bytes], repeat: int) -> list[str]:
    """A table: what PNG's compression costs to write and to read."""
    lines = [
        "| compression | bytes | written, images/s of CPU time | decoded |",
        "| --- | ---: | ---: | ---: |",
    ]
    images = [decode_texture(png, "") for png in pngs]
    for name, options in COMPRESSIONS.items():
        encoded = [encode(image, options) for image in images]
        passes = {
            "write": partial(encode_all, images, options),
            "read": partial(decode_with_pillow, encoded),
        }
        rates = measure(passes, repeat)
        size = sum(map(len, encoded)) / len(encoded)
        numbers = f"{size:,.0f} | {rates['write'][0]:,.0f} | {rates['read'][0]:,.0f}"
        lines.append(f"| {name} | {numbers} |")
    return lines


def encode(image: Image.Image, options: dict[str, int]) -> bytes:
    """A PNG with some of Pillow's options."""
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def encode_all(images: list[Image.Image], options: dict[str, int]) -> int:
    """Gives how many."""
    return exhaust(encode(image, options) for image in images)


def main() -> None:
    """Print the rates, as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--size", type=int, default=128, help="px")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--run", type=Path, help="measured instead of one that is made")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.run:
            run = RunDirectory(arguments.run)
        else:
            run = make_run(Path(folder), arguments.images, arguments.size)
        lines = [
            "# Loading textures",
            "",
            *describe_environment(),
            f"* Pillow {PIL.__version__} with zlib-ng {features.version_feature('zlib_ng')}, "
            f"torchvision {torchvision.__version__}, pyarrow {pa.__version__}",
            *measure_run(run, arguments.repeat),
        ]
    print("\n".join(lines))


if __name__ == "__main__":
    main()
