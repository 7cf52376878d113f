"""Flags computed anew: a run, other rules, and what every reader then sees."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from pipeline.cli import app
from pipeline.config import RunConfig
from pipeline.flags import RULES, RuleError
from pipeline.query import load_images
from pipeline.reflag import reflag_run
from pipeline.run import run_manifest
from pipeline.rundir import RunDirectory
from pipeline.schema import PICTURES
from pipeline.verify import verify_run

MakeManifest = Callable[..., Path]
MakeConfig = Callable[..., RunConfig]
SLOW = "evaluations > 8"


@pytest.fixture
def run(make_manifest: MakeManifest, quick_config: MakeConfig, tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path / "run")
    manifest = make_manifest(["a", "b", "c"], broken=["c"])
    run_manifest(manifest, run.path, quick_config(evaluations=10), Console(quiet=True))
    return run


def flags(run: RunDirectory, name: str) -> list[bool | None]:
    textures, metrics = pd.read_parquet(run.textures), pd.read_parquet(run.metrics)
    assert textures.drop(columns=[*PICTURES]).equals(metrics)
    found = metrics.set_index("exemplar_id")[name].sort_index()
    return [None if pd.isna(value) else bool(value) for value in found]


def test_flags_follow_the_new_rules_and_nothing_else_changes(run: RunDirectory) -> None:
    before = pd.read_parquet(run.metrics)
    images = load_images(run, before["task_id"][:2])
    done = reflag_run(run, {"noisy": SLOW}, standing=False)
    assert (done.before["noisy"], done.after["noisy"], done.finalized.rows) == (0, 2, 3)
    assert flags(run, "noisy") == [True, True, None]
    assert flags(run, "accepted") == [False, False, False]
    after = pd.read_parquet(run.metrics)
    changed = [name for name in before.columns if not before[name].equals(after[name])]
    assert set(changed) <= {"noisy", "accepted", "flag_rules"}
    again = load_images(run, before["task_id"][:2])
    assert all(images[name].tobytes() == again[name].tobytes() for name in images)
    stored = {entry["flag"]: entry["rule"] for entry in after["flag_rules"][0]}
    assert stored == RULES | {"noisy": SLOW}
    assert json.loads(run.run_json.read_text())["config"]["flag_rules"] == {"noisy": SLOW}
    assert [check.problems for check in verify_run(run) if not check.ok] == []


def test_other_flags_keep_their_rules_until_the_standing_ones_are_asked_for(
    run: RunDirectory,
) -> None:
    reflag_run(run, {"noisy": SLOW}, standing=False)
    reflag_run(run, {"clipped": "true"}, standing=False)
    assert (flags(run, "noisy"), flags(run, "clipped")) == ([True, True, None], [True] * 3)
    done = reflag_run(run, {}, standing=True)
    assert done.rules == RULES
    assert True not in flags(run, "clipped")
    assert not list(run.path.glob("_*textures*"))


def test_a_second_time_nothing_is_written(run: RunDirectory) -> None:
    reflag_run(run, {"noisy": SLOW}, standing=False)
    times = {path: path.stat().st_mtime_ns for path in run.textures.iterdir()}
    reflag_run(run, {"noisy": SLOW}, standing=False)
    assert times == {path: path.stat().st_mtime_ns for path in run.textures.iterdir()}


def test_rows_made_later_get_the_rules_of_the_run(
    run: RunDirectory, make_manifest: MakeManifest, quick_config: MakeConfig
) -> None:
    reflag_run(run, {"noisy": SLOW}, standing=False)
    manifest = make_manifest(["a", "b", "c"], broken=["c"])
    config = quick_config(evaluations=10, variations=2)
    outcome = run_manifest(manifest, run.path, config, Console(quiet=True))
    assert outcome.done_now == 3
    assert flags(run, "noisy") == [True] * 4 + [None] * 2
    assert [check.problems for check in verify_run(run) if not check.ok] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"noisy": "evaluations >"}, "noisy"), ({"loud": "true"}, "no flag loud")],
)
def test_a_rule_that_is_none_changes_nothing(
    run: RunDirectory, changes: dict[str, str], message: str
) -> None:
    before = run.run_json.read_bytes()
    with pytest.raises(RuleError, match=message):
        reflag_run(run, changes, standing=False)
    assert run.run_json.read_bytes() == before
    assert True not in flags(run, "noisy")


def test_the_command_says_what_became_of_every_flag(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    app(["reflag", str(run.path), "--rule", f"noisy: {SLOW}"], result_action="return_value")
    printed = capsys.readouterr().out
    assert all(name in printed for name in RULES)
    assert "of 3 rows" in printed
