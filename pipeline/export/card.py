"""The text of a Hugging Face card: what the textures are, what made them, how good they are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow.compute as pc

from pipeline.export.textures import MADE_BY, MEASURES, Textures

DERIVED = (
    "Every texture is derived from one source image, its parent, and comes under the licence of"
    " that image: look it up before you publish or train. The Describable Textures Dataset, for"
    " one, is for research only."
)
LEAKS = (
    "A texture shows what its parent shows. It belongs to its parent's split, in every partition of"
    " the source: do not train on textures whose parents you test on (`parent_id`,"
    " `parent_sha256`)."
)


def card_text(textures: Textures, rows_of_split: Mapping[str, int]) -> str:
    """The card below its head, Markdown.

    Args:
        textures: What is exported.
        rows_of_split: Number of textures by split.
    """
    parents = pc.count_distinct(textures.table["exemplar_id"]).as_py()
    kind = "accepted textures" if textures.selection.accepted_only else "textures"
    lines = [
        "# Synthetic textures",
        "",
        f"{len(textures)} {kind} in {len(set(textures.labels))} categories, synthesised from"
        f" {parents} photographs by texsynth. The PNG bytes are those of the run.",
        "",
        "## Sources and licence",
        "",
        DERIVED,
        "",
        LEAKS,
        "",
        "## What made them",
        "",
        "| what | value |",
        "| --- | --- |",
        *(f"| {name} | {_values(textures, name)} |" for name in MADE_BY),
        "",
        "## Counts",
        "",
        "| split | textures |",
        "| --- | --- |",
        *(f"| {name} | {rows} |" for name, rows in rows_of_split.items()),
        "",
        "## Measures",
        "",
        "Medians over the textures here; null where no texture has the number.",
        "",
        "| measure | median |",
        "| --- | --- |",
        *(f"| {name} | {_median(textures, name)} |" for name in MEASURES),
    ]
    return "\n".join(lines) + "\n"


def _values(textures: Textures, name: str) -> str:
    values = sorted(textures.table[name].drop_null().unique().to_pylist())
    return ", ".join(f"`{_cell(value)}`" for value in values) or "not known"


def _median(textures: Textures, name: str) -> str:
    values = textures.table[name].drop_null().to_numpy()
    return f"{np.median(values):.4g}" if len(values) else "null"


def _cell(text: str) -> str:
    """Text that ends neither a cell nor its code."""
    return text.replace("|", "/").replace("`", "'").replace("\n", " ")
