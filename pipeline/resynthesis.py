"""The texture of a row, made again from its seed, alone on one lane.

A row that went on from checkpoints is interrupted where it was; one whose time was up is stopped
at as many evaluations.
"""

from __future__ import annotations

import dataclasses
import math

import torch

from pipeline.blends import blend_arguments
from pipeline.rows import Row
from texsynth import SynthesisConfig, TextureNetwork
from texsynth.blend import Blend
from texsynth.results import SynthesisResult, finish_task, measure_reference_loss
from texsynth.scheduler import Synthesis
from texsynth.shapes import Size
from texsynth.synthesis import prepare_synthesis
from texsynth.tasks import Task, TaskCheckpoint, resume_task

SAME_EVALUATIONS = 1e-6
"""Evaluations at full size: sums in another order differ by less, two readings by more."""


def resynthesize(
    row: Row,
    exemplar: torch.Tensor,
    config: SynthesisConfig,
    network: TextureNetwork,
    output_size: Size | None = None,
    *,
    blend: Blend | None = None,
) -> SynthesisResult:
    """Synthesise the texture of a row again.

    Args:
        row: Its `seed`, `resumed_at`, `stop_reason` and `evaluations` say what is done.
        exemplar: [3, H, W] in [0, 1].
        config: Of the run; its time limit is not kept.
        network: On the device that is to work.
        output_size: (height, width) of the texture, px; None is the exemplar's.
        blend: Its partner, of one lane, if it is a blend.
    """
    config = dataclasses.replace(config, time_limit_s=None)
    stops = list(row["resumed_at"] or [])
    timed_out = row["stop_reason"] == "time_limit"
    if timed_out:
        stops.append(row["evaluations"])
    checkpoints: dict[int, TaskCheckpoint] = {}
    for stop in [*stops, math.inf]:
        work = prepare_synthesis(
            exemplar[None],
            [row["seed"]],
            config,
            network,
            output_size=output_size,
            lanes=1,
            device=network.device,
            checkpoints=checkpoints,
            **blend_arguments(exemplar[None], [blend]),
        )
        result = _advance(work, stop)
        if result is not None:
            return result
        checkpoints = {0: work.checkpoints()[0]}
        if timed_out and stop == stops[-1]:
            break
    # Its seed does not matter: nothing is drawn for it any more.
    budget = config.evaluations
    task = resume_task(checkpoints[0], 0, exemplar, budget, seed=0, output_size=output_size)
    task.blend = blend
    return _end_early(task, checkpoints[0], config, network)


def measure_delivered_loss(
    pixels: torch.Tensor,
    exemplar: torch.Tensor,
    network: TextureNetwork,
    blend: Blend | None = None,
) -> float:
    """Reference loss of a stored texture, as rows have it.

    Args:
        pixels: [3, H, W], 8-bit values over 255.
        exemplar: [3, H, W] in [0, 1].
        network: Of the run.
        blend: Its partner, of one lane, if it is a blend.

    Raises:
        TapError: One of the two is too small for any tap.
    """
    texture, source = (image[None].to(network.device) for image in (pixels, exemplar))
    if blend is not None:
        blend = blend.to(network.device)
    (loss,) = measure_reference_loss(texture, source, network, blend)
    return loss.total


def _advance(work: Synthesis, evaluations: float) -> SynthesisResult | None:
    """Work to the end, or until so many evaluations are spent: then there is no result."""

    def reached() -> bool:
        return work.checkpoints()[0].spent >= evaluations - SAME_EVALUATIONS

    while True:
        results = work.advance(reached if math.isfinite(evaluations) else lambda: False)
        if results:
            return results[0]
        if math.isfinite(evaluations) and reached():
            return None


def _end_early(
    task: Task, checkpoint: TaskCheckpoint, config: SynthesisConfig, network: TextureNetwork
) -> SynthesisResult:
    """The result of a task whose time was up at a checkpoint."""
    task.take_image(task.image.to(network.device), clamp=config.clamp)
    task.tileable = config.tileable
    task.stop_reason = "time_limit"
    lowest = checkpoint.readings[-1][1] if checkpoint.readings else math.inf
    task.objective_loss = lowest if config.keep_best else checkpoint.curve[-1].loss
    return finish_task(task, network)
