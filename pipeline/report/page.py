"""The page of a report: its template filled in."""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterable
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup

from pipeline.failures import Failures
from pipeline.report.categories import tabulate_categories
from pipeline.report.gallery import Gallery, order_worst_first, to_records
from pipeline.report.measures import Measure
from pipeline.report.plots import WORST_COLOURS, curves_svg, losses_svg, measure_svg
from pipeline.report.text import (
    describe_losses,
    describe_range,
    describe_threshold,
    format_number,
    summarise,
)
from pipeline.resume import RunRecord
from pipeline.rundir import RunDirectory

DRAWN_CURVES = 60
"""More are a gray block."""
LOSSES = ("delivered_loss", "float_loss")
"""Are drawn in one histogram."""


def page_parts(
    run: RunDirectory, record: RunRecord, gallery: Gallery, assets: str
) -> Iterable[str]:
    """The text of the page, piece by piece.

    Args:
        run: The run directory.
        record: Its `run.json`.
        gallery: Its rows.
        assets: Name of the folder of assets beside the page.
    """
    rows, measures = gallery.rows, gallery.measures
    judging = tuple(flag for flag in gallery.flags if flag.good_news is not None)
    ok = rows[rows["status"] == "ok"]
    failed = rows[rows["status"] != "ok"]
    failures = Failures(rows=tuple(to_records(failed)), problems=gallery.problems)
    losses = {name.removesuffix("_loss"): ok[name].to_numpy(float) for name in LOSSES}
    at_full_size = sum(bool(texture.full) for texture in gallery.textures)
    return _template().generate(
        name=run.path.resolve().name,
        assets=assets,
        finished=run.success.exists(),
        summary=summarise(record, rows),
        threshold=describe_threshold(record, ok),
        histogram=_drawn(losses_svg(losses, _only_threshold(ok, "loss_threshold"))),
        losses=describe_losses(ok),
        histograms=[_histogram(ok, m) for m in measures if m.name not in LOSSES],
        **_curves(gallery),
        measures=measures,
        flags=judging,
        categories=tabulate_categories(rows, measures, judging),
        statuses=sorted(rows["status"].unique()),
        textures=sum(texture.tile >= 0 for texture in gallery.textures),
        at_full_size=at_full_size,
        failures=failures.group(),
        failed=len(failed),
        problems=gallery.problems,
    )


def read_resource(name: str) -> str:
    """The text of a file beside the template."""
    folder = importlib.resources.files("pipeline") / "templates"
    return (folder / name).read_text(encoding="utf-8")


def _curves(gallery: Gallery) -> dict[str, Any]:
    """The loss curves of the worst textures, and the names of those that stand out."""
    ordered = order_worst_first(gallery.rows.loc[list(gallery.curves)])
    worst = ordered.index[:DRAWN_CURVES].tolist()
    svg = curves_svg([gallery.curves[row] for row in worst])
    named = gallery.rows["task_id"].loc[worst[: len(WORST_COLOURS)]].tolist()
    return {"curves": _drawn(svg), "curve_tasks": named, "curve_count": len(worst)}


def _histogram(ok: pd.DataFrame, measure: Measure) -> dict[str, Any]:
    values = ok[measure.name].to_numpy(float)
    threshold = measure.threshold
    if isinstance(threshold, str):
        threshold = _only_threshold(ok, threshold)
    return {
        "measure": measure,
        "svg": _drawn(measure_svg(values, threshold)),
        "range": describe_range(values[np.isfinite(values)]),
        "threshold": threshold,
    }


def _only_threshold(ok: pd.DataFrame, name: str) -> float | None:
    """The threshold that all rows share; None if there is none, several, or no such column."""
    thresholds = set(ok[name].dropna()) if name in ok else set()
    return float(thresholds.pop()) if len(thresholds) == 1 else None


def _drawn(svg: str) -> Markup:
    return Markup(svg)  # noqa: S704 - drawn from numbers only


def _visible(value: Any) -> Any:
    """HTML has no character for the null byte."""
    return value.replace("\0", "\N{SYMBOL FOR NULL}") if type(value) is str else value


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline"),
        autoescape=True,
        finalize=_visible,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = format_number
    return environment.get_template("report.html.j2")
