"""`report/index.html`: a contact sheet of a run on one page, worst textures first.

The page holds its pictures in itself: it opens from the disk, and nothing it shows is fetched.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from pipeline.committed import FileProblem, Scan, read_from_scan, read_rows
from pipeline.crops import cut_square
from pipeline.histogram import losses_svg
from pipeline.reading import read_image_bytes
from pipeline.report_text import (
    describe_flags,
    describe_losses,
    describe_threshold,
    format_number,
    summarise,
)
from pipeline.resume import RunRecord, load_run_record
from pipeline.rundir import RunDirectory, atomic_path
from texsynth.decoding import DEFAULT_MAX_PIXELS, ImageError, load_image

# Textures of 256 px and their exemplars take 250 to 400 KB of the page: about 100 MB in all.
DEFAULT_LIMIT = 300
COLUMNS = (
    *("task_id", "exemplar_id", "category", "crop", "variation", "attempts", "status"),
    *("error_type", "error", "height", "width", "path", "exemplar_sha256"),
    *("crop_left", "crop_top", "crop_side", "upscaled"),
    *("float_loss", "delivered_loss", "loss_threshold", "below_threshold"),
    *("delivered_below_threshold", "evaluations", "stop_reason", "seconds"),
    *("displacement_score", "layout_correlation", "layout_correlation_shifted", "copy"),
    *("out_of_range", "preset", "texsynth_version", "torch_version", "device"),
)


class ReportError(ValueError):
    """A report cannot be made of this directory, or not as asked."""


@dataclass(frozen=True)
class Rows:
    """What the page is made of, read at one moment.

    Attributes:
        all: One row per task, without its image.
        shown: The ok rows that are shown, in the order of the page.
        pngs: Images of the rows shown, by task id.
        problems: Files that could not be read.
    """

    all: pd.DataFrame
    shown: pd.DataFrame
    pngs: dict[str, bytes]
    problems: tuple[FileProblem, ...]


@dataclass(frozen=True)
class Exemplar:
    """A crop and the textures made from it.

    Attributes:
        first: Any row of it.
        rows: Its rows, worst first, each with its `image` as a data URI.
        image: The crop as a data URI; None where it cannot be made again.
        problem: Why there is no image.
    """

    first: dict[str, Any]
    rows: list[dict[str, Any]]
    image: str | None
    problem: str


def write_report(run: RunDirectory, *, limit: int = DEFAULT_LIMIT) -> Path:
    """Write the contact sheet of a run, finished or not, from the rows committed so far.

    Exemplars come in the order of their highest delivered loss, their textures likewise; a texture
    without a loss counts as the worst. Exemplars are cut from their source files again, and are
    left blank, with the reason, where a file is not what it was.

    Args:
        run: The run directory.
        limit: How many textures, and how many failed rows, are shown at most; at least 1.

    Returns:
        The path of the page.

    Raises:
        ReportError: The directory holds no run, or `limit` is out of range.
        RunRecordError: `run.json` is damaged.
    """
    if limit < 1:
        raise ReportError(f"limit {limit}: expected at least 1")
    record = load_run_record(run)
    if record is None:
        raise ReportError(f"'{run.path}' is no run directory: it has no {run.run_json.name}")
    rows = read_from_scan(run, lambda scan: _read(scan, limit))
    page = _template().generate(**_page_values(run, record, rows, limit))
    run.report.mkdir(exist_ok=True)
    path = run.report / "index.html"
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(page)
    return path


def order_worst_first(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows by the highest delivered loss of their exemplar and crop, then by their own."""
    loss = rows["delivered_loss"].fillna(float("inf"))
    worst = loss.groupby([rows["exemplar_id"], rows["crop"]]).transform("max")
    keys = {"worst": False, "exemplar_id": True, "crop": True, "loss": False, "variation": True}
    ordered = rows.assign(worst=worst, loss=loss).sort_values(
        list(keys), ascending=list(keys.values())
    )
    return ordered.drop(columns=["worst", "loss"])


def remake_exemplar(
    row: dict[str, Any],
    root: str,
    *,
    allow_outside_root: bool = False,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> bytes:
    """The exemplar of a row as PNG, cut again from its source file.

    Args:
        row: Of the run's metrics.
        root: Of the paths, as in `run.json`.
        allow_outside_root: Whether the run took paths that leave the root.
        max_pixels: Of a source that the run took.

    Raises:
        ImageError: The file is missing, cannot be read, or is not the one that the row was made
            from; or the row does not say what was cut.
    """
    box = [row[name] for name in ("crop_left", "crop_top", "crop_side", "width")]
    if any(value is None for value in box):
        raise ImageError("the row does not say what was cut")
    data = read_image_bytes(
        row["path"], root, allow_outside_root=allow_outside_root, max_pixels=max_pixels
    )
    if hashlib.sha256(data).hexdigest() != row["exemplar_sha256"]:
        raise ImageError("the source file has changed since the run")
    left, top, side, size = map(int, box)
    file = io.BytesIO()
    image = load_image(data, max_pixels=max_pixels)
    cut_square(image, left, top, side, size).save(file, "PNG")
    return file.getvalue()


def _read(scan: Scan, limit: int) -> Rows:
    frame: pd.DataFrame = read_rows(scan, scan.winners, COLUMNS).to_pandas()
    shown = order_worst_first(frame[frame["status"] == "ok"]).head(limit)
    wanted = pa.array(shown["task_id"], pa.string())
    located = scan.winners.filter(pc.is_in(scan.winners["task_id"], wanted))
    images = read_rows(scan, located, ["task_id", "image"])
    bytes_of_image = pc.struct_field(images["image"], "bytes").to_pylist()
    pngs = dict(zip(images["task_id"].to_pylist(), bytes_of_image, strict=True))
    return Rows(frame, shown, pngs, scan.problems)


def _page_values(run: RunDirectory, record: RunRecord, rows: Rows, limit: int) -> dict[str, Any]:
    ok = rows.all[rows.all["status"] == "ok"]
    failed = rows.all[rows.all["status"] != "ok"]
    thresholds = ok["loss_threshold"].dropna().unique()
    losses = {kind: ok[f"{kind}_loss"].to_numpy(float) for kind in ("delivered", "float")}
    histogram = losses_svg(losses, float(thresholds[0]) if len(thresholds) == 1 else None)
    return {
        "name": run.path.resolve().name,
        "finished": run.success.exists(),
        "summary": summarise(record, rows.all),
        "threshold": describe_threshold(record, ok),
        "histogram": Markup(histogram),  # noqa: S704 - drawn from numbers only
        "losses": describe_losses(ok),
        "exemplars": _exemplars(rows, record),
        "several_crops": bool((rows.all["crop"] > 0).any()),
        "textures": len(ok),
        "failed": _records(failed.head(limit)),
        "failures": len(failed),
        "left_out": len(ok) - len(rows.shown),
        "problems": rows.problems,
    }


def _exemplars(rows: Rows, record: RunRecord) -> Iterator[Exemplar]:
    outside = record.config.get("allow_outside_root") is True
    for _, group in rows.shown.groupby(["exemplar_id", "crop"], sort=False):
        textures = _records(group)
        for row in textures:
            row["image"] = _data_uri(rows.pngs[row["task_id"]])
        image, problem = None, ""
        try:
            png = remake_exemplar(textures[0], record.root, allow_outside_root=outside)
            image = _data_uri(png)
        except ImageError as error:
            problem = str(error)
        yield Exemplar(textures[0], textures, image, problem)


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries in which every null is None."""
    records = frame.to_dict("records")
    return [{str(k): None if pd.isna(v) else v for k, v in record.items()} for record in records]


def _data_uri(png: bytes | None) -> str | None:
    return None if png is None else f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = format_number
    environment.globals["describe_flags"] = describe_flags
    return environment.get_template("report.html.j2")
