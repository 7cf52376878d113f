"""The actor as Ray has it: it counts for Prometheus, and leaves in order when its node is to go."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from pipeline.actor import SynthesisActor
from pipeline.cluster.leaving import LeaveWatch
from pipeline.cluster.metrics import ActorMetrics
from pipeline.runlog import RunLog

EXIT_LEFT = 75
"""Of an actor that has left: EX_TEMPFAIL of sysexits.h. To Ray it is a death like others: it starts
the actor on another node and gives it the same block, of which the committed rows are passed over.
"""

logger = logging.getLogger(__name__)


class MeteredActor(SynthesisActor):
    """An actor among others on a cluster; arguments as those of `SynthesisActor`."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._metrics = ActorMetrics(self._run.path.name)
        self._busy = False
        # Entered by a signal handler, too, in the thread that may be in it.
        self._changing = threading.RLock()
        self._leave_watch = LeaveWatch(self.leave) if more.get("watched") else None
        if self._leave_watch:
            atexit.register(_close_stderr)

    def __call__(self, tasks: pa.Table) -> pa.Table:
        """As `SynthesisActor`; does not return if the actor is to leave."""
        with self._changing:
            self._busy = True
        try:
            return super().__call__(tasks)
        finally:
            with self._changing:
                self._busy = False
                if self.leaving:
                    self._log_leaving(tasks.select(["task_id", "attempts"]))
                    self._end()

    def leave(self, reason: str) -> None:
        """As `SynthesisActor`; one that has nothing to do ends at once."""
        with self._changing:
            super().leave(reason)
            if not self._busy:
                self._end()

    def row_ended(self, row: dict[str, Any]) -> None:
        """Count a row."""
        self._metrics.count_row(row)

    def advanced(self, seconds: float, busy: int, lanes: int) -> None:
        """Count a stretch of synthesis."""
        super().advanced(seconds, busy, lanes)
        self._metrics.count_synthesis(seconds, busy, lanes)

    def block_ended(self, block: Mapping[str, Any]) -> None:
        """The driver, which gets the summary, writes the log; of one that leaves it gets none."""
        if self.leaving:
            super().block_ended(block)

    def close(self) -> None:
        """As `SynthesisActor`."""
        if self._leave_watch:
            self._leave_watch.close()
        super().close()

    def _log_leaving(self, tasks: pa.Table) -> None:
        """Say what is left to others; the block's other rows are committed."""
        names = tasks["task_id"].to_pylist()
        # A store that does not answer must not keep the process from ending.
        with contextlib.suppress(OSError):
            names = [task["task_id"] for task in self._committed.without(tasks.to_pylist())]
        logger.warning("%s; left to others: %s", self.leaving, ", ".join(names) or "nothing")
        actor = self._attempts.name
        RunLog(self._run).event("actor_left", actor=actor, reason=self.leaving, tasks=names)

    def _end(self) -> None:
        """End the process, with nothing in it that is not on the disk, if that takes it."""
        try:
            self.close()
        finally:
            os._exit(EXIT_LEFT)


def _close_stderr() -> None:
    """When Python has ended, DuckDB 2.0 has a page to say of its objects that are alive then.

    The driver would print it for every actor that an elastic pool no longer needs.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
