"""From exemplars to textures: the levels, their lanes, and the tasks of one call.

`texsynth.scheduler` does the work; here it is made ready, and driven to its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from texsynth.blend import Blend, make_blended_canvas, validate_blend
from texsynth.config import SynthesisConfig
from texsynth.features import TextureNetwork
from texsynth.images import resize, validate_images
from texsynth.lanes import LaneBatch
from texsynth.levels import compute_exemplar_levels, compute_finer_costs, compute_levels
from texsynth.results import ReferenceLoss, SynthesisResult
from texsynth.scheduler import Progress, Synthesis
from texsynth.shapes import Images, Size
from texsynth.start import draw_starts
from texsynth.tasks import Task, TaskCheckpoint, resume_task, validate_checkpoint

__all__ = [
    "ReferenceLoss",
    "Synthesis",
    "SynthesisResult",
    "make_batches",
    "prepare_synthesis",
    "synthesize",
]

DEFAULT_LANES = 8
"""Lanes unless the caller says how many."""
NO_CHECKPOINTS: Mapping[int, TaskCheckpoint] = MappingProxyType({})


def synthesize(
    exemplars: Images,
    seeds: Sequence[int],
    config: SynthesisConfig,
    network: TextureNetwork,
    *,
    output_size: Size | None = None,
    start: Images | None = None,
    blend_with: Images | None = None,
    blend_weights: Sequence[float] | None = None,
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
        output_size: (height, width) of the textures, px; the exemplars' unless given.
        start: [B, 3, H, W], images to start from instead of drawn ones.
        blend_with: [B, 3, H', W'], second exemplars, of the first ones' size (`texsynth.blend`).
        blend_weights: B weights of the second exemplars in [0, 1]; 0 is no blend, to the bit.
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
        ConfigError, TapError: if exemplars or textures are too small for the levels or taps.
    """
    synthesis = prepare_synthesis(
        exemplars,
        seeds,
        config,
        network,
        output_size=output_size,
        start=start,
        blend_with=blend_with,
        blend_weights=blend_weights,
        lanes=lanes,
        device=device,
    )
    return _drive(synthesis, progress)


def prepare_synthesis(
    exemplars: Images,
    seeds: Sequence[int],
    config: SynthesisConfig,
    network: TextureNetwork,
    *,
    output_size: Size | None = None,
    start: Images | None = None,
    blend_with: Images | None = None,
    blend_weights: Sequence[float] | None = None,
    lanes: int = DEFAULT_LANES,
    device: str | torch.device = "cpu",
    checkpoints: Mapping[int, TaskCheckpoint] = NO_CHECKPOINTS,
) -> Synthesis:
    """The work of `synthesize`, for a caller that drives it step by step and takes checkpoints.

    All arguments but the last are those of `synthesize`. `checkpoints`, by number of the exemplar,
    are of the tasks that go on instead of beginning anew; each was made of the same exemplar, with
    the same config and weights.

    Raises:
        ValueError: if shapes, counts, pixels or checkpoints do not fit.
        ConfigError, TapError: as `synthesize`.
    """
    validate_images(exemplars, "exemplars")
    if len(seeds) != len(exemplars):
        raise ValueError(f"{len(seeds)} seeds for {len(exemplars)} exemplars")
    if lanes < 1:
        raise ValueError(f"lanes is {lanes}, expected at least 1")
    if start is not None:
        validate_images(start, "start", lanes=len(exemplars))
    blend = validate_blend(exemplars, blend_with, blend_weights)
    exemplar_size = (exemplars.shape[-2], exemplars.shape[-1])
    sizes = compute_levels(config, *(output_size or exemplar_size), exemplar_size)
    _validate_checkpoints(checkpoints, len(exemplars), sizes)
    network = network.to(device)
    batches = make_batches(network, config, sizes, exemplar_size)
    tasks = []
    for index, exemplar in enumerate(exemplars.float()):
        seed, own = seeds[index], None if blend is None else blend.select(index)
        if index in checkpoints:
            point, budget = checkpoints[index], config.evaluations
            task = resume_task(point, index, exemplar, budget, seed, output_size)
        else:
            if start is None:
                image = draw_first_start(exemplar, seed, config, sizes, own)
            else:
                image = start[index].float()
            task = Task(index, exemplar, image, config.evaluations, seed, output_size)
        task.blend = own
        tasks.append(task)
    return Synthesis(tasks, batches, network, lanes)


def draw_first_start(
    exemplar: Tensor,
    seed: int,
    config: SynthesisConfig,
    sizes: Sequence[Size],
    blend: Blend | None = None,
) -> Tensor:
    """The start image of a task, of the coarsest level, [3, h, w].

    Args:
        exemplar: [3, H', W'] at full size.
        seed: of the task.
        config: says what it starts from.
        sizes: of the texture at every level, the finest last.
        blend: the second exemplar, of one lane.
    """
    exemplar_size = (exemplar.shape[-2], exemplar.shape[-1])
    coarsest = compute_exemplar_levels(sizes, exemplar_size)[0]
    coarse = resize(exemplar[None], *coarsest)
    blend = None if blend is None else blend.resize(coarsest)
    canvas = make_blended_canvas(coarse, sizes[0], blend, tileable=config.tileable)
    return draw_starts(canvas, [seed], config.start)[0]


def make_batches(
    network: TextureNetwork,
    config: SynthesisConfig,
    sizes: Sequence[Size],
    exemplar_size: Size | None = None,
) -> list[LaneBatch]:
    """Empty lanes for every level.

    Args:
        network: shared by all lanes.
        config: of the synthesis.
        sizes: of the texture at every level, the finest last.
        exemplar_size: at the finest; the texture's unless given.

    Raises:
        TapError: if texture or exemplar are too small at a level for its taps, or at full size for
            the reference loss.
    """
    network.resolve_taps("reference", *sizes[-1], exemplar_size)
    levels = zip(
        sizes,
        compute_exemplar_levels(sizes, exemplar_size),
        compute_finer_costs(sizes),
        strict=True,
    )
    return [
        LaneBatch(
            network, config, size, full_size=sizes[-1], exemplar_size=own, finer_cost=finer_cost
        )
        for size, own, finer_cost in levels
    ]


def _validate_checkpoints(
    checkpoints: Mapping[int, TaskCheckpoint], exemplars: int, sizes: Sequence[Size]
) -> None:
    for index, checkpoint in checkpoints.items():
        if not 0 <= index < exemplars:
            raise ValueError(f"a checkpoint is of exemplar {index}, expected 0 to {exemplars - 1}")
        validate_checkpoint(checkpoint, sizes, f"checkpoint of exemplar {index}")


def _drive(
    synthesis: Synthesis, progress: Callable[[Progress], None] | None
) -> Iterator[SynthesisResult]:
    while synthesis.unfinished:
        results = synthesis.advance()
        if progress is not None:
            for state in synthesis.progress():
                progress(state)
        yield from results
