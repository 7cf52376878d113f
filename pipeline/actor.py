"""One worker of a run: holds one network, synthesises blocks of tasks, commits rows as they end.

A plain class: Ray Data makes actors of it, a for-loop can drive it as well. Whatever goes wrong
with a task becomes a row with its error; the worker lives on. What takes the whole process along
was counted before work began: the next worker to get the block passes over what is committed, and
tries what was in flight in smaller groups.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

import texsynth
from pipeline.attempts import (
    AttemptFile,
    count_failed_starts,
    forget_failed_starts,
    group_size,
    load_attempts,
)
from pipeline.config import RunConfig
from pipeline.downloads import load_network
from pipeline.lane_checkpoints import remove_checkpoint
from pipeline.lane_work import LaneWork
from pipeline.resume import RunRecord, RunRecordError, load_run_record
from pipeline.rows import Row, RowMaker
from pipeline.rundir import RunDirectory
from pipeline.runlog import RunLog
from pipeline.schema import SchemaError, row_schema
from pipeline.session import StopWatch
from pipeline.shards import ShardWriter
from pipeline.tail import CommittedTasks, begin_block
from pipeline.tries import Tries
from pipeline.watchdog import Watchdog

BLOCK = pa.struct(
    [
        ("actor", pa.string()),
        ("tasks", pa.int64()),
        ("begun_at", pa.string()),
        ("seconds", pa.float64()),
        ("synthesis_seconds", pa.float64()),
        ("lanes", pa.int64()),
        ("lane_seconds", pa.float64()),
    ]
)
"""A block as the log tells of it: whose, tasks done, begin (ISO 8601, UTC), time until its last row
was committed, and how much of it passed inside a synthesis, s; lanes of the actor, and the sum over
these of the time in which each had a task, s."""
SUMMARY = pa.schema(
    [
        ("task_id", pa.string()),
        ("status", pa.string()),
        ("seconds", pa.float64()),
        ("block", BLOCK),
    ]
)
"""The small row that flows on for each task; the row itself has been committed."""
MAX_FAILED_STARTS = 3
"""Actors that may die before they are ready, on one machine; with more the fault is no task's."""
EXIT_DEVICE_LOST = 70
"""Of an actor whose device no longer answers: EX_SOFTWARE of sysexits.h."""

logger = logging.getLogger(__name__)


class ActorStartError(ValueError):
    """Actors die before they are ready."""


class SynthesisActor:
    """Turns prepared tasks into committed rows.

    Args:
        run_path: run directory; its `run.json` says what is to be done.
        device: `cpu`, `cuda` or `cuda:N`; None takes CUDA where there is one.
        threads: of torch on the CPU; None leaves them as they are.
        watched: have this process killed when it hangs; for those that somebody starts again.

    Raises:
        RunRecordError: if the run directory has no readable `run.json`.
        WeightsError: if the weights cannot be had here, or are not those that the run began with.
        ActorStartError: if too many before this one died before they were ready.
    """

    def __init__(
        self,
        run_path: str,
        device: str | None = None,
        threads: int | None = None,
        *,
        watched: bool = False,
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self._run = RunDirectory(Path(run_path))
        record = load_run_record(self._run)
        if record is None:
            raise RunRecordError(f"no run.json in {run_path!r}; it is written before work starts")
        self._config = RunConfig.model_validate(record.config)
        self._stop = StopWatch(self._run)
        self._attempts = self._begin_start()
        self._watchdog = Watchdog(self._config.hang_timeout) if watched else None
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        network = load_network(
            self._config.weights, normalisation=self._config.normalisation, device=device
        )
        _require_same_weights(network, record)
        self._leaving = ""
        self._maker = RowMaker(record, self._config, network)
        self._work = LaneWork(self._run, self._config, self._maker, self._attempts, self)
        self._synthesis_seconds = self._lane_seconds = 0.0
        self._committed = CommittedTasks(self._run)
        self._begun_before = False
        schema = row_schema(record.carried)
        self._tries = Tries(self._run, schema, self._config.retry_flagged)
        self._writer = ShardWriter(
            self._run,
            schema,
            flush_seconds=self._config.flush_seconds,
            on_commit=self._forget,
        )
        self._attempts.end_all()
        forget_failed_starts(self._run, self._stop.session_id)

    def __call__(self, tasks: pa.Table) -> pa.Table:
        """Synthesise a block of tasks; all its rows are committed on return.

        Textures that are not accepted are tried again under other seeds, as often as the run says.
        Tasks of the block that have rows already are passed over, and so is what is left of it
        once the session, or this actor, was asked to stop.

        Args:
            tasks: columns of a task, `attempts` so far, and those of `pipeline.prepare.PREPARED`.

        Returns:
            One row of SUMMARY per texture made.

        Raises:
            OSError: if rows or attempts cannot be written; committed rows stay.
        """
        summaries: list[Row] = []
        begun_at = datetime.datetime.now(datetime.UTC)
        self._synthesis_seconds = self._lane_seconds = 0.0
        try:
            with self._watchdog.working() if self._watchdog else contextlib.nullcontext():
                for made in self._rows_and_tries(tasks.to_pylist()):
                    self.row_ended(made)
                    summaries.append({name: made.get(name) for name in SUMMARY.names})
        finally:
            # Whatever ended the block, this process lives: no attempt of it is a death.
            with contextlib.suppress(OSError):
                self._attempts.end_all()
        if not summaries:
            return SUMMARY.empty_table()
        block = self._describe_block(len(summaries), begun_at)
        self.block_ended(block)
        return pa.Table.from_pylist([row | {"block": block} for row in summaries], SUMMARY)

    def leave(self, reason: str) -> None:
        """Stop as if the session did, though it goes on elsewhere; safe to call from any thread.

        What has ended is committed, what is under way gets checkpoints, nothing more is begun, and
        no attempt counts as a death. Whoever drives the actor gives its tasks to another.

        Args:
            reason: For the log.
        """
        self._leaving = self._leaving or reason

    @property
    def leaving(self) -> str:
        """Why this actor begins nothing more; empty while it goes on."""
        return self._leaving

    def stopped(self, *, now: bool = False) -> bool:
        """Whether nothing more is to be begun, by the session or by this actor."""
        return bool(self._leaving) or self._stop.stopped(now=now)

    def beat(self) -> None:
        """Say to the watchdog that work goes on."""
        if self._watchdog:
            self._watchdog.beat()

    def device_lost(self) -> None:
        """Commit what has ended, and end this process where somebody starts another."""
        with contextlib.suppress(OSError):
            self._writer.flush()
        if self._watchdog:
            os._exit(EXIT_DEVICE_LOST)

    def row_ended(self, row: Row) -> None:
        """Called for every row that this actor makes; for those that count them."""

    def advanced(self, seconds: float, busy: int, lanes: int) -> None:
        """Called for every stretch of a synthesis: its time, s, and the lanes that had a task."""
        self._synthesis_seconds += seconds
        self._lane_seconds += busy * seconds

    def block_ended(self, block: Mapping[str, Any]) -> None:
        """Called with the values of BLOCK when tasks of a block were done; puts them in the log."""
        RunLog(self._run).event("block", **block)

    def close(self) -> None:
        """Commit what is left and end what runs beside."""
        self._writer.close()
        if self._watchdog:
            self._watchdog.close()
        self._attempts.end_all()

    def _describe_block(self, tasks: int, begun_at: datetime.datetime) -> Row:
        """The values of BLOCK, for one that ends now."""
        seconds = datetime.datetime.now(datetime.UTC) - begun_at
        return {
            "actor": self._attempts.name,
            "tasks": tasks,
            "begun_at": begun_at.isoformat(timespec="milliseconds"),
            "seconds": seconds.total_seconds(),
            "synthesis_seconds": self._synthesis_seconds,
            "lanes": self._work.lanes,
            "lane_seconds": self._lane_seconds,
        }

    def _rows_and_tries(self, block: list[Row]) -> Iterator[Row]:
        """The rows made for a block, round by round; committed are the best ones of its tasks."""
        self._begun_before = begin_block(self._run, block)
        left = self._committed.without(block) if self._begun_before else block
        left = self._tries.begin(block, left)
        while left:
            for made in self._rows(left):
                yield self._add(made)
            # Before a task is begun again: what is forgotten of it with its row is of this try.
            self._writer.flush()
            left = self._tries.take_due(block)

    def _add(self, row: Row) -> Row:
        """Hand a row, or a better one of its task, to the writer; gives the one that was made.

        One that does not fit the schema becomes a failed one.
        """
        try:
            self._writer.add(self._tries.keep(row))
        except SchemaError as error:
            row = self._maker.unfit(row, error)
            self._writer.add(self._tries.keep(row))
        return row

    def _begin_start(self) -> AttemptFile:
        session = self._stop.session_id
        failed = count_failed_starts(self._run, session)
        if failed >= MAX_FAILED_STARTS:
            raise ActorStartError(
                f"{failed} actors died on this machine before they were ready; weights "
                f"{self._config.weights!r}: out of memory, or a broken installation?"
            )
        return AttemptFile(self._run, session)

    def _rows(self, tasks: list[Row]) -> Iterator[Row]:
        """Rows of a block: broken exemplars, new tasks, then the suspects in smaller groups."""
        if self.stopped(now=True):
            return
        own, fresh = self._attempts.name, not self._begun_before
        latest, _ = load_attempts(self._run, but=own, earlier=fresh)
        by_deaths: dict[int, list[Row]] = {}
        for task in tasks:
            attempt = latest.get(task["task_id"])
            deaths = max(0, attempt.number - task["attempts"]) if attempt else 0
            quarantined = deaths >= self._config.max_attempts
            task = task | {"attempts": task["attempts"] + deaths + (not quarantined)}
            if task["error_type"] is not None:
                yield self._maker.unprepared(task)
            elif quarantined:
                yield self._maker.quarantined(task)
            else:
                by_deaths.setdefault(deaths, []).append(task)
        for deaths, group in sorted(by_deaths.items()):
            size = group_size(deaths, self._config.max_attempts, self._work.lanes)
            step = size if deaths else len(group)
            for start in range(0, len(group), step):
                if deaths:
                    # Who is tried last must not take the rows of those before it along.
                    self._writer.flush()
                yield from self._work.rows(group[start : start + step], size)

    def _forget(self, task_ids: Sequence[str]) -> None:
        """Rows are committed: nothing that served their tasks is needed any more."""
        try:
            for task_id in task_ids:
                remove_checkpoint(self._run, task_id)
            self._attempts.end(task_ids)
        except OSError as error:
            # What stays says less than the rows, and is passed over beside them.
            logger.warning("attempts of committed tasks not removed: %s", error)


def _require_same_weights(network: texsynth.TextureNetwork, record: RunRecord) -> None:
    if network.weights_sha256 != record.weights_sha256:
        raise texsynth.WeightsError(
            f"weights {network.weights_id!r} have sha256 {network.weights_sha256} here, the run "
            f"began with {record.weights_sha256}"
        )
