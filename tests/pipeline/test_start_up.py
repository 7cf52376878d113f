"""A run of many tasks begins within memory that its batches and its ids set, not its table."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.start_up import write_manifest
from pipeline import table_stream, tasks
from pipeline.config import RunConfig
from pipeline.pending import find_pending, open_pending, write_pending
from pipeline.preflight import check_run
from pipeline.resume import open_tasks, write_tasks
from pipeline.rundir import RunDirectory

ROWS = 200_000
ARROW_BYTES_PER_ROW = 150
"""Measured: 87 with batches this small; the table of these tasks alone has 226."""
PYTHON_BYTES_PER_ROW = 20
"""Measured: 8, of one batch. The smallest object per row, such as a text, has 50 or more."""


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "manifest.parquet"
    write_manifest(path, ROWS)
    return path


@pytest.fixture
def arrow_pool(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pa.MemoryPool]:
    """A pool whose largest allocation is of this test, and batches that hardly count in it."""
    monkeypatch.setattr(table_stream, "BATCH_ROWS", 4096)
    monkeypatch.setattr(tasks, "BATCH_ROWS", 4096)
    default = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(default)
    pa.set_memory_pool(pool)
    yield pool
    pa.set_memory_pool(default)


def committed_of(ids: pa.ChunkedArray) -> pa.Table:
    count = len(ids)
    values = {"status": "ok", "attempts": pa.scalar(1, pa.int32()), "accepted": True, "seed": 7}
    columns = {name: pa.repeat(value, count) for name, value in values.items()}
    return pa.table({"task_id": ids, **columns, "tries": pa.nulls(count, pa.list_(pa.int8()))})


def test_memory_per_row_is_bounded(
    run: RunDirectory,
    quick_config: Callable[..., RunConfig],
    manifest: Path,
    arrow_pool: pa.MemoryPool,
) -> None:
    checked = check_run(manifest, quick_config(), None)
    write_tasks(run, checked.tasks)
    stored = open_tasks(run)
    assert stored.holds(checked.tasks)
    tracemalloc.start()
    try:
        ids = stored.read(["task_id"])["task_id"]
        pending = find_pending(ids, committed_of(ids.slice(0, ROWS // 2)))
        write_pending(run, pending.select(stored))
        _, python_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert python_bytes / ROWS < PYTHON_BYTES_PER_ROW
    assert arrow_pool.max_memory() / ROWS < ARROW_BYTES_PER_ROW
    assert pq.read_metadata(run.tasks).num_rows == ROWS
    assert open_pending(run).read(["task_id"])["task_id"].equals(ids.slice(ROWS // 2))
