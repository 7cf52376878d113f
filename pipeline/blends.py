"""Blends: further tasks of a run, each of an exemplar and a partner that is drawn for it.

A partner is another exemplar of the same split, so that a blend is in the split of both of its
parents. Which one, and its weight, follow from the run's seed and the task's id, and from the rows
that the manifest has for this split; a `limit` leaves both as they are. The exemplar has at least
half of the weight: its category is the blend's hard label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from pipeline.manifest.checks import SPLIT_COLUMNS
from pipeline.manifest.sources import JOINT_LABELS
from pipeline.tasks import expand_tasks, task_seed
from texsynth.blend import Blend
from texsynth.config import ConfigError
from texsynth.images import image_to_tensor

BlendCategories = Literal["any", "same", "other"]

WEIGHTS = (0.3, 0.5)
"""Of the partner: with less, a blend is hardly told from a texture of its exemplar alone."""
WEIGHT_DIGITS = 4

Numbers = NDArray[np.int64]


def expand_blends(
    exemplars: pa.Table,
    allowed: pa.Table,
    *,
    crops: int,
    blends: int,
    seed: int,
    categories: BlendCategories = "any",
) -> pa.Table:
    """One row per blend, as `expand_tasks` gives textures of one exemplar.

    Args:
        exemplars: rows of a manifest, the first of `allowed`.
        allowed: all rows that partners may be drawn of.
        crops: of each exemplar.
        blends: of each crop, numbered from 0 as variations are; at least 1.
        seed: the run's.
        categories: of the partner: any, the exemplar's, or another one.

    Returns:
        The columns of `expand_tasks`, with a partner in each row. Splits of a partition
        are null where the two parents are in different ones, joint labels are those of both, and
        all else that is carried along is the first one's.

    Raises:
        ConfigError: if an exemplar has no partner, or categories are asked for and not known.
    """
    tasks = expand_tasks(exemplars, crops=crops, variations=blends, seed=seed, mark="b")
    ids = tasks["task_id"].to_pylist()
    own = np.repeat(np.arange(len(exemplars)), crops * blends)
    draws = np.array([task_seed(seed, f"{task_id}:partner") for task_id in ids], np.int64)
    partners = allowed.take(pa.array(_draw_partners(allowed, own, draws, categories)))
    nulls = pa.nulls(len(ids), pa.string())
    claims = partners["sha256"] if "sha256" in partners.column_names else nulls
    values = {
        "blend_exemplar_id": partners["exemplar_id"],
        "blend_path": partners["path"],
        "blend_category": partners["category"] if "category" in partners.column_names else nulls,
        "blend_exemplar_sha256": claims,
        "blend_weight": pa.array([_draw_weight(seed, task_id) for task_id in ids], pa.float64()),
    }
    for name in SPLIT_COLUMNS:
        if name in tasks.column_names:
            alike = pc.equal(tasks[name], partners[name])
            values[name] = pc.if_else(alike, tasks[name], pa.scalar(None, pa.string()))
    if JOINT_LABELS in tasks.column_names:
        values[JOINT_LABELS] = _join_labels(tasks[JOINT_LABELS], partners[JOINT_LABELS])
    for name, column in values.items():
        place = tasks.schema.get_field_index(name)
        tasks = tasks.set_column(place, tasks.schema.field(place), column)
    return tasks


def load_blend(task: Mapping[str, Any], size: int) -> Blend | None:
    """The partner of a prepared task, of one lane; None if it is no blend.

    Args:
        task: with the pixels of its partner, size x size x 3 bytes.
        size: of the exemplars, px.
    """
    if task.get("blend_pixels") is None:
        return None
    pixels = np.frombuffer(task["blend_pixels"], np.uint8).reshape(size, size, 3)
    return make_blend(pixels, task["blend_weight"])


def make_blend(pixels: NDArray[np.uint8], weight: float) -> Blend:
    """A partner [H, W, 3] of this weight, of one lane."""
    return Blend(image_to_tensor(pixels)[None], torch.tensor([weight]))


def blend_arguments(exemplars: torch.Tensor, blends: Sequence[Blend | None]) -> dict[str, Any]:
    """What `prepare_synthesis` is told of the blends of some exemplars [B, 3, H, W]."""
    if not any(blends):
        return {}
    pairs = list(zip(exemplars, blends, strict=True))
    return {
        "blend_with": torch.stack([blend.partners[0] if blend else own for own, blend in pairs]),
        "blend_weights": [float(blend.weights) if blend else 0.0 for blend in blends],
    }


def soft_labels(task: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The categories of a texture with their weights, which sum to 1; None without a category."""
    weight = task.get("blend_weight") or 0.0
    if task.get("category") is None or (weight and task["blend_category"] is None):
        return None
    weights = {task["category"]: 1 - weight if task.get("blend_category") else 1.0}
    if weight:
        weights[task["blend_category"]] = weights.get(task["blend_category"], 0.0) + weight
    return [
        {"category": name, "weight": round(share, WEIGHT_DIGITS)} for name, share in weights.items()
    ]


def _draw_weight(seed: int, task_id: str) -> float:
    low, high = WEIGHTS
    share = task_seed(seed, f"{task_id}:weight") / 2**63
    return round(low + (high - low) * share, WEIGHT_DIGITS)


def _draw_partners(
    allowed: pa.Table, own: Numbers, draws: Numbers, categories: BlendCategories
) -> Numbers:
    """A row of `allowed` for every task; those that may be drawn lie side by side, save a gap."""
    split, category = _codes(allowed, "split"), _codes(allowed, "category")
    if categories != "any" and (category < 0).any():
        missing = int((category < 0).sum())
        raise ConfigError(
            f"blend_categories is {categories!r}, but {missing} of {len(allowed)} exemplars have "
            "no category; expected any"
        )
    # By split, then by category: pools are stretches.
    order = np.lexsort((category, split))
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    starts, stops = _stretches(split[order])
    of_category = _stretches(split[order] * (category.max(initial=0) + 2) + category[order])
    here = place[own]
    gap = (
        of_category if categories == "other" else (np.arange(len(order)), np.arange(len(order)) + 1)
    )
    if categories == "same":
        starts, stops = of_category
    sizes = (stops - starts - (gap[1] - gap[0]))[here]
    if len(sizes) and sizes.min() < 1:
        raise _no_partner(allowed, int(own[int(np.argmin(sizes))]), categories)
    drawn = starts[here] + draws % sizes
    drawn += np.where(drawn >= gap[0][here], (gap[1] - gap[0])[here], 0)
    partners: Numbers = order[drawn]
    return partners


def _no_partner(allowed: pa.Table, row: int, categories: BlendCategories) -> ConfigError:
    kind = {
        "any": "another exemplar",
        "same": "another exemplar of its category",
        "other": "an exemplar of another category",
    }[categories]
    name = allowed["exemplar_id"][row].as_py()
    return ConfigError(
        f"blends need a partner for every exemplar: {name!r} is one of {len(allowed)} and has none "
        f"in its split, expected {kind} (blend_categories is {categories!r})"
    )


def _codes(table: pa.Table, name: str) -> Numbers:
    """Of each row a number for its value in a column; -1 for null, and without the column."""
    if name not in table.column_names:
        return np.full(len(table), -1)
    indices = table[name].combine_chunks().dictionary_encode().indices
    codes: Numbers = pc.fill_null(indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes


def _stretches(values: Numbers) -> tuple[Numbers, Numbers]:
    """Of each place in sorted values, where the stretch of its value begins and ends."""
    return np.searchsorted(values, values, "left"), np.searchsorted(values, values, "right")


def _join_labels(first: pa.ChunkedArray, second: pa.ChunkedArray) -> pa.Array:
    pairs: Sequence[tuple[Any, Any]] = list(zip(first.to_pylist(), second.to_pylist(), strict=True))
    joined = [None if a is None or b is None else list(dict.fromkeys([*a, *b])) for a, b in pairs]
    return pa.array(joined, first.type)
