"""The tables of `docs/scaling.md` are what its own formulas give."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.scale_model import Flow, describe_requests

PAGE = (Path(__file__).parent.parent / "docs/scaling.md").read_text(encoding="utf-8")
NUMBER = r" ([\d.,]+) \|"


def rows(columns: int) -> list[list[float]]:
    """Of all tables with so many columns of plain numbers."""
    found = re.findall(rf"^\|{NUMBER * columns}$", PAGE, re.M)
    return [[float(cell.replace(",", "")) for cell in row] for row in found]


def shards_per_second(rate: float) -> float:
    """At 32 rows, or 8 s after the first, where textures end at random."""
    return max(1 / (1 / rate + 8), rate / 32)


# The six columns of rates, and as many of requests, whose first number is a power of ten.
RATES = [row for row in rows(6) if row[-1] > 100 and row[1] < 20]
REQUESTS = [row for row in rows(6) if row[-1] < 1]


def test_both_tables_are_found() -> None:
    assert [row[0] for row in RATES] == [1000, 3600, 10_000, 36_000]
    assert [row[0] for row in REQUESTS] == [1, 10, 100, 1000, 10_000]


@pytest.mark.parametrize("row", RATES)
def test_rates(row: list[float]) -> None:
    rate = row[0] / 3600
    shards = shards_per_second(rate)
    counted = 1 / (2.1e-3 * shards + 0.03e-3 * rate)
    expected = [rate, shards, rate / shards, counted, 3500 / (rate + shards)]
    assert row[1:4] == [pytest.approx(value, rel=0.01) for value in expected[:3]]
    assert row[4:] == [float(f"{value:.2g}") for value in expected[3:]]


@pytest.mark.parametrize("row", REQUESTS[1:])
def test_requests(row: list[float]) -> None:
    gpus, shards = int(row[0]), shards_per_second(1.0)
    flow = Flow(
        gpus=gpus,
        textures=gpus,
        shards=gpus * shards,
        rows_per_shard=1 / shards,
        blocks=gpus / (8 * 64),
    )
    expected = [float(cell.replace(",", "")) for cell in describe_requests(flow)]
    assert row == [pytest.approx(value, rel=0.03) for value in expected]


@pytest.mark.parametrize("row", rows(5))
def test_hours_of_a_finalize_in_a_bucket(row: list[float]) -> None:
    rows_of_a_shard, _, _, cpu_ms, hours = row
    expected = 5e6 / rows_of_a_shard * cpu_ms / 3.6e6
    assert hours == pytest.approx(expected, rel=0.03)


def test_that_table_is_found() -> None:
    assert [row[0] for row in rows(5)] == [9, 9, 32, 32]
