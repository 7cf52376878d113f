"""Rows and run directories to test with."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.rundir import RunDirectory
from pipeline.schema import row_schema, rows_to_table

Row = dict[str, Any]


def png_of(task_id: str) -> bytes:
    """A small noise image that only this task has."""
    generator = np.random.default_rng(list(task_id.encode()))
    pixels = generator.integers(0, 256, (8, 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def row_of(task_id: str, **values: Any) -> Row:
    """A row with its required values, and an image if it is ok."""
    row: Row = {
        "task_id": task_id,
        "exemplar_id": task_id.split("-")[0],
        "category": "bark",
        "crop": 0,
        "variation": 0,
        "seed": 0,
        "attempt": 0,
        "status": "ok",
        "path": f"images/{task_id}.jpg",
        "finished_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "preset": "default",
        "config_fingerprint": "0123456789abcdef",
        "weights": "random:0",
        "texsynth_version": "0.1.0",
        "torch_version": "2.6.0",
    }
    row |= values
    if row["status"] == "ok":
        row.setdefault("image", {"bytes": png_of(task_id), "path": f"{task_id}.png"})
        row.setdefault("float_loss", 1000.0)
        row.setdefault("loss_curve", [{"evaluations": 1.0, "loss": 9.0, "side": 8}])
    return row


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "run")
    directory.create()
    return directory


@pytest.fixture
def make_row() -> Callable[..., Row]:
    return row_of


@pytest.fixture
def make_table() -> Callable[..., pa.Table]:
    def make(task_ids: Iterable[str], carried: pa.Schema | None = None, **values: Any) -> pa.Table:
        rows = [row_of(task_id, **values) for task_id in task_ids]
        return rows_to_table(rows, row_schema(carried))

    return make


@pytest.fixture
def make_png() -> Callable[[str], bytes]:
    return png_of
