"""`texsynth manifest dtd|folder|demo`: make a manifest."""

import shlex
from pathlib import Path
from typing import Annotated, Literal

import pyarrow as pa
import pyarrow.compute as pc
from cyclopts import App, Parameter, validators

from pipeline.cli.places import local_only, output_place
from pipeline.manifest import (
    JOINT_LABELS,
    demo_manifest,
    dtd_manifest,
    folder_manifest,
    manifest_format,
    relocate_paths,
    write_manifest,
)
from pipeline.reading import OUTSIDE_FLAG, find_escape, leads_outside
from pipeline.storage import AnyPath, ObjectPath

ImageFolder = Annotated[Path, local_only("images are listed where they lie on a disk")]

app = App(
    name="manifest",
    help="Make a manifest: the list of textures that a run works through.",
    version_flags=[],
)


@app.command
def dtd(
    *,
    root: ImageFolder,
    out: Path,
    partition: Annotated[int, Parameter(validator=validators.Number(gte=1, lte=10))] = 1,
    split: Literal["train", "val", "test", "all"] = "all",
    download: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """List images of the Describable Textures Dataset.

    Args:
        root: Folder that torchvision's DTD takes; the images lie in ROOT/dtd/dtd/images.
        out: Manifest to write, a file or a URI: .parquet, or .csv, which has no column for the
            joint labels.
        partition: Which of DTD's ten partitions fills the column `split`.
        split: Which split of that partition to list.
        download: Fetch the data set (600 MB) if it is not there.
    """
    place = output_place(out)
    file_format = manifest_format(str(place))
    table = dtd_manifest(root, partition=partition, split=split, download=download)
    if file_format == "csv" and JOINT_LABELS in table.column_names:
        table = table.drop_columns([JOINT_LABELS])
        print(
            f"column {JOINT_LABELS} is left out: a CSV holds no lists; with --out .parquet it is in"
        )
    _write(table, root, place)


@app.command
def folder(directory: ImageFolder, /, *, out: Path) -> None:
    """List all images below a folder; the category is the first subfolder.

    Args:
        directory: Folder with images.
        out: Manifest to write, a file or a URI: .csv or .parquet.
    """
    place = output_place(out)
    manifest_format(str(place))
    _write(folder_manifest(directory), directory, place)


@app.command
def demo(*, out: Annotated[Path, local_only("images are written beside it")]) -> None:
    """Write six textures that come with scikit-image, and list them.

    Args:
        out: Manifest to write, .csv or .parquet; the images go to a folder beside it.
    """
    manifest_format(out)
    images = out.with_name(f"{out.stem}-images")
    _write(demo_manifest(images), images, out)


def _write(table: pa.Table, root: Path, out: AnyPath) -> None:
    """Write the table, relative to the manifest's folder if it can be, and say what to do next."""
    base, written = root, table
    if isinstance(out, Path) and (relocated := relocate_paths(table, root, out.parent)) is not None:
        base, written = out.parent, relocated
    write_manifest(written, out)
    categories = pc.count_distinct(table["category"]).as_py()
    noun = "category" if categories == 1 else "categories"
    broken = table["width"].null_count
    command = ["texsynth", "run", str(out), "--out", f"runs/{out.stem}"]
    if written is table:
        command += ["--root", str(root)]
    paths = written["path"].to_pylist()
    if any(find_escape(path, str(base)) or leads_outside(base / path, base) for path in paths):
        command += [OUTSIDE_FLAG]
    print(
        f"{table.num_rows} exemplars in {categories} {noun}"
        f"{f' ({broken} missing or broken)' if broken else ''} written to {out}; "
        f"next: {shlex.join(command)}"
    )
    if isinstance(out, ObjectPath):
        print(f"or copy what is in {root} to {out.parent}, and leave out --root")
