from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import pipeline_overhead
from benchmarks.pipeline_overhead import BARE, SETTINGS, Measurement, read_run
from pipeline.rundir import RunDirectory


@pytest.mark.slow
def test_the_same_tasks_bare_and_through_the_pipeline(
    weights_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    inline = {name: SETTINGS[name] for name in (BARE, "inline")}
    monkeypatch.setattr(pipeline_overhead, "SETTINGS", inline)
    options = f"--size 32 --weights {weights_file} --tasks 3 --evaluations 5 --lanes 2 --repeat 1"
    found = tmp_path / "found.json"
    monkeypatch.setattr(sys, "argv", ["x", *options.split(), "--json", str(found)])
    pipeline_overhead.main()
    lines = capfd.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[-2:]] == list(inline)
    assert len({line.count("|") for line in lines[-4:]}) == 1
    bare, piped = (Measurement(**one) for one in json.loads(found.read_text())["measurements"])
    assert (bare.setting, bare.textures, bare.idle_share) == (BARE, 3, None)
    assert (piped.textures, piped.evaluations) == (3, bare.evaluations)
    assert 0 < piped.idle_share < 1  # type: ignore[operator]
    for one in (bare, piped):
        assert 0 < one.steady_s < one.command_s
        assert 0 < one.lanes_at_work <= 2


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., RunDirectory]:
    """A run directory of which the log tells of blocks (actor, begin, seconds, in synthesis)."""

    def write(*blocks: tuple[str, str, float, float]) -> RunDirectory:
        run = RunDirectory(tmp_path)
        names = ("actor", "begun_at", "seconds", "synthesis_seconds")
        lines = [{"event": "session_begun"}]
        lines += [{"event": "block"} | dict(zip(names, block, strict=True)) for block in blocks]
        run.log.write_text("".join(json.dumps(line) + "\n" for line in lines))
        rows = pa.table({"seconds": [6.0, 8.0], "evaluations": [10.0, 11.0]})
        pq.write_table(rows, run.metrics)
        return run

    return write


def test_time_between_the_blocks_of_an_actor_is_idle_and_before_its_first_is_not(
    write_run: Callable[..., RunDirectory],
) -> None:
    run = write_run(
        ("a", "2026-01-01T00:00:00.000+00:00", 4.0, 3.0),
        ("b", "2026-01-01T00:00:03.000+00:00", 6.0, 2.0),
        ("a", "2026-01-01T00:00:05.500+00:00", 4.5, 2.0),
    )
    # a works from 0 to 10 and is in syntheses for 5; b from 3 to 9, and for 2.
    expected = {"steady_s": 10.0, "textures": 2, "evaluations": 21.0}
    expected |= {"idle_share": 1 - 7 / 16, "lanes_at_work": 2.0}
    assert read_run(run) == pytest.approx(expected)
