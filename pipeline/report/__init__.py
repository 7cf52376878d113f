"""`report/index.html`: a page to look at what a run has made, worst textures first.

The folder opens from the disk, and nothing it shows comes from the network. Beside the page, which
holds summary, plots and the table of categories, lies one folder of assets: the script and style of
the page, the rows as `data.js`, thumbnails in sheets, pictures at full size. A report first
writes a new folder of assets, then puts the page that names it in place, then removes the old one:
a report that is broken off leaves the last one whole. In an object store the same is done with what
was written to a temporary folder first.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.committed import Scan, read_from_scan
from pipeline.folder_lock import FolderBusyError, hold_folder
from pipeline.object_tree import remove_tree, upload_tree
from pipeline.report.data import report_script
from pipeline.report.exemplars import remake_exemplar
from pipeline.report.gallery import Gallery, build_gallery, order_worst_first
from pipeline.report.page import page_parts, read_resource
from pipeline.report.pictures import PictureWriter
from pipeline.resume import RunRecord, load_run_record
from pipeline.rundir import TEMPORARY_PREFIX, RunDirectory, atomic_path
from pipeline.storage import AnyPath, ObjectPath, as_path

__all__ = ["DEFAULT_LIMIT", "ReportError", "order_worst_first", "remake_exemplar", "write_report"]

# A texture of 256 px with its exemplar and its spectrum takes 270 kB at most, and a folder with the
# thumbnails of 5,640 exemplars and two textures of each 85 MB
# (benchmarks/results/report_opening.md: `python -m benchmarks.report_opening`).
DEFAULT_LIMIT = 400
ASSETS_PREFIX = "assets-"
PAGE = "index.html"
RESOURCES = ("report.css", "report.js")


class ReportError(ValueError):
    """A report cannot be made of this directory, or not as asked."""


def write_report(
    run: RunDirectory, *, limit: int = DEFAULT_LIMIT, out: AnyPath | None = None
) -> AnyPath:
    """Write the report of a run, finished or not, from the rows committed so far.

    Exemplars are cut from their source files again, and are left blank, with the reason, where a
    file is not what it was.

    Args:
        run: The run directory.
        limit: How many textures are written at full size at most; at least 1. The worst are: by
            the highest delivered loss of their exemplar, a texture without a loss before all.
            Of all others there is a thumbnail.
        out: The folder of the report, or its URI; `report/` in the run directory if not given.

    Returns:
        The path of the page.

    Raises:
        ReportError: The directory holds no run, another report of it is being written, or `limit`
            is out of range.
        RunRecordError: `run.json` is damaged.
        OSError: The disk is full, or the like; an earlier report is still whole.
    """
    if limit < 1:
        raise ReportError(f"limit {limit}: expected at least 1")
    record = load_run_record(run)
    if record is None:
        raise ReportError(f"'{run.path}' is no run directory: it has no {run.run_json.name}")
    place = run.report if out is None else as_path(out)
    try:
        with hold_folder(place, ".lock"):
            if isinstance(place, ObjectPath):
                _put(run, record, limit, place)
            else:
                _write(run, record, limit, place)
    except FolderBusyError as error:
        raise ReportError(f"'{place}': another process writes this report") from error
    return place / PAGE


def _put(run: RunDirectory, record: RunRecord, limit: int, place: ObjectPath) -> None:
    """Write a report to a temporary folder, put it, its page last, and remove earlier ones."""
    with tempfile.TemporaryDirectory(prefix="texsynth-") as folder:
        _write(run, record, limit, Path(folder))
        (assets,) = Path(folder).glob(f"{ASSETS_PREFIX}*")
        upload_tree(Path(folder), place, last=PAGE)
    for old in place.glob(f"{ASSETS_PREFIX}*"):
        if old.name != assets.name:
            remove_tree(old)


def _write(run: RunDirectory, record: RunRecord, limit: int, folder: Path) -> None:
    with _new_assets(folder) as assets:
        gallery = read_from_scan(run, lambda scan: _write_assets(scan, record, assets, limit))
        parts = page_parts(run, record, gallery, assets.name)
        with (
            atomic_path(folder / PAGE) as temporary,
            temporary.open("w", encoding="utf-8", errors="replace") as file,
        ):
            file.writelines(parts)


def _write_assets(scan: Scan, record: RunRecord, assets: Path, limit: int) -> Gallery:
    """Fill the folder of assets; from the beginning where an earlier reading was broken off."""
    shutil.rmtree(assets)
    assets.mkdir()
    gallery = build_gallery(scan, record, PictureWriter(assets), limit)
    script = report_script(gallery, assets.name)
    (assets / "data.js").write_text(script, encoding="utf-8")
    for name in RESOURCES:
        (assets / name).write_text(read_resource(name), encoding="utf-8")
    return gallery


@contextmanager
def _new_assets(report: Path) -> Iterator[Path]:
    """A new folder: at the end it replaces those of earlier reports, after an error it is gone."""
    assets = report / f"{ASSETS_PREFIX}{secrets.token_hex(4)}"
    assets.mkdir()
    try:
        yield assets
    except BaseException:
        shutil.rmtree(assets, ignore_errors=True)
        raise
    for old in report.glob(f"{ASSETS_PREFIX}*"):
        if old != assets:
            shutil.rmtree(old)
    for unfinished in report.glob(f"{TEMPORARY_PREFIX}*"):
        unfinished.unlink()
