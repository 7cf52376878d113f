"""A run's textures in the forms that others' loaders read; `texsynth export`.

The folder of an export, beside what its form makes:

    export.json     what it is of: run, selection, form; written first
    manifest.csv    a row for each texture, with the SHA-256 of its bytes; written last
    _tmp-export/    while it is not whole: which parts are, and what is being written; also all of
                    an export that will replace the one that is there (`pipeline.export.replacing`)

A part is a shard, or some hundreds of PNG files. It is written aside, put in place, and then noted
as whole. An export that is killed begins again with the first part that is not noted, and ends as
one that was never killed. PNG bytes are copied, never decoded. Order, names and shards follow from
the task ids alone, so that a finalize of the run in between changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.csv

from pipeline.committed import open_parquet
from pipeline.export.dtd import DTDLayout
from pipeline.export.form import Form, Part, Picture
from pipeline.export.huggingface import HuggingFaceDataset
from pipeline.export.loose import ImageFolder
from pipeline.export.manifest import MANIFEST, manifest_table
from pipeline.export.names import WORK
from pipeline.export.record import ExportError, hold_export
from pipeline.export.staging import staged
from pipeline.export.textures import Textures, load_textures
from pipeline.export.webdataset import TarShards
from pipeline.object_tree import list_names
from pipeline.rundir import RunDirectory, write_table_atomic
from pipeline.selection import Selection
from pipeline.storage import AnyPath, as_path, lies_in

__all__ = ["FORMS", "ExportError", "FormName", "export_run"]

FormName = Literal["folder", "webdataset", "hf", "dtd"]
FORMS: tuple[FormName, ...] = get_args(FormName)
SHARDED = ("webdataset", "hf")
SHARD_ROWS = 1024
"""As finalize makes its files: 130 MB with textures of 256 px."""
LAYOUT_VERSION = 2
"""Raised when the same textures make other files: then an unfinished export does not go on."""


def export_run(
    run: RunDirectory,
    form: FormName,
    out: AnyPath,
    selection: Selection,
    *,
    shard_rows: int | None = None,
    overwrite: bool = False,
) -> int:
    """Write textures of a run into a folder, or go on with that.

    Args:
        run: A run directory, finished or not.
        form: folder, webdataset, hf or dtd.
        out: The folder, or its URI: empty, missing, or with an export of the same.
        selection: Which textures.
        shard_rows: The most textures in a file, of webdataset and hf only; at least 1.
        overwrite: Replace another export in `out`, or a finished one of the same, once this one is
            whole. What else lies beside it is left.

    Returns:
        How many textures the export has.

    Raises:
        ExportError: Refused; nothing was changed.
        NotARunError: It is no run directory.
        SelectionError: No texture is chosen, the form cannot have these, a file of the run is
            damaged, or was changed meanwhile: then the same call goes on.
        OSError: The disk is full, or the like; the same call goes on.
    """
    if form not in FORMS:
        raise ExportError(f"form {form!r}: expected one of {', '.join(FORMS)}")
    if shard_rows is not None and (form not in SHARDED or shard_rows < 1):
        expected = f"at least 1, and a form of {', '.join(SHARDED)}"
        raise ExportError(f"shard_rows {shard_rows}, form {form}: expected {expected}")
    out = as_path(out)
    if lies_in(out, run.path):
        raise ExportError(f"'{out}' lies in the run '{run.path}': expected a folder outside of it")
    textures = load_textures(run, selection)
    rows = shard_rows or SHARD_ROWS
    layout = _make_form(form, textures, rows)
    record = _describe(form, textures, rows if form in SHARDED else None, layout)
    with hold_export(out, record, overwrite=overwrite) as folder:
        if folder is not None:
            _write(folder, textures, layout)
    return len(textures)


def _make_form(form: FormName, textures: Textures, shard_rows: int) -> Form:
    match form:
        case "folder":
            return ImageFolder(textures)
        case "webdataset":
            return TarShards(textures, shard_rows)
        case "hf":
            return HuggingFaceDataset(textures, shard_rows)
        case "dtd":
            return DTDLayout(textures)


def _describe(
    form: FormName, textures: Textures, shard_rows: int | None, layout: Form
) -> dict[str, Any]:
    """The content of `export.json`: equal where the files would be the same."""
    selection = asdict(textures.selection)
    if selection["categories"] is not None:
        # As it is read again.
        selection["categories"] = list(selection["categories"])
    return {
        "layout_version": LAYOUT_VERSION,
        "form": form,
        "fingerprints": textures.table["config_fingerprint"].unique().sort().to_pylist(),
        "selection": selection,
        "shard_rows": shard_rows,
        "textures": len(textures),
        "textures_digest": textures.digest(),
        "classes": list(textures.classes),
        "entries": layout.entries,
    }


def _write(out: AnyPath, textures: Textures, layout: Form) -> None:
    """Write the parts that are not whole, what the form has beside them, and the manifest."""
    digests = np.empty(len(textures), object)
    there = list_names(out)
    for index, part in enumerate(layout.parts):
        note = out / WORK / f"part-{index:06d}.parquet"
        if there.issuperset([f"{WORK}/{note.name}", *part.files]):
            with open_parquet(note) as file:
                digests[part.numbers] = file.read()["sha256"].to_pylist()
        else:
            written = _write_part(out, textures, layout, part)
            write_table_atomic(note, pa.table({"sha256": written}))
            digests[part.numbers] = written
    with staged(out) as staging:
        layout.finish(staging)
    table = manifest_table(textures, layout.paths, digests.tolist())
    with staged(out) as staging, staging.writing(MANIFEST) as path:
        pa.csv.write_csv(table, path)


def _write_part(out: AnyPath, textures: Textures, layout: Form, part: Part) -> list[str]:
    """Write a part; gives the SHA-256 of each of its textures."""
    digests = []

    def pictures() -> Iterator[Picture]:
        for number, png in textures.read(part.numbers):
            digests.append(hashlib.sha256(png).hexdigest())
            yield Picture(number, png, digests[-1])

    with staged(out) as staging:
        layout.write(part, pictures(), staging)
    return digests
