"""Tasks on their way through the lanes of all levels, one step at a time.

A batch of lanes has one size, so every level has lanes of its own and tasks move from one to the
next. The finest level whose lanes are all taken is advanced first: results come early, and no
evaluation is spent on an empty lane while a task waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

from texsynth.features import TextureNetwork
from texsynth.lanes import LaneBatch
from texsynth.results import SynthesisResult, finish_task
from texsynth.tasks import CurvePoint, Task, TaskCheckpoint


@dataclass(frozen=True)
class Progress:
    """How far one task is.

    Args:
        index: of its exemplar.
        point: the latest of its loss curve.
        budget: evaluations at full size that it may spend.
    """

    index: int
    point: CurvePoint
    budget: float


class Synthesis:
    """The lanes of all levels and the tasks that wait for them, driven by its caller.

    `prepare_synthesis` makes one. Call `advance` while it is `unfinished`; between two calls all
    other members may be asked, and none of them changes anything.

    Args:
        tasks: new ones and resumed ones, each waiting for its level.
        batches: empty lanes of every level, from coarse to fine.
        network: that measures the results.
        lanes: tasks worked on at once at one level.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        batches: Sequence[LaneBatch],
        network: TextureNetwork,
        lanes: int,
    ) -> None:
        self._batches = batches
        self._network = network
        self._lanes = lanes
        self._waiting: list[deque[Task]] = [deque() for _ in batches]
        self._progress: list[Progress] = []
        for task in tasks:
            self._waiting[task.level].append(task)

    @property
    def unfinished(self) -> bool:
        """Whether any task waits or runs."""
        return self._choose_level() is not None

    @property
    def beginning(self) -> list[int]:
        """Indices of the tasks that the next `advance` puts onto their first lane.

        Each task is named before one `advance` only, a resumed one too; neither is it named again
        when it moves on to a finer level.
        """
        level = self._choose_level()
        if level is None:
            return []
        return [task.index for task in self._next_tasks(level) if not task.begun]

    def progress(self) -> list[Progress]:
        """How far the tasks are that the last `advance` worked on, those that ended included."""
        return list(self._progress)

    def advance(self, interrupted: Callable[[], bool] = lambda: False) -> list[SynthesisResult]:
        """Fill the lanes of one level and work on them until some losses have been looked at.

        Args:
            interrupted: asked after every evaluation; if it says so, work ends before a look.

        Returns:
            Results of the tasks that ended.
        """
        level = self._choose_level()
        if level is None:
            return []
        self._admit(level)
        self._compact(level)
        batch = self._batches[level]
        ended = batch.advance(interrupted)
        self._progress = [
            Progress(task.index, task.curve[-1], task.budget)
            for task in [*batch.running, *ended]
            if task.curve
        ]
        finished = [task for task in ended if self._is_finished(task)]
        for task in ended:
            if task not in finished:
                task.enter_next_level()
                self._waiting[task.level].append(task)
        return [finish_task(task, self._network) for task in finished]

    def checkpoints(self) -> list[TaskCheckpoint]:
        """Of all tasks that would lose work: on a lane, between two levels, or not yet resumed."""
        running = [point for batch in self._batches for point in batch.checkpoints()]
        waiting = [task for queue in self._waiting for task in queue if task.spent]
        return running + [task.make_checkpoint(task.image) for task in waiting]

    def _is_finished(self, task: Task) -> bool:
        return task.level == len(self._batches) - 1 or task.stop_reason == "time_limit"

    def _next_tasks(self, level: int) -> list[Task]:
        """Those that wait for a level, as many as it has free lanes."""
        free = self._lanes - len(self._batches[level].running)
        return list(islice(self._waiting[level], free))

    def _admit(self, level: int) -> None:
        """Put tasks onto the free lanes; should that fail, they still wait."""
        tasks = self._next_tasks(level)
        if not tasks:
            return
        self._batches[level].admit(tasks)
        for _ in tasks:
            self._waiting[level].popleft()

    def _compact(self, level: int) -> None:
        """Give back the empty lanes of the levels that no task will come to any more."""
        waits = any(self._waiting[: level + 1])
        if not waits and not any(batch.running for batch in self._batches[:level]):
            for batch in self._batches[: level + 1]:
                batch.compact()

    def _choose_level(self) -> int | None:
        """The finest with work for all its lanes, else the coarsest with any; None at the end."""
        pairs = zip(self._batches, self._waiting, strict=True)
        work = [len(batch.running) + len(queue) for batch, queue in pairs]
        full = [level for level, count in enumerate(work) if count >= self._lanes]
        some = [level for level, count in enumerate(work) if count]
        if full:
            return full[-1]
        return some[0] if some else None
