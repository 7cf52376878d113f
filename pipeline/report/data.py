"""The rows of a report as one script file: `file://` pages may load scripts, but no JSON.

The file assigns one object to `texsynthReport`. It holds lists, one per column, and numbers of 7
digits: 5,640 exemplars with two textures each take 9 MB (`python -m benchmarks.report_opening`).
"""

from __future__ import annotations

import json
import math
from typing import Any

import pandas as pd

from pipeline.columns import STATUSES
from pipeline.report.gallery import Gallery, to_records
from pipeline.report.measures import Flag, Measure
from pipeline.report.pictures import TILE_SIDE, TILES_PER_SIDE

DIGITS = 7
FLAG_CODES = {True: 1, False: 0, None: -1}


def report_script(gallery: Gallery, pictures: str) -> str:
    """The text of the script file.

    Args:
        gallery: Rows, exemplars and their pictures.
        pictures: Path of the folder of pictures, as the page sees it.
    """
    values = {
        "pictures": pictures,
        "tileSide": TILE_SIDE,
        "tilesPerSide": TILES_PER_SIDE,
        "statuses": STATUSES,
        "measures": [_measure(measure) for measure in gallery.measures],
        "flags": [_flag(flag) for flag in gallery.flags],
        "exemplars": _exemplars(gallery),
        "rows": _rows(gallery),
        "curves": {row: _curve(points) for row, points in gallery.curves.items()},
    }
    text = json.dumps(values, separators=(",", ":"), allow_nan=False)
    # A string that is parsed is several times faster than a literal of this size.
    return f"const texsynthReport = JSON.parse({json.dumps(text)});\n"


def _measure(measure: Measure) -> dict[str, Any]:
    return {
        "name": measure.name,
        "label": measure.label,
        "description": measure.description,
        "lowIsWorst": measure.low_is_worst,
    }


def _flag(flag: Flag) -> dict[str, Any]:
    return {
        "name": flag.name,
        "goodNews": flag.good_news,
        "words": flag.words,
        "description": flag.description,
    }


def _exemplars(gallery: Gallery) -> dict[str, list[Any]]:
    firsts = [exemplar.first for exemplar in gallery.exemplars]
    columns = {name: [first[name] for first in firsts] for name in ("exemplar_id", "path")}
    return {
        **columns,
        "crop": [int(first["crop"]) for first in firsts],
        "category": [first["category"] for first in firsts],
        **{
            name: [getattr(exemplar, name) for exemplar in gallery.exemplars]
            for name in ("tile", "full", "problem")
        },
    }


def _rows(gallery: Gallery) -> dict[str, Any]:
    rows = gallery.rows
    records = to_records(rows)
    return {
        "task": rows["task_id"].tolist(),
        "exemplar": rows["exemplar"].tolist(),
        "variation": rows["variation"].tolist(),
        "blend": {
            number: _describe_partner(record)
            for number, record in enumerate(records)
            if record["blend_exemplar_id"] is not None
        },
        "attempts": rows["attempts"].tolist(),
        "status": [STATUSES.index(status) for status in rows["status"]],
        "side": [record["width"] and int(record["width"]) for record in records],
        "stopReason": [record["stop_reason"] for record in records],
        "error": {
            number: ": ".join(filter(None, (record["error_type"], record["error"])))
            for number, record in enumerate(records)
            if record["error_type"] or record["error"]
        },
        **{
            name: [getattr(texture, name) for texture in gallery.textures]
            for name in ("tile", "full", "spectrum")
        },
        "measures": {
            measure.name: round_numbers(rows[measure.name]) for measure in gallery.measures
        },
        "flags": {
            flag.name: [FLAG_CODES[record[flag.name]] for record in records]
            for flag in gallery.flags
        },
        "flagged": rows["flagged"].astype(int).tolist(),
        "reasons": gallery.reasons,
    }


def _describe_partner(record: dict[str, Any]) -> str:
    """The partner in a blend, as `42 % of b-1 (banded)`."""
    category = record["blend_category"]
    kind = "" if category is None else f" ({category})"
    return f"{100 * record['blend_weight']:.0f} % of {record['blend_exemplar_id']}{kind}"


def round_numbers(values: pd.Series[Any]) -> list[float | None]:
    """Numbers to 7 digits; None for those that are not finite."""
    numbers = values.astype(float).tolist()
    return [float(f"{x:.{DIGITS}g}") if math.isfinite(x) else None for x in numbers]


def _curve(points: list[dict[str, float]]) -> dict[str, list[float | None]]:
    frame = pd.DataFrame(points)
    return {name: round_numbers(frame[name]) for name in ("evaluations", "loss", "side")}
