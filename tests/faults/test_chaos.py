"""Two hundred tasks under Ray; actors are killed every few seconds, and the driver three times.

The seed decides how long each actor may work, which one is killed, and at how many rows the driver
is. TEXSYNTH_CHAOS_SEED takes another one.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.attempts import load_attempts
from pipeline.committed import read_committed
from pipeline.rundir import RunDirectory

MakeStory = Callable[..., Any]

EXEMPLARS, VARIATIONS = 20, 10
TASKS = EXEMPLARS * VARIATIONS
KILL_SECONDS = (2.0, 5.0)
DRIVER_DEATHS = 3
LIMIT_SECONDS = 900
LOOK_SECONDS = 0.25
ACTOR = "ray::MapWorker"


class Killer:
    """Kills actors of a run that are at work, by a plan that a seed decides.

    Args:
        story: whose processes may be killed.
        seed: of the plan.
    """

    def __init__(self, story: Any, seed: int) -> None:
        self._story = story
        self._run = RunDirectory(story.out)
        self._random = random.Random(seed)
        self._next: float | None = None
        spaced = (self._random.uniform(0.1, 0.9) for _ in range(DRIVER_DEATHS))
        self.driver_dies_at = sorted(round(share * TASKS) for share in spaced)
        self.actors: list[int] = []

    def rows(self) -> int:
        """How many rows are committed."""
        return len(read_committed(self._run, ["task_id"])[0])

    def look(self) -> None:
        """Kill an actor if one has been at work for long enough."""
        at_work = sorted(self._at_work())
        if not at_work:
            return
        if self._next is None:
            self._next = time.monotonic() + self._random.uniform(*KILL_SECONDS)
        elif time.monotonic() >= self._next:
            pid = self._random.choice(at_work)
            self._next = None
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.actors.append(pid)

    def _at_work(self) -> Iterator[int]:
        """The actors with tasks in flight: their pids, from what they say of themselves."""
        attempts, _ = load_attempts(self._run)
        ours = set(self._story.processes())
        for pid in {attempt.pid for attempt in attempts.values()} & ours:
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/cmdline").read_text().startswith(ACTOR):
                    yield pid


def drive(story: Any, killer: Killer, until_rows: int | None) -> int:
    """Start the run; kill its actors, and itself once so many rows are there; give its code."""
    with (story.folder / "driver.txt").open("ab") as log:
        driver = story.start(*story.command(), output=log.fileno())
    try:
        while driver.poll() is None:
            if until_rows is not None and killer.rows() >= until_rows:
                driver.kill()
            killer.look()
            time.sleep(LOOK_SECONDS)
    finally:
        driver.kill()
    return int(driver.wait())


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(LIMIT_SECONDS)
def test_chaos(make_story: MakeStory, capfd: pytest.CaptureFixture[str]) -> None:
    seed = int(os.environ.get("TEXSYNTH_CHAOS_SEED", "0"))
    began = time.monotonic()
    story = make_story(
        size=64,
        evaluations=10,
        lanes=2,
        actors=1,
        variations=VARIATIONS,
        flush_seconds=0.5,
        lane_checkpoint_seconds=1,
        max_attempts=20,
    )
    story.write_manifest([f"e{number}" for number in range(EXEMPLARS)])
    killer = Killer(story, seed)
    for until_rows in killer.driver_dies_at:
        assert drive(story, killer, until_rows) == -signal.SIGKILL
        story.keep()
    actors_of_killed_drivers = len(killer.actors)
    code = drive(story, killer, None)
    assert code == 0, (story.folder / "driver.txt").read_text()[-4000:]
    rows = story.assert_finished(variations=VARIATIONS)
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert len(killer.actors) >= DRIVER_DEATHS
    report = {
        "seed": seed,
        "tasks": TASKS,
        "rows when the driver was killed": killer.driver_dies_at,
        "actors killed": len(killer.actors),
        "of them under drivers that were killed": actors_of_killed_drivers,
        "most attempts of a task": max(row["attempts"] for row in rows.values()),
        "rows resumed from a checkpoint": sum(bool(row["resumed_at"]) for row in rows.values()),
        "seconds": round(time.monotonic() - began),
    }
    with capfd.disabled():
        print(f"\nchaos: {json.dumps(report)}")
