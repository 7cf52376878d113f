from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.start_up import commit_half, start, table_row, write_manifest
from pipeline.rundir import RunDirectory


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_start_ends_where_work_would_begin(tmp_path: Path, suffix: str) -> None:
    manifest, out = tmp_path / f"manifest.{suffix}", tmp_path / "run"
    write_manifest(manifest, 3000)
    fresh = start(manifest, out)
    assert (fresh.tasks, fresh.left, fresh.files) == (3000, 3000, 0)
    assert commit_half(RunDirectory(out)) == 2
    resumed = start(manifest, out)
    # Of 3,000 rows the first 1,024 of every 2,048 are committed.
    assert (resumed.left, resumed.files) == (3000 - 1024 - 952, 2)
    assert table_row(resumed, suffix).startswith(f"| 3,000 | resumed, 1,024 left, {suffix} | 2 | ")
    # Of two processes: which has the higher peak is chance at this size.
    assert min(fresh.peak_bytes, resumed.peak_bytes) > 2**20
