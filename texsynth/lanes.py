"""Tasks side by side on one device, at one size: admit, advance, see which ended, refill.

A lane whose task has ended is refilled in place, or dropped when nothing waits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import torch

from texsynth.blend import make_blended_canvas
from texsynth.config import SynthesisConfig
from texsynth.features import TextureNetwork
from texsynth.images import resize
from texsynth.lane import Lane, Reading, read_lanes
from texsynth.lbfgs import (
    Evaluate,
    LBFGSState,
    lbfgs_init,
    lbfgs_reconsider,
    lbfgs_restart,
    lbfgs_select,
    lbfgs_step,
)
from texsynth.objective import TextureObjective
from texsynth.precision import exact_arithmetic
from texsynth.rounding import (
    STAGES,
    TOLERANCE,
    SettledPixels,
    count_stage_evaluations,
    round_values,
)
from texsynth.sensitivity import measuring_cost
from texsynth.shapes import Images, Size
from texsynth.start import refine
from texsynth.tasks import StopReason, Task, TaskCheckpoint, gather_blend


class LaneBatch:
    """The lanes of one level.

    Args:
        network: shared by all lanes.
        config: of the synthesis.
        size: of the textures at this level.
        full_size: of the textures at the finest.
        exemplar_size: of the exemplars at this level; the textures' unless given.
        finer_cost: of what the finer levels do for one evaluation here, in evaluations at full
            size.
    """

    def __init__(
        self,
        network: TextureNetwork,
        config: SynthesisConfig,
        size: Size,
        *,
        full_size: Size,
        exemplar_size: Size | None = None,
        finer_cost: float = 0.0,
    ) -> None:
        self._network = network
        self._config = config
        self._size = size
        self._exemplar_size = exemplar_size or size
        self._taps = network.resolve_taps(config.taps, *size, exemplar_size)
        if config.tileable:
            network.require_tiling(self._taps, *size)
        self._cost = math.prod(size) / math.prod(full_size)
        self._finer_cost = finer_cost
        self._lanes: list[Lane] = []
        self._objective: TextureObjective | None = None
        self._state: LBFGSState | None = None
        self._settled: SettledPixels | None = None
        self._settles = config.settle and size == full_size

    @property
    def running(self) -> list[Task]:
        """Tasks that have not ended."""
        return [lane.task for lane in self._lanes if not lane.ended]

    def admit(self, tasks: Sequence[Task]) -> None:
        """Put tasks onto an empty batch, or onto lanes whose tasks have ended.

        Each starts from its own image, brought to this level, without history, and gets its
        share of the evaluations here, those included that it has already had here.

        Raises:
            ValueError: if there are more tasks than free lanes.
        """
        begun = time.monotonic()
        images, objective = self._prepare(tasks)
        if self._objective is None or self._state is None:
            self._state = lbfgs_init(images, self._config.optimizer)
            self._objective = objective
            self._settled = SettledPixels(images) if self._settles else None
            seconds = time.monotonic() - begun
            self._lanes = [self._occupy(task, seconds) for task in tasks]
            return
        free = [number for number, lane in enumerate(self._lanes) if lane.ended]
        if len(free) < len(tasks):
            raise ValueError(f"{len(tasks)} tasks for {len(free)} free lanes")
        free = free[: len(tasks)]
        chosen = torch.tensor(free, device=images.device)
        self._objective.replace(chosen, objective)
        self._state = lbfgs_restart(self._state, chosen, images)
        if self._settled is not None:
            self._settled.release(chosen)
        seconds = time.monotonic() - begun
        for number, task in zip(free, tasks, strict=True):
            self._lanes[number] = self._occupy(task, seconds)

    def _occupy(self, task: Task, seconds: float) -> Lane:
        """A lane of the task, which from here on has begun, and what its preparation cost."""
        task.begin()
        task.objective_taps = self._taps
        task.charge(self._cost * measuring_cost(self._config))
        task.seconds += seconds
        lane = Lane(task, 0, weighted=self._config.weighting != "none")
        self._set_limit(lane, self._limit(task))
        return lane

    def _set_limit(self, lane: Lane, limit: int) -> None:
        """Where it ends, or if its pixels are to settle before, where that is to begin."""
        lane.stage, lane.reason = 0, None
        left = limit - lane.task.level_evaluations
        lane.stage_evaluations = count_stage_evaluations(left) if self._settles else 0
        if lane.stage_evaluations:
            # One evaluation says whether it is worth it.
            limit -= STAGES * lane.stage_evaluations + 1
        lane.limit = limit

    def _prepare(self, tasks: Sequence[Task]) -> tuple[Images, TextureObjective]:
        """Where the tasks begin at this level, and what they minimise here."""
        device = self._network.device
        exemplars = torch.stack([task.exemplar for task in tasks]).to(device)
        exemplars = resize(exemplars, *self._exemplar_size)
        blend = gather_blend(tasks, device)
        if blend is not None:
            blend = blend.resize(self._exemplar_size)
        tileable = self._config.tileable
        canvas = make_blended_canvas(exemplars, self._size, blend, tileable=tileable)
        images = torch.cat(
            [self._bring_to_level(task, own[None]) for task, own in zip(tasks, canvas, strict=True)]
        )
        with exact_arithmetic():
            objective = TextureObjective(self._network, exemplars, self._config, canvas, blend)
            if self._config.weighting != "none":
                objective.even_out(images)
        return images, objective

    def _bring_to_level(self, task: Task, canvas: Images) -> Images:
        """Its image at this size; detail is added to what comes from a coarser level."""
        image = task.image[None].to(canvas)
        enlarged = image.shape[-1] < canvas.shape[-1]
        if enlarged and self._config.start == "random_phase":
            return refine(image, canvas, [task.seed], periodic=self._config.tileable)
        return resize(image, *self._size, periodic=self._config.tileable)

    def compact(self) -> None:
        """Drop the lanes whose tasks have ended."""
        kept = [number for number, lane in enumerate(self._lanes) if not lane.ended]
        if len(kept) == len(self._lanes) or self._objective is None or self._state is None:
            return
        self._lanes = [self._lanes[number] for number in kept]
        if not kept:
            self._objective = self._state = self._settled = None
            return
        chosen = torch.tensor(kept, device=self._network.device)
        self._objective = self._objective.select(chosen)
        self._state = lbfgs_select(self._state, chosen)
        if self._settled is not None:
            self._settled.select(chosen)

    def resume(self, evaluations: float) -> None:
        """Let all tasks go on from where they stopped, with their history.

        Args:
            evaluations: to be spent from here on, at full size.
        """
        self._release([number for number, lane in enumerate(self._lanes) if lane.stage])
        for lane in self._lanes:
            task = lane.task
            self._set_limit(lane, task.level_evaluations + self._share(evaluations))
            task.budget = task.spent + evaluations
            task.limit_from_s = task.seconds
            task.readings.clear()
            lane.ended = False

    def checkpoints(self) -> list[TaskCheckpoint]:
        """Of all tasks that have not ended, at the images that they would end with now."""
        if self._state is None:
            return []
        lanes = zip(self._lanes, self._images(self._state), strict=True)
        return [lane.task.make_checkpoint(image) for lane, image in lanes if not lane.ended]

    def advance(self, interrupted: Callable[[], bool] = lambda: False) -> list[Task]:
        """Evaluate all lanes until some lane is due, then look at the losses of those that are.

        Args:
            interrupted: asked after every evaluation; if it says so, the rest are left for later.

        Returns:
            The tasks that ended with this advance: image, loss, curve and stop reason are set.
        """
        running = [lane for lane in self._lanes if not lane.ended]
        if not running or self._objective is None or self._state is None:
            return []
        self._make_plain([number for number, lane in enumerate(self._lanes) if lane.slow])
        due_at = [lane.next_reading for lane in running]
        evaluate: Evaluate = self._objective.value_and_gradient
        if self._settled is not None:
            evaluate = self._settled.hold(evaluate)
        begun, is_interrupted = time.monotonic(), False
        with exact_arithmetic():
            while all(not lane.is_at(due) for lane, due in zip(running, due_at, strict=True)):
                self._state = lbfgs_step(self._state, evaluate, self._config.optimizer)
                for lane in running:
                    lane.task.spend(self._cost)
                if is_interrupted := interrupted():
                    break
        readings = read_lanes(self._state)
        seconds = time.monotonic() - begun
        ended = []
        due_of = dict(zip(running, due_at, strict=True))
        for number, (lane, reading) in enumerate(zip(self._lanes, readings, strict=True)):
            if lane not in due_of:
                continue
            lane.account(reading, seconds)
            if not lane.is_at(due_of[lane]):
                continue
            stop_reason = lane.look_at(reading, self._config, min(self._size))
            if stop_reason is None:
                continue
            if self._may_settle(lane, stop_reason) and (
                # What is next is left for later, and looked at again then.
                is_interrupted or self._settle(lane, number, reading, stop_reason)
            ):
                continue
            self._end(lane, number, reading, stop_reason)
            ended.append(lane.task)
        return ended

    def _share(self, budget: float) -> int:
        """Evaluations at this level if the finer ones get theirs."""
        return max(1, math.floor(budget / (self._cost + self._finer_cost) + 1e-6))

    def _limit(self, task: Task) -> int:
        """Evaluations at this level in all; a resumed task has its share as it was, no new one."""
        unspent = task.budget - task.spent + task.level_evaluations * self._cost
        return max(task.level_evaluations + 1, self._share(unspent))

    def _end(self, lane: Lane, number: int, reading: Reading, stop_reason: StopReason) -> None:
        """Hand the image to the task; it stays on the device."""
        if self._state is None:
            return
        lane.ended = True
        image = self._images(self._state)[number].detach()
        lane.task.take_image(image.clone(), clamp=self._config.clamp)
        lane.task.tileable = self._config.tileable
        best = self._config.keep_best
        lane.task.objective_loss = reading.best_value if best else reading.value
        lane.task.stop_reason = stop_reason

    def _make_plain(self, numbers: list[int]) -> None:
        """Weight the parts of the losses of some lanes no longer; their history is kept."""
        if not numbers or self._objective is None or self._state is None:
            return
        for number in numbers:
            lane = self._lanes[number]
            lane.weighted = lane.slow = False
            lane.task.readings.clear()
            self._objective.make_plain(number)
        chosen = torch.tensor(numbers, device=self._network.device)
        self._state = lbfgs_reconsider(self._state, chosen, self._images(self._state)[chosen])

    def _may_settle(self, lane: Lane, stop_reason: StopReason) -> bool:
        """Whether pixels of a lane are left to settle, and evaluations for it."""
        is_due = stop_reason in ("budget", "plateau") and lane.stage < STAGES
        return is_due and lane.stage_evaluations > 0

    def _settle(self, lane: Lane, number: int, reading: Reading, stop_reason: StopReason) -> bool:
        """Let the next pixels of a lane settle, which thereby goes on; False if it is to end."""
        if self._settled is None or self._state is None:
            return False
        if lane.stage == 0 and not self._is_worth_settling(lane, number, reading):
            lane.limit += STAGES * lane.stage_evaluations
            lane.stage_evaluations = 0
            return stop_reason == "budget"
        lane.reason = stop_reason
        lane.stage += 1
        lane.limit = lane.task.level_evaluations + lane.stage_evaluations
        image = self._settled.settle(number, self._images(self._state)[number], lane.stage)
        chosen = torch.tensor([number], device=image.device)
        self._state = lbfgs_reconsider(self._state, chosen, image[None])
        return True

    def _is_worth_settling(self, lane: Lane, number: int, reading: Reading) -> bool:
        """Whether the objective would rise too far if all pixels were rounded now."""
        if self._objective is None or self._state is None:
            return False
        chosen = torch.tensor([number], device=self._network.device)
        rounded = round_values(self._images(self._state)[chosen])
        with exact_arithmetic():
            value, _ = self._objective.select(chosen).value_and_gradient(rounded)
        lane.task.charge(self._cost)
        now = reading.best_value if self._config.keep_best else reading.value
        return float(value) > (1 + TOLERANCE) * now

    def _release(self, numbers: list[int]) -> None:
        """Make the pixels of some lanes free again."""
        if not numbers or self._settled is None or self._state is None:
            return
        chosen = torch.tensor(numbers, device=self._network.device)
        images = self._images(self._state)[chosen]
        self._settled.release(chosen)
        self._state = lbfgs_reconsider(self._state, chosen, images)

    def _images(self, state: LBFGSState) -> Images:
        images = state.best_point if self._config.keep_best else state.point
        return images if self._settled is None else self._settled.apply(images)
