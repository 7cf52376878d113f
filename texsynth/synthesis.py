"""From exemplars to textures: levels from coarse to fine, lanes, refill, and the results.

A batch of lanes has one size, so every level has lanes of its own and tasks move from one to the
next. The finest level whose lanes are all taken is advanced first: results come early, and no
evaluation is spent on an empty lane while a task waits.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from texsynth.config import ConfigError, SynthesisConfig
from texsynth.features import TextureNetwork
from texsynth.images import resize, round_to_8_bits, validate_images
from texsynth.lanes import CurvePoint, LaneBatch, StopReason, Task, exact_arithmetic
from texsynth.objective import TextureObjective
from texsynth.shapes import Image8, Images
from texsynth.start import draw_starts

COARSEST_SIDE = 64
"""Shorter side of the coarsest level under `levels: auto`, px: three taps under the tap rule."""
DEFAULT_LANES = 8
"""Lanes unless the caller says how many."""


@dataclass(frozen=True)
class ReferenceLoss:
    """The reference loss of one image, weights included.

    Args:
        gram: per tap.
        spectrum: the gray spectrum term.
    """

    gram: tuple[float, ...]
    spectrum: float

    @property
    def total(self) -> float:
        """Sum of all terms."""
        return math.fsum(self.gram) + self.spectrum


@dataclass(frozen=True)
class SynthesisResult:
    """One finished texture.

    Args:
        index: which of the exemplars given to `synthesize` it belongs to.
        image: float32 [3, H, W] as optimised; may leave [0, 1].
        image_8bit: uint8 [3, H, W], clamped and rounded: what is stored.
        float_loss, delivered_loss: reference loss of the one and of the other.
        taps: of the reference loss, in the order of its Gram terms.
        objective_loss: value of what was minimised at the last level, at the image.
        objective_taps: taps of what was minimised at the last level.
        evaluations: spent, in evaluations at full size.
        iterations: accepted L-BFGS steps, of all levels.
        stop_reason: why the last level ended.
        loss_curve: at most 64 points over all levels.
        out_of_range: share of the values of `image` outside [0, 1].
        seconds: wall-clock time on a lane, which the lanes beside it shared.
    """

    index: int
    image: Tensor
    image_8bit: Image8
    float_loss: ReferenceLoss
    delivered_loss: ReferenceLoss
    taps: tuple[str, ...]
    objective_loss: float
    objective_taps: tuple[str, ...]
    evaluations: float
    iterations: int
    stop_reason: StopReason
    loss_curve: tuple[CurvePoint, ...]
    out_of_range: float
    seconds: float


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


def synthesize(
    exemplars: Images,
    seeds: Sequence[int],
    config: SynthesisConfig,
    network: TextureNetwork,
    *,
    start: Images | None = None,
    lanes: int = DEFAULT_LANES,
    device: str | torch.device = "cpu",
    progress: Callable[[Progress], None] | None = None,
) -> Iterator[SynthesisResult]:
    """Synthesise one texture per exemplar, many at once, each by itself.

    Args:
        exemplars: [B, 3, H, W], RGB in [0, 1]; repeat one, with other seeds, for variations.
        seeds: B seeds of the start images.
        config: what is minimised, and how.
        network: from `load_network`; moved to the device.
        start: [B, 3, H, W], images to start from instead of drawn ones.
        lanes: tasks worked on at once at one level; memory grows with it.
        device: where the work is done.
        progress: called for every running task whenever the losses are looked at.

    Yields:
        A result as soon as its task ends, in no fixed order. On one device and with the same
        lanes, the same result for the same exemplar and seed. The tasks beside it change it by
        rounding only, which L-BFGS makes grow: losses beside others and alone agree to 1e-5 after
        10 evaluations and to 1e-3 after 20 of the exemplars in tests/texsynth/test_synthesis.py;
        after some dozens more a smooth exemplar gives another texture, of like loss.

    Raises:
        ValueError: if shapes, counts or pixels do not fit.
        ConfigError, TapError: if the exemplars are too small for the levels or taps.
    """
    validate_images(exemplars, "exemplars")
    if len(seeds) != len(exemplars):
        raise ValueError(f"{len(seeds)} seeds for {len(exemplars)} exemplars")
    if lanes < 1:
        raise ValueError(f"lanes is {lanes}, expected at least 1")
    if start is not None:
        validate_images(start, "start", lanes=len(exemplars))
    exemplars = exemplars.float()
    sizes = compute_levels(config, exemplars.shape[-2], exemplars.shape[-1])
    network = network.to(device)
    batches = make_batches(network, config, sizes)
    if not len(exemplars):
        return iter(())
    if start is None:
        start = draw_starts(resize(exemplars, *sizes[0]), seeds, config.start)
    tasks = [
        Task(index, exemplar, image, config.evaluations)
        for index, (exemplar, image) in enumerate(zip(exemplars, start.float(), strict=True))
    ]
    return _run(tasks, batches, network, lanes, progress)


def compute_levels(config: SynthesisConfig, height: int, width: int) -> list[tuple[int, int]]:
    """(height, width) of every level from coarse to fine, the last being the full size.

    Raises:
        ConfigError: if the coarsest of a given number of levels is too small for any tap.
    """
    halvings = 0
    if config.levels == "auto":
        while min(height, width) // 2 ** (halvings + 1) >= COARSEST_SIDE:
            halvings += 1
    else:
        halvings = config.levels - 1
    if min(height, width) // 2**halvings < 1:
        raise ConfigError(f"levels is {config.levels}, too many for {width}x{height} px")
    return [(height // 2**k, width // 2**k) for k in range(halvings, -1, -1)]


def make_batches(
    network: TextureNetwork, config: SynthesisConfig, sizes: Sequence[tuple[int, int]]
) -> list[LaneBatch]:
    """Empty lanes for every level.

    Raises:
        TapError: if a level is too small for its taps, or the full size for the reference loss.
    """
    full = sizes[-1]
    for size in sizes:
        network.resolve_taps(config.taps, *size)
    network.resolve_taps("reference", *full)
    costs = [math.prod(size) / math.prod(full) for size in sizes]
    return [
        LaneBatch(network, config, size, full_size=full, finer_cost=sum(costs[level + 1 :]))
        for level, size in enumerate(sizes)
    ]


def finish_task(task: Task, network: TextureNetwork) -> SynthesisResult:
    """Round the image of an ended task and measure the reference loss of both, in float32.

    The same code measures every preset, one task at a time: neither what was minimised nor the
    lanes beside it enter the numbers.
    """
    exemplar = task.exemplar[None].to(network.device)
    image = resize(task.image[None], *task.exemplar.shape[-2:])
    rounded = round_to_8_bits(image)
    losses = []
    with torch.no_grad(), exact_arithmetic():
        objective = TextureObjective(network, exemplar, SynthesisConfig.preset("reference"))
        for measured in (image, rounded.float() / 255):
            terms = objective(measured)
            losses.append(ReferenceLoss(tuple(terms.gram[0].tolist()), float(terms.spectrum[0])))
    return SynthesisResult(
        index=task.index,
        image=image[0].cpu(),
        image_8bit=rounded[0].cpu(),
        float_loss=losses[0],
        delivered_loss=losses[1],
        taps=objective.taps,
        objective_loss=task.objective_loss,
        objective_taps=task.objective_taps,
        evaluations=task.spent,
        iterations=task.iterations,
        stop_reason=task.stop_reason or "budget",
        loss_curve=tuple(task.curve),
        out_of_range=float(((image < 0) | (image > 1)).float().mean()),
        seconds=task.seconds,
    )


def _run(
    tasks: Sequence[Task],
    batches: Sequence[LaneBatch],
    network: TextureNetwork,
    lanes: int,
    progress: Callable[[Progress], None] | None,
) -> Iterator[SynthesisResult]:
    waiting: list[deque[Task]] = [deque() for _ in batches]
    waiting[0].extend(tasks)
    last = len(batches) - 1
    while True:
        level = _choose_level(batches, waiting, lanes)
        if level is None:
            return
        batch, queue = batches[level], waiting[level]
        free = lanes - len(batch.running)
        if queue and free:
            batch.admit([queue.popleft() for _ in range(min(free, len(queue)))])
        if not any(waiting[: level + 1]) and not any(b.running for b in batches[:level]):
            for b in batches[: level + 1]:
                b.compact()
        ended = batch.advance()
        if progress is not None:
            for task in [*batch.running, *ended]:
                progress(Progress(task.index, task.curve[-1], task.budget))
        for task in ended:
            if level == last or task.stop_reason == "time_limit":
                yield finish_task(task, network)
            else:
                waiting[level + 1].append(task)


def _choose_level(
    batches: Sequence[LaneBatch], waiting: Sequence[deque[Task]], lanes: int
) -> int | None:
    """The finest level with work for all its lanes, else the coarsest with any; None at the end."""
    work = [len(b.running) + len(queue) for b, queue in zip(batches, waiting, strict=True)]
    full = [level for level, count in enumerate(work) if count >= lanes]
    some = [level for level, count in enumerate(work) if count]
    if full:
        return full[-1]
    return some[0] if some else None
