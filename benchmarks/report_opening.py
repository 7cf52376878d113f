"""How long a large report takes to write and to open: `python -m benchmarks.report_opening`.

Makes a run of as many exemplars as DTD has, two textures of each, with PNGs that are as large as
those of real textures; writes its report; and opens that from the disk in headless Chromium, whose
own clock says when the first page of the gallery stood.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import io
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import skimage.data
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from benchmarks.environment import describe_environment
from pipeline.report import write_report
from pipeline.report.measures import find_measures
from pipeline.resume import RunRecord, write_run_record
from pipeline.rundir import RunDirectory
from pipeline.schema import row_schema, rows_to_table
from pipeline.shards import commit_rows
from pipeline.storage import require_local

EXEMPLARS, VARIATIONS, CATEGORIES = 5640, 2, 47
PICTURES = 512
"""Different textures and sources; more would fill the disk and measure the same."""
EXEMPLARS_PER_SHARD = 64
POINTS = 64
"""Of a loss curve: as many as a row holds at most."""
CLOCK = """
const done = arguments[arguments.length - 1];
const entry = performance.getEntriesByType("navigation")[0];
requestAnimationFrame(() => setTimeout(() => done(
    [entry.domContentLoadedEventEnd, entry.loadEventEnd, document.querySelectorAll(".card").length]
)));
"""
SORT = """
const begun = performance.now();
document.querySelector("[name=sort]").value = "displacement_score";
refresh();
document.body.getBoundingClientRect();
return performance.now() - begun;
"""


def draw_picture(number: int, side: int) -> bytes:
    """A piece of a photograph, tinted: the PNG of a gray one would be three times smaller."""
    generator = np.random.default_rng(number)
    photograph = (skimage.data.brick, skimage.data.grass, skimage.data.gravel)[number % 3]()
    top, left = generator.integers(0, 512 - side, 2)
    piece = photograph[top : top + side, left : left + side, None] * generator.uniform(0.4, 1, 3)
    grain = generator.normal(0, 2, (side, side, 3))
    file = io.BytesIO()
    Image.fromarray(np.clip(piece + grain, 0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def make_run(folder: Path, exemplars: int, side: int) -> RunDirectory:
    """A run directory with two textures of each exemplar."""
    run = RunDirectory(folder / "run")
    run.create()
    images = folder / "images"
    images.mkdir()
    pictures = [draw_picture(number, side) for number in range(min(PICTURES, exemplars))]
    for number, png in enumerate(pictures):
        (images / f"{number}.png").write_bytes(png)
    write_run_record(run, make_record(images))
    for start in range(0, exemplars, EXEMPLARS_PER_SHARD):
        numbers = range(start, min(start + EXEMPLARS_PER_SHARD, exemplars))
        rows = [make_row(n, v, pictures, side) for n in numbers for v in range(VARIATIONS)]
        commit_rows(run, rows_to_table(rows, row_schema()))
    return run


def make_record(root: Path) -> RunRecord:
    """What `run.json` says of the run."""
    return RunRecord(
        config={},
        identity={},
        versions={},
        weights="imagenet",
        weights_sha256="0" * 64,
        manifest="dtd.csv",
        manifest_sha256="0" * 64,
        root=str(root),
        carried=pa.schema([]),
        created_at=datetime.datetime.now(datetime.UTC).isoformat(),
    )


def make_row(exemplar: int, variation: int, pictures: list[bytes], side: int) -> dict[str, Any]:
    """A row with every number that a report shows."""
    generator = np.random.default_rng([exemplar, variation])
    source = pictures[exemplar % len(pictures)]
    texture = pictures[(7 * exemplar + 3 * variation + 1) % len(pictures)]
    name = f"category_{exemplar % CATEGORIES:02d}_{exemplar:05d}"
    losses = np.geomspace(1e7, generator.lognormal(7, 1), POINTS)
    return {
        **{measure.name: generator.uniform() for measure in find_measures()},
        **{"task_id": f"{name}-c0-v{variation}", "exemplar_id": name, "crop": 0},
        **{"category": f"category_{exemplar % CATEGORIES:02d}", "variation": variation},
        **{"seed": 0, "attempts": 1, "status": "ok", "path": f"{exemplar % len(pictures)}.png"},
        **{"image": {"bytes": texture, "path": "x.png"}, "height": side, "width": side},
        **{"crop_left": 0, "crop_top": 0, "crop_side": side, "upscaled": False},
        **{"exemplar_sha256": hashlib.sha256(source).hexdigest(), "stop_reason": "budget"},
        **{"float_loss": losses[-1], "delivered_loss": 1.1 * losses[-1], "loss_threshold": 1500.0},
        **{"float_spectrum_loss": losses[-1] / 3, "delivered_spectrum_loss": losses[-1] / 2},
        **{"objective_loss": losses[-1], "evaluations": 500.0, "iterations": 420, "seconds": 60.0},
        **{"displacement_score": generator.beta(8, 2), "copy_displacement_threshold": 0.5},
        **{"layout_correlation": generator.normal(0, 0.25), "copy_layout_threshold": 0.8},
        **{"layout_correlation_shifted": generator.uniform(0, 1)},
        **{"chroma_noise": generator.gamma(1, 0.01), "exemplar_chroma_noise": 0.01},
        **{"out_of_range": generator.beta(1, 50), "preset": "default"},
        "loss_curve": [
            {"evaluations": 8.0 * k, "loss": float(loss), "side": 64 if k < 16 else side}
            for k, loss in enumerate(losses)
        ],
        **{"finished_at": datetime.datetime.now(datetime.UTC), "config_fingerprint": "0" * 16},
        **{"weights": "imagenet", "weights_sha256": "0" * 64, "device": "cuda"},
        **{"texsynth_version": "0", "torch_version": "0"},
    }


def measure_pictures(assets: Path) -> tuple[float, float]:
    """Mean sizes, kB: of a picture at full size, and of the difference of two spectra."""
    sizes: dict[str, list[int]] = {"RGB": [], "P": []}
    for path in assets.glob("*.png"):
        with Image.open(path) as image:
            sizes[image.mode].append(path.stat().st_size)
    return float(np.mean(sizes["RGB"]) / 1e3), float(np.mean(sizes["P"]) / 1e3)


def open_page(page: Path) -> tuple[float, float, float]:
    """Seconds until the gallery stood, until all was loaded, and to sort it by another measure."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in ("--headless=new", "--no-sandbox", "--window-size=1400,1000"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    try:
        browser.get(page.as_uri())
        ready, loaded, cards = browser.execute_async_script(CLOCK)
        assert cards, "the gallery is empty"
        return ready / 1e3, loaded / 1e3, browser.execute_script(SORT) / 1e3
    finally:
        browser.quit()


def main() -> None:
    """Print the times and sizes, as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exemplars", type=int, default=EXEMPLARS)
    parser.add_argument("--side", type=int, default=256, help="of the pictures, px")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    print("\n".join(describe_environment()) + "\n")
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder), arguments.exemplars, arguments.side)
        begun = time.monotonic()
        page = require_local(write_report(run), "the page")
        report = page.parent
        seconds = time.monotonic() - begun
        files = [path for path in report.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files) / 1e6
        (data,) = report.glob("*/data.js")
        print(f"rows: {VARIATIONS * arguments.exemplars:,}; written in {seconds:.0f} s:")
        print(f"{len(files):,} files, {size:.0f} MB, data.js {data.stat().st_size / 1e6:.1f} MB;")
        picture, spectrum = measure_pictures(data.parent)
        print(f"at full size {picture:.0f} kB, with exemplar and spectrum at most", end=" ")
        print(f"{2 * picture + spectrum:.0f} kB\n")
        print(f"| gallery stands, s | all loaded, s | sort, s |\n| {' | '.join(['---:'] * 3)} |")
        for _ in range(arguments.repeat):
            print("| " + " | ".join(f"{seconds:.2f}" for seconds in open_page(page)) + " |")


if __name__ == "__main__":
    main()
