"""What actors count for Ray's Prometheus endpoint; `deploy/grafana/` has the pictures of it.

Ray puts `ray_` before these names and `_total` behind those of counters. A label says the run.
"""

from __future__ import annotations

from typing import Any

from ray.util.metrics import Counter, Histogram

SECONDS_BOUNDARIES = [1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0]
LOSS_BOUNDARIES = [m * 10.0**e for e in range(1, 7) for m in (1.0, 2.0, 5.0)]
"""Losses of different weights and sizes lie orders of magnitude apart."""


class ActorMetrics:
    """The counters and histograms of one actor.

    Args:
        run: name of the run.
    """

    def __init__(self, run: str) -> None:
        by_status = ("run", "status")
        self._run = {"run": run}
        self._tasks = Counter("texsynth_tasks", "Tasks that ended.", tag_keys=by_status)
        self._evaluations = self._counter(
            "texsynth_evaluations", "Evaluations at full size spent on tasks that ended."
        )
        self._seconds = Histogram(
            "texsynth_task_seconds",
            "Time of a task on a lane, s.",
            boundaries=SECONDS_BOUNDARIES,
            tag_keys=by_status,
        )
        self._loss = Histogram(
            "texsynth_delivered_loss",
            "Reference loss of the stored image.",
            boundaries=LOSS_BOUNDARIES,
            tag_keys=("run",),
        )
        self._in_synthesis = self._counter(
            "texsynth_synthesis_seconds", "Time inside syntheses, s; else the device is idle."
        )
        self._lanes = self._counter(
            "texsynth_lane_seconds", "Sum over lanes of the time inside syntheses, s."
        )
        self._busy_lanes = self._counter(
            "texsynth_busy_lane_seconds", "Sum over lanes of the time with a task on them, s."
        )

    def count_row(self, row: dict[str, Any]) -> None:
        """Count a row by its status, and what it took."""
        tags = self._run | {"status": row["status"]}
        self._tasks.inc(1, tags)
        if row.get("seconds") is not None:
            self._seconds.observe(row["seconds"], tags)
        if row.get("delivered_loss") is not None:
            self._loss.observe(row["delivered_loss"], self._run)
        if row.get("evaluations"):
            self._evaluations.inc(row["evaluations"], self._run)

    def count_synthesis(self, seconds: float, busy: int, lanes: int) -> None:
        """Count a stretch of synthesis, of so many lanes, with tasks on some of them."""
        if seconds > 0:
            self._in_synthesis.inc(seconds, self._run)
            self._lanes.inc(lanes * seconds, self._run)
        if busy * seconds > 0:
            self._busy_lanes.inc(busy * seconds, self._run)

    @staticmethod
    def _counter(name: str, description: str) -> Counter:
        return Counter(name, description, tag_keys=("run",))
