"""Tasks side by side on the lanes of one actor, each ending as a row: whatever goes wrong with one.

What a task cannot be blamed for comes out as an exception: a disk that is full, a device that no
longer answers. All else is found out task by task, each tried by itself, and becomes its row.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch

from pipeline.attempts import AttemptFile
from pipeline.blends import blend_arguments, load_blend
from pipeline.config import RunConfig
from pipeline.lane_checkpoints import load_checkpoint, save_checkpoint
from pipeline.rows import Row, RowMaker
from pipeline.rundir import RunDirectory
from texsynth import TextureNetwork
from texsynth.images import image_to_tensor
from texsynth.levels import compute_levels
from texsynth.memory import choose_lanes
from texsynth.scheduler import Synthesis
from texsynth.shapes import Size
from texsynth.synthesis import prepare_synthesis

MEMORY_ERRORS = (MemoryError, torch.OutOfMemoryError)

logger = logging.getLogger(__name__)


class DeviceLostError(OSError):
    """A device on which nothing can be done any more by this process."""


class Owner(Protocol):
    """What the work asks of, and tells, the actor that it belongs to."""

    def stopped(self, *, now: bool = False) -> bool:
        """Whether nothing more is to be begun; with `now` it looks anew."""

    def beat(self) -> None:
        """Told again and again that work goes on."""

    def advanced(self, seconds: float, busy: int, lanes: int) -> None:
        """Told of every stretch of a synthesis: its time, s, and the lanes that had a task."""

    def device_lost(self) -> None:
        """Told that the device no longer answers; need not return."""


class LaneWork:
    """Makes rows of prepared tasks.

    Args:
        run: Whose checkpoints are read and written.
        config: Of the run.
        maker: Of the rows; its network does the work.
        attempts: Gets each task before work on it begins.
        owner: The actor.

    Attributes:
        lanes: Tasks worked on at once; fewer after they did not fit.
    """

    def __init__(
        self,
        run: RunDirectory,
        config: RunConfig,
        maker: RowMaker,
        attempts: AttemptFile,
        owner: Owner,
    ) -> None:
        self._run, self._config, self._attempts = run, config, attempts
        self._maker, self._owner = maker, owner
        self._network: TextureNetwork = maker.network
        self._synthesis = config.resolve_synthesis()
        self._sizes: list[Size] = compute_levels(
            self._synthesis, *config.texture_size, config.exemplar_size
        )
        self.lanes: int = (
            choose_lanes(self._network, self._synthesis, self._sizes, config.exemplar_size)
            if config.lanes == "auto"
            else config.lanes
        )

    def rows(self, tasks: Sequence[Row], lanes: int) -> Iterator[Row]:
        """Rows of tasks that may be worked on side by side, as they end.

        Those that are left when the actor is to stop get checkpoints, and no row.

        Args:
            tasks: With pixels, and the number of this attempt.
            lanes: Of them at once, at most.

        Raises:
            OSError: Attempts cannot be recorded, or the device is lost.
        """
        waiting = {task["task_id"]: task for task in tasks}
        while waiting and not self._owner.stopped():
            begun: set[str] = set()
            try:
                yield from self._synthesize(waiting, lanes, begun)
            except MEMORY_ERRORS as error:
                self._recover_device(error)
                if lanes == 1:
                    yield from self._rows_one_by_one(waiting, begun, error)
                else:
                    lanes //= 2
                    self.lanes = min(self.lanes, lanes)
                    names = ", ".join(sorted(begun))
                    logger.warning(
                        "out of memory: %s; going on with %d lanes; at work: %s",
                        *(error, lanes, names),
                    )
            except OSError:
                # Attempts cannot be recorded: that is no task's fault, and nothing may be begun.
                raise
            except Exception as error:
                # One task must not take its neighbours along: each is tried by itself, then named.
                self._recover_device(error)
                yield from self._rows_one_by_one(waiting, begun, error)

    def prepare(self, tasks: Sequence[Row], exemplars: torch.Tensor, lanes: int) -> Synthesis:
        """The tasks on their lanes; those that have checkpoints go on from them."""
        found = {i: load_checkpoint(self._run, task, self._sizes) for i, task in enumerate(tasks)}
        return prepare_synthesis(
            exemplars,
            [task["seed"] for task in tasks],
            self._synthesis,
            self._network,
            output_size=self._config.texture_size,
            lanes=lanes,
            device=self._network.device,
            checkpoints={index: point for index, point in found.items() if point is not None},
            **blend_arguments(exemplars, [load_blend(task, self._config.size) for task in tasks]),
        )

    def _rows_one_by_one(
        self, waiting: dict[str, Row], begun: set[str], before: BaseException
    ) -> Iterator[Row]:
        """Rows of the tasks that were at work when an error came up, each by itself."""
        context = f"after {type(before).__name__} beside other tasks"
        for task_id in [task_id for task_id in waiting if task_id in begun or not begun]:
            task = waiting.pop(task_id)
            try:
                yield from self._synthesize({task_id: task}, 1, set())
            except OSError:
                raise
            except Exception as error:
                self._recover_device(error)
                yield self._maker.failed(task, error, context=context)

    def _synthesize(self, waiting: dict[str, Row], lanes: int, begun: set[str]) -> Iterator[Row]:
        """Rows of the tasks as they end, until all have or the actor is to stop.

        Args:
            waiting: Tasks by id; one leaves when its row is made.
            lanes: Tasks worked on at once.
            begun: Gets the ids of the tasks that work was begun on.
        """
        tasks = list(waiting.values())
        exemplars = torch.stack([self._exemplar(task) for task in tasks])
        # What kills the process before any of them is on a lane is to be found, too.
        self._attempts.begin({task["task_id"]: task["attempts"] for task in tasks})
        work = self.prepare(tasks, exemplars, lanes)
        first = {tasks[index]["task_id"] for index in work.beginning}
        self._attempts.end(waiting.keys() - first)
        saved_at = time.monotonic()
        while work.unfinished and not self._is_interrupted():
            beginning = [tasks[index] for index in work.beginning]
            if beginning and self._owner.stopped(now=True):
                break
            self._attempts.begin({task["task_id"]: task["attempts"] for task in beginning})
            begun.update(task["task_id"] for task in beginning)
            since = time.monotonic()
            results = work.advance(self._is_interrupted)
            self._owner.advanced(time.monotonic() - since, len(work.progress()), lanes)
            for result in results:
                task = tasks[result.index]
                blend = load_blend(task, self._config.size)
                row = self._maker.texture(task, result, exemplars[result.index], blend)
                del waiting[task["task_id"]]
                self._owner.beat()
                yield row
            if time.monotonic() - saved_at >= self._config.lane_checkpoint_seconds:
                self._save_checkpoints(work, tasks)
                saved_at = time.monotonic()
        if work.unfinished:
            self._save_checkpoints(work, tasks)

    def _save_checkpoints(self, work: Synthesis, tasks: Sequence[Row]) -> None:
        try:
            for point in work.checkpoints():
                save_checkpoint(self._run, tasks[point.index], point)
                self._owner.beat()
        except OSError as error:
            # Rows matter more: where these cannot be written either, the writer says so.
            logger.warning("checkpoints not written: %s", error)

    def _exemplar(self, task: Row) -> torch.Tensor:
        size = self._config.size
        pixels = np.frombuffer(task["pixels"], np.uint8).reshape(size, size, 3)
        return image_to_tensor(pixels)

    def _is_interrupted(self) -> bool:
        """Asked after every evaluation: work goes on, says it to the watchdog; is it to stop?"""
        self._owner.beat()
        return self._owner.stopped()

    def _recover_device(self, error: BaseException) -> None:
        """Give memory back; if the device no longer answers, end before it fails all other tasks.

        Some errors of CUDA stay until the process ends. Whoever watches over this one starts
        another, to which the attempts in flight are deaths.
        """
        if not is_on_gpu(self._network):
            return
        try:
            torch.cuda.empty_cache()
            torch.ones(1, device=self._network.device).item()
        except RuntimeError as lost:
            logger.exception("the device is lost after %s", type(error).__name__)
            self._owner.device_lost()
            raise DeviceLostError(f"{self._network.device} no longer answers: {lost}") from error


def is_on_gpu(network: TextureNetwork) -> bool:
    """Whether a network is on a CUDA device."""
    return network.device.type == "cuda"
