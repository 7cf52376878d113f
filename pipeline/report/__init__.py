"""`report/index.html`: a page to look at what a run has made, worst textures first.

The folder opens from the disk, and nothing it shows comes from the network. Beside the page, which
holds summary, plots and the table of categories, lies one folder of assets: the script and style of
the page, the rows as `data.js`, thumbnails in sheets, pictures at full size. A report first
writes a new folder of assets, then puts the page that names it in place, then removes the old one:
a report that is broken off leaves the last one whole.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.committed import Scan, read_from_scan
from pipeline.report.data import report_script
from pipeline.report.exemplars import remake_exemplar
from pipeline.report.gallery import Gallery, build_gallery, order_worst_first
from pipeline.report.page import page_parts, read_resource
from pipeline.report.pictures import PictureWriter
from pipeline.resume import RunRecord, load_run_record
from pipeline.rundir import TEMPORARY_PREFIX, RunDirectory, atomic_path
from pipeline.storage import as_path, require_local

__all__ = ["DEFAULT_LIMIT", "ReportError", "order_worst_first", "remake_exemplar", "write_report"]

# A texture of 256 px with its exemplar and its spectrum takes 270 kB at most, and a folder with the
# thumbnails of 5,640 exemplars and two textures of each 85 MB
# (benchmarks/results/report_opening.md: `python -m benchmarks.report_opening`).
DEFAULT_LIMIT = 400
ASSETS_PREFIX = "assets-"
RESOURCES = ("report.css", "report.js")


class ReportError(ValueError):
    """A report cannot be made of this directory, or not as asked."""


def write_report(run: RunDirectory, *, limit: int = DEFAULT_LIMIT, out: Path | None = None) -> Path:
    """Write the report of a run, finished or not, from the rows committed so far.

    Exemplars are cut from their source files again, and are left blank, with the reason, where a
    file is not what it was.

    Args:
        run: The run directory.
        limit: How many textures are written at full size at most; at least 1. The worst are: by
            the highest delivered loss of their exemplar, a texture without a loss before all.
            Of all others there is a thumbnail.
        out: The folder of the report; `report/` in the run directory if not given.

    Returns:
        The path of the page.

    Raises:
        ReportError: The directory holds no run, another report of it is being written, or `limit`
            is out of range.
        RemotePathError: The run directory is a URI and no folder was given: a page opens from a
            disk.
        RunRecordError: `run.json` is damaged.
        OSError: The disk is full, or the like; an earlier report is still whole.
    """
    if limit < 1:
        raise ReportError(f"limit {limit}: expected at least 1")
    record = load_run_record(run)
    if record is None:
        raise ReportError(f"'{run.path}' is no run directory: it has no {run.run_json.name}")
    place = run.report if out is None else as_path(out)
    folder = require_local(place, "the report's folder (--out)")
    folder.mkdir(parents=out is not None, exist_ok=True)
    with _alone(folder):
        return _write(run, record, limit, folder)


def _write(run: RunDirectory, record: RunRecord, limit: int, folder: Path) -> Path:
    path = folder / "index.html"
    with _new_assets(folder) as assets:
        gallery = read_from_scan(run, lambda scan: _write_assets(scan, record, assets, limit))
        parts = page_parts(run, record, gallery, assets.name)
        with (
            atomic_path(path) as temporary,
            temporary.open("w", encoding="utf-8", errors="replace") as file,
        ):
            file.writelines(parts)
    return path


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
def _alone(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ReportError(f"'{folder}': another process writes this report") from error
    try:
        yield
    finally:
        lock.release()


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
