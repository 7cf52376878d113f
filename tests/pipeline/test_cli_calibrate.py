"""`texsynth calibrate`: what it prints is what `texsynth reflag` takes."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.resume import RunRecord, write_run_record
from pipeline.rundir import RunDirectory
from pipeline.schema import row_schema, rows_to_table
from pipeline.shards import commit_rows

Call = Callable[..., tuple[int, str, str]]
Row = dict[str, Any]
EVIL = "it's [bold] a OR b"
MIDDLES = {"fine": 0.5, EVIL: 1.0}


@pytest.fixture
def run(tmp_path: Path, make_row: Callable[..., Row]) -> RunDirectory:
    """Two categories, one of them louder; a row that stands out in each, and two in small ones."""
    run = RunDirectory(tmp_path / "a run's")
    run.create()
    record = RunRecord(
        **{"config": {}, "identity": {}, "versions": {}, "weights": "hed", "root": ""},
        **{"weights_sha256": "0" * 64, "manifest": "m.csv", "manifest_sha256": "0" * 64},
        **{"carried": pa.schema([]), "created_at": "2026-01-02T00:00:00"},
    )
    write_run_record(run, record)
    generator = np.random.default_rng(0)
    rows = []
    for name, middle in MIDDLES.items():
        for k, ratio in enumerate(generator.normal(middle, 0.05, 60)):
            ratio = 1.2 * middle + 0.4 if k == 0 else ratio
            loss = 1000.0 * (1 + k) * (4.0 if k >= 40 else 1.0)
            copy = {"phase_correlation_peak": 0.9, "shifted_copy": True} if k >= 40 else {}
            numbers = {"high_frequency_ratio": ratio, "category": name, "delivered_loss": loss}
            rows.append(make_row(f"e{len(rows):03d}-c0-v0", **numbers, **copy))
    rows += [
        make_row("x0-c0-v0", high_frequency_ratio=9.0, category="few\x1b[2J"),
        make_row("x1-c0-v0", high_frequency_ratio=0.5, category=None),
    ]
    commit_rows(run, rows_to_table(rows, row_schema()))
    pq.write_table(pa.table({"task_id": [row["task_id"] for row in rows]}), run.tasks)
    return run


def test_the_printed_rule_flags_what_its_thresholds_say(run: RunDirectory, call: Call) -> None:
    code, printed, _ = call("calibrate", run.path)
    assert code == 0
    commands = [line for line in printed.splitlines() if line.startswith("texsynth reflag")]
    (command,) = (line for line in commands if "noisy: " in line)
    assert "CASE category WHEN" in command
    assert call(*shlex.split(command)[1:])[0] == 0
    metrics = pd.read_parquet(run.metrics).set_index("task_id")
    noisy = metrics.index[metrics["noisy"] == True]  # noqa: E712 - or null
    assert sorted(noisy) == ["e000-c0-v0", "e060-c0-v0", "x0-c0-v0"]
    assert len(metrics) == 122


def test_rows_that_stand_out_are_named_with_what_they_are_held_against(
    run: RunDirectory, call: Call
) -> None:
    _, printed, _ = call("calibrate", run.path)
    assert "3 values stand out in their category, of 3 textures:" in printed
    lines = [line.split() for line in printed.splitlines()]
    first = next(line for line in lines if line[:1] == ["e000-c0-v0"])
    assert first[1:4] == ["fine", "high_frequency_ratio", "1"]
    assert float(first[4]) == pytest.approx(0.5, abs=0.02)
    assert first[6] == "category"
    assert any(line[:2] == ["e060-c0-v0", "it's"] for line in lines)
    assert next(line for line in lines if line[:1] == ["x0-c0-v0"])[-1] == "run"
    assert r"with fewer than 10 rows: few\x1b[2J" in printed
    assert "\x1b" not in printed


def test_the_loss_that_parts_is_called_a_guess_and_can_be_taken_over(
    run: RunDirectory, call: Call
) -> None:
    _, printed, _ = call("calibrate", run.path)
    assert "no published threshold applies" in printed
    assert "80 textures without faults, 40 with some" in printed
    assert "A guess" in printed
    assert [line.split()[0] for line in printed.splitlines() if "-c0-v0" in line][-1:] != []
    (command,) = (line for line in printed.splitlines() if "delivered_below_threshold" in line)
    assert call(*shlex.split(command)[1:])[0] == 0
    metrics = pd.read_parquet(run.metrics)
    rated = metrics.dropna(subset=["delivered_loss"])
    below = rated["delivered_below_threshold"].astype(bool)
    assert (below == (rated["delivered_loss"] < 80_000)).all()
    assert below.sum() == 80


def test_a_run_without_enough_rows_is_told_so(tmp_path: Path, call: Call) -> None:
    empty = RunDirectory(tmp_path / "empty")
    empty.create()
    code, printed, _ = call("calibrate", empty.path)
    assert (code, printed.count("expected at least 10")) == (0, 2)
