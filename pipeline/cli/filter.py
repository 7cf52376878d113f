"""`texsynth filter RUN --out RUN2`: the part of a run that a partition allows."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, validators
from rich.console import Console

from pipeline.cli.places import output_place
from pipeline.dealt import load_dealt_manifest
from pipeline.filtering import filter_run, load_own_manifest
from pipeline.rundir import RunDirectory
from pipeline.terminal import visible
from pipeline.verify.checks import counted


def filter_(
    run: Path,
    /,
    *,
    out: Path,
    partition: Annotated[int | None, Parameter(validator=validators.Number(gte=1, lte=10))] = None,
    split: Literal["train", "val", "test"] = "train",
    against: Path | None = None,
    root: str | None = None,
    allow_outside_root: Annotated[bool, Parameter(negative="")] = False,
    accepted: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Write the textures that are safe in one partition as a run directory of their own.

    Their parents are in the split, and neither they nor a duplicate or near duplicate of them are
    in another one: leakcheck passes. The new directory is whole or not there, and takes no new
    rows; all commands that read a run work on it.

    Args:
        run: Run directory, finished or not; it is not changed.
        out: New run directory, a folder or a URI; nothing may be there.
        partition: Of DTD: its column split_N says the splits; default: the manifest's column split.
        split: Whose textures are taken.
        against: Manifest that has the splits; default: the run's own, where run.json says it is.
        root: Folder or URI that its paths are relative to; default: the run's, or the folder of
            `against`.
        allow_outside_root: Let the paths of `against` leave its root.
        accepted: Leave out textures with a fault.
    """
    place = output_place(out)
    if against is None:
        dealt = load_own_manifest(RunDirectory(run), root=root, partition=partition)
    else:
        dealt = load_dealt_manifest(
            against, root=root, partition=partition, allow_outside_root=allow_outside_root
        )
    with Console(stderr=True).status("reading images"):
        filtered = filter_run(RunDirectory(run), place, dealt, split=split, accepted_only=accepted)
    print(visible(f"{counted(filtered.kept, 'texture')} in {place}"))
    for reason, count in filtered.left_out.items():
        print(f"left out: {counted(count, 'row')} {reason}")
