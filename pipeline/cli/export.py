"""`texsynth export RUN --to FORM --out DIR`: textures for others' loaders."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from pipeline.cli.places import output_place
from pipeline.export import FormName, export_run
from pipeline.rundir import RunDirectory
from pipeline.selection import Selection


def export(
    run: Path,
    /,
    *,
    to: FormName,
    out: Path,
    partition: Annotated[int, Parameter(validator=validators.Number(gte=1, lte=10))] | None = None,
    split: str | None = None,
    all_textures: Annotated[bool, Parameter(name="--all", negative="")] = False,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    shard_rows: Annotated[int, Parameter(validator=validators.Number(gte=1))] | None = None,
) -> None:
    """Write the accepted textures of a run for the loaders of others, each with its parent.

    The same command goes on where it was broken off. Labels are numbers of the run's categories in
    the order of the alphabet. See docs/augmentation.md.

    Args:
        run: Run directory, finished or not.
        to: folder: for torchvision's ImageFolder; webdataset: tar shards; hf: a Hugging Face data
            set with a card; dtd: for torchvision's DTD, in all partitions that the rows carry.
        out: Folder or URI, empty or not there.
        partition: Of DTD, 1 to 10, whose splits count; those of the column `split` without it.
        split: Only textures whose parents are in this split.
        all_textures: Textures that are not accepted, too.
        overwrite: Replace an earlier export in the folder, once this one is whole.
        shard_rows: The most textures in a shard or file of webdataset and hf, 1024 without it.
    """
    selection = Selection(partition=partition, split=split, accepted_only=not all_textures)
    place = output_place(out)
    rows = export_run(
        RunDirectory(run), to, place, selection, shard_rows=shard_rows, overwrite=overwrite
    )
    print(f"{place}: {rows} textures")
