"""What comes out of a synthesis: a finished texture, measured as it is delivered."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from texsynth.blend import Blend, make_blended_canvas
from texsynth.config import SynthesisConfig
from texsynth.features import TextureNetwork
from texsynth.images import resize, round_to_8_bits
from texsynth.objective import TextureObjective
from texsynth.precision import exact_arithmetic
from texsynth.shapes import Image8, Images
from texsynth.tasks import CurvePoint, StopReason, Task, gather_blend


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
        image: float32 [3, H, W] as optimised; may leave [0, 1] unless the config says `clamp`.
        image_8bit: uint8 [3, H, W], clamped and rounded: what is stored.
        float_loss, delivered_loss: reference loss of the one and of the other.
        taps: of the reference loss, in the order of its Gram terms.
        objective_loss: value of what was minimised at the last level, at the image before any
            clamping.
        objective_taps: taps of what was minimised at the last level.
        evaluations: spent, in evaluations at full size.
        iterations: accepted L-BFGS steps, of all levels.
        stop_reason: why the last level ended.
        loss_curve: at most 64 points over all levels.
        out_of_range: share of the values outside [0, 1] before any were clamped, at the last level.
        seconds: wall-clock time on a lane, which the lanes beside it shared.
        resumed_at: evaluations at full size at which it went on from a checkpoint.
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
    resumed_at: tuple[float, ...] = ()


def measure_reference_loss(
    textures: Images, exemplar: Images, network: TextureNetwork, blend: Blend | None = None
) -> list[ReferenceLoss]:
    """The reference loss of textures of one exemplar, in float32.

    At another size than the exemplar's, the spectrum term is towards its canvas
    (`texsynth.canvas`), and the tap rule holds for the smaller of the two.

    Args:
        textures: [B, 3, H, W], measured one by one, so that none changes another's rounding.
        exemplar: [1, 3, H', W'] in [0, 1], on the network's device as the textures are.
        network: whose features are compared.
        blend: the second exemplar, of one lane, if they are blends.

    Raises:
        TapError: if texture or exemplar are too small for any tap.
    """
    config = SynthesisConfig.preset("reference")
    losses = []
    with torch.no_grad(), exact_arithmetic():
        size = (textures.shape[-2], textures.shape[-1])
        canvas = make_blended_canvas(exemplar, size, blend)
        objective = TextureObjective(network, exemplar, config, canvas, blend)
        for texture in textures:
            terms = objective(texture[None])
            losses.append(ReferenceLoss(tuple(terms.gram[0].tolist()), float(terms.spectrum[0])))
    return losses


def finish_task(task: Task, network: TextureNetwork) -> SynthesisResult:
    """Round the image of an ended task and measure the reference loss of both.

    The same code measures every preset, one task at a time: neither what was minimised nor the
    lanes beside it enter the numbers.
    """
    exemplar = task.exemplar[None].to(network.device)
    exemplar_size = (exemplar.shape[-2], exemplar.shape[-1])
    image = resize(task.image[None], *task.size, periodic=task.tileable)
    if task.clamp:
        # Enlarging, where time was up at a coarser level, oversteps.
        image = image.clamp(0, 1)
    rounded = round_to_8_bits(image)
    measured = torch.cat([image, rounded.float() / 255])
    blend = gather_blend([task], network.device)
    losses = measure_reference_loss(measured, exemplar, network, blend)
    return SynthesisResult(
        index=task.index,
        image=image[0].cpu(),
        image_8bit=rounded[0].cpu(),
        float_loss=losses[0],
        delivered_loss=losses[1],
        taps=network.resolve_taps("reference", *task.size, exemplar_size),
        objective_loss=task.objective_loss,
        objective_taps=task.objective_taps,
        evaluations=task.spent,
        iterations=task.iterations,
        stop_reason=task.stop_reason or "budget",
        loss_curve=tuple(task.curve),
        out_of_range=task.out_of_range,
        seconds=task.seconds,
        resumed_at=task.resumed_at,
    )
