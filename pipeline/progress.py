"""How far a run is, read from its committed shards: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from operator import itemgetter
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from pipeline.attempts import load_attempts, running_here
from pipeline.rundir import RunDirectory
from pipeline.runlog import TASK_COLUMNS, RunLog
from pipeline.session import load_session
from pipeline.storage import poll_seconds
from pipeline.tail import ShardTail
from pipeline.terminal import duration, first_line, visible
from pipeline.tries import is_due

logger = logging.getLogger(__name__)

TRIED_COLUMNS = ("accepted", "tries")
"""Of a row, beside its status: whether another try at its task is to come."""
POLL_SECONDS = 1.0
PLAIN_LINE_SECONDS = 10.0
"""Between two plain lines, unless all is done."""


class RunProgress:
    """Counts the rows that appear in `shards/` while the context lasts, and shows them.

    Args:
        run: the run directory.
        total: tasks that this attempt is to do.
        console: where to; a terminal gets a bar, anything else lines.
        log: gets a line for every row, and for every shard that cannot be read.
        retry_flagged: new seeds for a texture that is not accepted, each of which adds a row.
    """

    def __init__(
        self,
        run: RunDirectory,
        total: int,
        console: Console,
        log: RunLog | None = None,
        *,
        retry_flagged: int = 0,
    ) -> None:
        self._run = run
        self._total = total
        self._console = console
        self._log = log
        self._tail = ShardTail(run, [*TASK_COLUMNS, *TRIED_COLUMNS], skip_present=True)
        self._retry_flagged = retry_flagged
        self._problems_logged = 0
        self._statuses: Counter[str] = Counter()
        self._coming_again: set[str] = set()
        self._last_error = ""
        self._in_flight = 0
        self._begun = time.monotonic()
        self._printed = self._begun
        self._printed_done = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="progress")
        self._bar = _make_bar(console) if console.is_terminal else None
        self._bar_task = self._bar.add_task("", total=total, text="") if self._bar else None
        self._live = Live(console=console, get_renderable=self._view) if self._bar else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._look(last=True)
        if self._live:
            self._live.stop()

    def describe(self) -> str:
        """Tasks done and failed, textures per minute, time left."""
        done = self._statuses.total()
        minutes = (time.monotonic() - self._begun) / 60
        rate = self._statuses["ok"] / minutes if minutes else 0.0
        text = f"{done - self._statuses['ok']} failed, {rate:.1f} textures/min"
        if 0 < done < self._total:
            text += f", about {duration(60 * minutes / done * (self._total - done))} left"
        return text

    def _watch(self) -> None:
        poll_s = wait_s = max(POLL_SECONDS, poll_seconds(self._run.path))
        while not self._stop.wait(wait_s):
            begun = time.monotonic()
            self._look(last=False)
            # Listing a large folder takes a while: a tenth of the time at most.
            wait_s = max(poll_s, 9 * (time.monotonic() - begun))

    def _look(self, *, last: bool) -> None:
        """Count and show; where either is not to be had for the moment, the run goes on."""
        try:
            self._count()
            self._show(last=last)
        except OSError as error:
            logger.warning("progress not shown: %s", error)

    def _count(self) -> None:
        """Read the shards that have appeared since the last look."""
        rows = self._tail.new_rows()
        self._count_tasks(rows)
        failed = rows.filter(pc.is_valid(rows["error"]))
        if len(failed):
            self._last_error = _error_line(failed)
        if self._log:
            self._log.task_events(rows)
            for problem in self._tail.problems[self._problems_logged :]:
                self._log.event("problem", path=str(problem.path), reason=problem.reason)
            self._problems_logged = len(self._tail.problems)

    def _count_tasks(self, rows: pa.Table) -> None:
        """Count each task once: a texture that is tried again has a row for every try.

        Remembered are tasks that another row is to come of, a block's at most for each actor; not
        all that were ever counted.
        """
        columns = rows.select(["attempts", "task_id", "status", *TRIED_COLUMNS]).to_pylist()
        for row in sorted(columns, key=itemgetter("attempts")):
            if row["task_id"] not in self._coming_again:
                self._statuses[row["status"]] += 1
            if is_due(row, self._retry_flagged):
                self._coming_again.add(row["task_id"])
            else:
                self._coming_again.discard(row["task_id"])

    def _show(self, *, last: bool) -> None:
        done = self._statuses.total()
        if self._bar and self._bar_task is not None:
            self._in_flight = 0 if last else _count_in_flight(self._run)
            self._bar.update(self._bar_task, completed=done, text=self.describe())
        elif self._is_line_due(done, last=last):
            self._printed, self._printed_done = time.monotonic(), done
            self._console.print(f"{done}/{self._total} tasks, {self.describe()}", highlight=False)

    def _is_line_due(self, done: int, *, last: bool) -> bool:
        if last:
            return done > self._printed_done
        return time.monotonic() - self._printed >= PLAIN_LINE_SECONDS

    def _view(self) -> Group:
        """What a terminal shows: the bar, then what is at work, then what went wrong last."""
        lines = [f"{self._in_flight} in flight"] if self._in_flight else []
        lines += [f"last error: {self._last_error}"] if self._last_error else []
        shown = [Text(line, no_wrap=True, overflow="ellipsis") for line in lines]
        return Group(*([self._bar] if self._bar else []), *shown)


def _count_in_flight(run: RunDirectory) -> int:
    session = load_session(run)
    attempts, _ = load_attempts(run)
    return len(running_here(attempts.values(), session.id)) if session else 0


def _error_line(failed: pa.Table) -> str:
    row = failed.slice(len(failed) - 1).to_pylist()[0]
    return visible(f"{row['task_id']}: {row['error_type']}: {first_line(row['error'])}")


def _make_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("tasks"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}"),
        TimeElapsedColumn(),
        console=console,
    )
