"""What the report says of a run in words and numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.resume import RunRecord
from texsynth.config import REFERENCE_SIDE, REFERENCE_THRESHOLD


def format_number(value: float | None, digits: int = 4) -> str:
    """A number as people read it: `12,345`, `0.8312`, or a dash for none."""
    if value is None or math.isnan(value):
        return "-"
    if math.isinf(value) or abs(value) >= 1e12:
        return f"{value:.{digits - 1}g}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.{digits}g}"


def summarise(record: RunRecord, rows: pd.DataFrame) -> list[tuple[str, str]]:
    """Names and values of what a run is and has done."""
    ok = rows[rows["status"] == "ok"]
    counts = rows["status"].value_counts()
    seconds = float(rows["seconds"].sum())
    versions = {**record.versions, **_versions(rows)}
    pairs = [
        ("weights", f"{record.weights} (sha256 {record.weights_sha256[:12]})"),
        ("preset", _join(rows["preset"])),
        ("size", describe_sizes(ok)),
        ("exemplars", f"{rows['exemplar_id'].nunique():,}"),
        ("textures", f"{len(ok):,} ok"),
        ("failures", ", ".join(f"{n:,} {s}" for s, n in counts.items() if s != "ok") or "none"),
        ("evaluations", f"{format_number(float(rows['evaluations'].sum()))} at full size"),
        ("time in tasks", f"{format_number(seconds)} s" if seconds else ""),
        ("device", _join(rows["device"])),
        ("versions", ", ".join(f"{name} {v}" for name, v in sorted(versions.items()))),
        ("manifest", record.manifest),
        ("configuration", record.fingerprint),
        ("begun", record.created_at),
    ]
    return [(name, value) for name, value in pairs if value]


def describe_sizes(rows: pd.DataFrame) -> str:
    """The sizes of textures, as `128 x 128 px`."""
    sizes = rows[["width", "height"]].dropna().drop_duplicates().astype(int)
    return ", ".join(f"{width} x {height} px" for width, height in sizes.itertuples(index=False))


def describe_threshold(record: RunRecord, ok: pd.DataFrame) -> str:
    """Whether losses are held against a threshold, with what result; if not, why not."""
    rated = ok.dropna(subset=["loss_threshold"])
    if rated.empty:
        made = f"weights {record.weights}"
        sizes = describe_sizes(ok)
        return (
            f"No loss threshold applies. The published one, {REFERENCE_THRESHOLD:g}, belongs to the"
            f" reference loss with weights imagenet at {REFERENCE_SIDE} px; this run has {made}"
            f"{f' at {sizes}' if sizes else ''}. Losses of other weights, sizes or taps cannot be"
            " compared with it."
        )
    threshold = " or ".join(f"{value:g}" for value in sorted(rated["loss_threshold"].unique()))
    below = {
        kind: int((rated[name] == True).sum())  # noqa: E712 - null counts as not below
        for kind, name in (("float", "below_threshold"), ("stored", "delivered_below_threshold"))
    }
    return (
        f"Losses below {threshold} count as good: {below['float']:,} of {len(rated):,} textures by"
        f" the float image, {below['stored']:,} by the image that is stored."
    )


def describe_losses(ok: pd.DataFrame) -> str:
    """Smallest, median and largest loss of each kind, for those who do not see the histogram."""
    sentences = []
    for kind in ("delivered", "float"):
        losses = ok[f"{kind}_loss"].to_numpy(float)
        finite = losses[np.isfinite(losses)]
        if finite.size:
            sentence = f"{kind.capitalize()} loss: {describe_range(finite)}"
            missing = losses.size - finite.size
            sentences.append(sentence + (f"; {missing:,} without one." if missing else "."))
    return " ".join(sentences) or "There are no losses yet."


def describe_range(values: NDArray[np.float64]) -> str:
    """`3.1 to 18, median 4.2`; a dash for no values."""
    if not values.size:
        return "-"
    low, middle, high = map(format_number, np.quantile(values, [0, 0.5, 1]))
    return f"{low} to {high}, median {middle}"


def _versions(rows: pd.DataFrame) -> dict[str, str]:
    names = {name: _join(rows[f"{name}_version"]) for name in ("texsynth", "torch")}
    return {name: version for name, version in names.items() if version}


def _join(values: pd.Series[Any]) -> str:
    return ", ".join(sorted(map(str, values.dropna().unique())))
