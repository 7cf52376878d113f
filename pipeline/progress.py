"""How far a run is, read from its committed shards: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pipeline.rundir import RunDirectory

POLL_SECONDS = 1.0
PLAIN_LINE_SECONDS = 10.0
"""Between two plain lines, unless all is done."""


class RunProgress:
    """Counts the rows that appear in `shards/` while the context lasts, and shows them.

    Args:
        run: the run directory.
        total: tasks that this attempt is to do.
        console: where to; a terminal gets a bar, anything else lines.
    """

    def __init__(self, run: RunDirectory, total: int, console: Console) -> None:
        self._run = run
        self._total = total
        self._console = console
        self._seen: set[Path] = set(run.shards.glob("part-*.parquet"))
        self._statuses: Counter[str] = Counter()
        self._begun = time.monotonic()
        self._printed = self._begun
        self._printed_done = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="progress")
        self._bar = _make_bar(console) if console.is_terminal else None
        self._bar_task = self._bar.add_task("", total=total, text="") if self._bar else None

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
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
        self._count()
        self._show(last=True)
        if self._bar:
            self._bar.stop()

    def describe(self) -> str:
        """Tasks done and failed, textures per minute, time left."""
        done = self._statuses.total()
        minutes = (time.monotonic() - self._begun) / 60
        rate = self._statuses["ok"] / minutes if minutes else 0.0
        text = f"{done - self._statuses['ok']} failed, {rate:.1f} textures/min"
        if 0 < done < self._total:
            text += f", about {_duration(60 * minutes / done * (self._total - done))} left"
        return text

    def _watch(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            self._count()
            self._show(last=False)

    def _count(self) -> None:
        """Read the statuses in shards that have appeared since the last look."""
        for path in set(self._run.shards.glob("part-*.parquet")) - self._seen:
            try:
                statuses = pq.read_table(path, columns=["status"])["status"].to_pylist()
            except (OSError, pa.ArrowInvalid):
                # Not ours to judge: the end of the run names files that cannot be read.
                statuses = []
            self._seen.add(path)
            self._statuses.update(statuses)

    def _show(self, *, last: bool) -> None:
        done = self._statuses.total()
        if self._bar and self._bar_task is not None:
            self._bar.update(self._bar_task, completed=done, text=self.describe())
        elif self._is_line_due(done, last=last):
            self._printed, self._printed_done = time.monotonic(), done
            self._console.print(f"{done}/{self._total} tasks, {self.describe()}", highlight=False)

    def _is_line_due(self, done: int, *, last: bool) -> bool:
        if last:
            return done > self._printed_done
        return time.monotonic() - self._printed >= PLAIN_LINE_SECONDS


def _make_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("tasks"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}"),
        TimeElapsedColumn(),
        console=console,
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
