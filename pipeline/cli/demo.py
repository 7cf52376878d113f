"""`texsynth demo`: the main job on textures that come with scikit-image."""

from pathlib import Path

from rich.console import Console

from pipeline.cli.run import print_outcome
from pipeline.config import RunConfig, load_config
from pipeline.manifest import demo_manifest, relocate_paths, write_manifest
from pipeline.report import write_report
from pipeline.resume import load_run_record
from pipeline.run import run_manifest
from pipeline.rundir import RunDirectory
from texsynth import WeightsError, load_network

DEMO_SIZE, DEMO_VARIATIONS, DEMO_EVALUATIONS = 128, 2, 250


def demo(*, out: Path = Path("runs/demo"), device: str | None = None) -> int:
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
    page = write_report(outcome.run).resolve()
    console.print(f"open in a browser: {page}", highlight=False, soft_wrap=True)
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
