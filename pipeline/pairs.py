"""The textures that two runs have in common, side by side, and in what they differ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.query import as_run
from pipeline.resume import RunRecordError, load_run_record
from pipeline.rundir import RunDirectory
from pipeline.sandbox import quote_text
from pipeline.sql import MetricsDatabase, open_metrics

KEYS = ("exemplar_id", "crop", "variation")
NORMALISATION = "normalisation"
"""Of the network's input: no column, but in `run.json`."""

HAS_TEXTURE = "delivered_loss IS NOT NULL AND blend_exemplar_id IS NULL"
"""Of a row that is compared: blends of two runs have their partners by chance."""

AnyRun = RunDirectory | Path | str


@dataclass(frozen=True)
class Pairs:
    """Textures of two runs, A and B, with the same exemplar, crop and variation.

    Attributes:
        names: Of the runs.
        textures: Of each, paired or not; blends are left aside.
        frame: A row per pair: KEYS, `category` of A, and every column asked for as NAME_a, NAME_b.
        problems: Files that could not be read, in words.
    """

    names: tuple[str, str]
    textures: tuple[int, int]
    frame: pd.DataFrame
    problems: tuple[str, ...]


def load_pairs(run_a: AnyRun, run_b: AnyRun, columns: Iterable[str]) -> Pairs:
    """Read what two runs say of the textures of both.

    Args:
        run_a: Run directory, finished or not.
        run_b: The other.
        columns: Fixed columns of a row, or `normalisation`. Lists of text are joined.

    Raises:
        NotARunError: One is no run directory.
        QueryError: Both are the same, or one is damaged.
    """
    columns = list(dict.fromkeys(columns))
    with open_metrics([run_a, run_b]) as database:
        first, second = database.names
        problems = tuple(f"unreadable: {one.path}: {one.reason}" for one in database.problems)
        frame = _join(database, [name for name in columns if name != NORMALISATION])
        textures = (_count_textures(database, first), _count_textures(database, second))
    if NORMALISATION in columns:
        for side, run in (("a", run_a), ("b", run_b)):
            frame[f"{NORMALISATION}_{side}"] = _load_normalisation(as_run(run))
    return Pairs((first, second), textures, frame, problems)


def mask_same(frame: pd.DataFrame, names: Sequence[str]) -> Any:
    """Which pairs have the same values in all these columns; both null is the same."""
    mask = np.ones(len(frame), bool)
    for name in names:
        a, b = frame[f"{name}_a"], frame[f"{name}_b"]
        mask &= ((a == b) | (a.isna() & b.isna())).to_numpy(bool)
    return mask


def describe_differences(frame: pd.DataFrame, name: str, consequence: str) -> list[str]:
    """One line if a column differs in some pair, with an example; else none."""
    differing = frame[~mask_same(frame, [name])]
    if differing.empty:
        return []
    first = differing.iloc[0]
    values = f"{first[f'{name}_a']} and {first[f'{name}_b']}"
    count = f"{len(differing)} of {len(frame)} pairs"
    return [f"{name} differs in {count}, as {values}: {consequence}"]


def _textures(run: str) -> str:
    """SQL of the rows of a run that have a texture of one exemplar."""
    return f"(SELECT * FROM metrics WHERE run = {quote_text(run)} AND {HAS_TEXTURE})"  # noqa: S608


def _join(database: MetricsDatabase, columns: Sequence[str]) -> pd.DataFrame:
    a, b = map(_textures, database.names)
    sides = ", ".join(f"a.{name} AS {name}_a, b.{name} AS {name}_b" for name in columns)
    keys = ", ".join(KEYS)
    sql = f"SELECT {keys}, a.category, {sides} FROM {a} a JOIN {b} b USING ({keys}) ORDER BY {keys}"  # noqa: S608
    frame: pd.DataFrame = database.select(sql).table().to_pandas()
    for name in frame.columns:
        if frame[name].map(lambda value: isinstance(value, np.ndarray)).any():
            frame[name] = frame[name].map(" ".join, na_action="ignore")
    return frame


def _count_textures(database: MetricsDatabase, run: str) -> int:
    counted = database.select(f"SELECT count(*) AS n FROM {_textures(run)}").table()  # noqa: S608
    count: int = counted["n"][0].as_py()
    return count


def _load_normalisation(run: RunDirectory) -> str:
    try:
        record = load_run_record(run)
    except (RunRecordError, OSError):
        record = None
    config = {} if record is None else record.config
    # Null is what belongs to the weights, and that is none for every source.
    return str(config.get(NORMALISATION) or "none")
