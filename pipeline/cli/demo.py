"""`texsynth demo`: the main job on textures that come with scikit-image."""

import io
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from PIL import Image
from rich.console import Console

from pipeline.cli.places import local_only
from pipeline.cli.run import print_outcome
from pipeline.config import RunConfig
from pipeline.config_file import load_config
from pipeline.manifest import demo_manifest, relocate_paths, write_manifest
from pipeline.query import load_images, load_metrics
from pipeline.report import remake_exemplar, write_report
from pipeline.resume import load_run_record
from pipeline.run import run_manifest
from pipeline.rundir import RunDirectory
from pipeline.storage import require_local
from texsynth import WeightsError, load_network

DEMO_SIZE, DEMO_VARIATIONS, DEMO_EVALUATIONS = 128, 2, 200
SHEET_GAP = 4
"""Between the pictures on the sheet, px."""


def demo(
    *,
    out: Annotated[Path, local_only("images are written beside it")] = Path("runs/demo"),
    device: str | None = None,
) -> int:
    """Run the whole job on textures that come with scikit-image; say where the pictures are.

    Args:
        out: Run directory; the manifest and its images go beside it.
        device: cpu or cuda; default: cuda where there is one.
    """
    console = Console()
    weights = _choose_weights(out, console)
    manifest = out.with_name(f"{out.name}-manifest.csv")
    images = out.with_name(f"{out.name}-images")
    if not manifest.is_file():
        table = relocate_paths(demo_manifest(images), images, manifest.parent)
        write_manifest(table, manifest)
    options = RunConfig(
        weights=weights,
        size=DEMO_SIZE,
        variations=DEMO_VARIATIONS,
        evaluations=DEMO_EVALUATIONS,
        device=device,
    )
    outcome = run_manifest(manifest, out, load_config(options), console)
    code = print_outcome(outcome, console)
    page = require_local(write_report(outcome.run), "the page").resolve()
    sheet = _write_sheet(outcome.run, page.with_name("sheet.jpg"))
    for what, path in (("all on one sheet", sheet), ("open in a browser", page)):
        console.print(f"{what}: {path}", highlight=False, soft_wrap=True)
    return code


def _choose_weights(out: Path, console: Console) -> str:
    """What the directory was begun with; else `imagenet` if it can be had, else `hed`."""
    record = load_run_record(RunDirectory(out))
    if record is not None:
        return record.weights
    try:
        load_network("imagenet")
    except WeightsError as error:
        console.print(
            f"weights 'imagenet' cannot be had here ({error.__cause__ or error}); taking 'hed', "
            "the VGG16 trunk of HED, instead: losses are not comparable with published ones",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        return "hed"
    console.print("weights: imagenet")
    return "imagenet"


def _write_sheet(run: RunDirectory, path: Path) -> Path:
    """A picture with a column per exemplar: itself, then its textures."""
    record = load_run_record(run)
    rows = load_metrics(run)
    rows = rows[rows["status"] == "ok"].sort_values(["exemplar_id", "variation"])
    textures = load_images(run, list(rows["task_id"]))
    root = record.root if record else ""
    columns = [
        [Image.open(io.BytesIO(remake_exemplar(_first_row(group), root)))]
        + [textures[task_id] for task_id in group["task_id"]]
        for _, group in rows.groupby("exemplar_id")
    ]
    step = DEMO_SIZE + SHEET_GAP
    tallest = max((len(column) for column in columns), default=0)
    sheet = Image.new("RGB", (len(columns) * step, tallest * step), "white")
    for x, column in enumerate(columns):
        for y, image in enumerate(column):
            sheet.paste(image, (x * step, y * step))
    sheet.save(path, quality=90)
    return path


def _first_row(rows: pd.DataFrame) -> dict[str, Any]:
    return {str(name): value for name, value in rows.iloc[0].items()}
