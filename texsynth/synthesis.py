"""From exemplars to textures: the levels, their lanes, and the tasks of one call.

`texsynth.scheduler` does the work; here it is made ready, and driven to its end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

import torch

from texsynth.config import ConfigError, SynthesisConfig
from texsynth.features import TextureNetwork
from texsynth.images import resize, validate_images
from texsynth.lanes import LaneBatch
from texsynth.results import ReferenceLoss, SynthesisResult
from texsynth.scheduler import Progress, Synthesis
from texsynth.shapes import Images
from texsynth.start import draw_starts
from texsynth.tasks import Task, TaskCheckpoint, resume_task, validate_checkpoint

__all__ = [
    "ReferenceLoss",
    "Synthesis",
    "SynthesisResult",
    "compute_levels",
    "make_batches",
    "prepare_synthesis",
    "synthesize",
]

COARSEST_SIDE = 64
"""Shorter side of the coarsest level under `levels: auto`, px: three taps under the tap rule."""
LEVEL_GROWTH = 2
"""Evaluations at a level over those at the coarser one; as many at both leave the finer one short
(measured: benchmarks/convergence)."""
DEFAULT_LANES = 8
"""Lanes unless the caller says how many."""
NO_CHECKPOINTS: Mapping[int, TaskCheckpoint] = MappingProxyType({})


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
    synthesis = prepare_synthesis(
        exemplars, seeds, config, network, start=start, lanes=lanes, device=device
    )
    return _drive(synthesis, progress)


def prepare_synthesis(
    exemplars: Images,
    seeds: Sequence[int],
    config: SynthesisConfig,
    network: TextureNetwork,
    *,
    start: Images | None = None,
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
    sizes = compute_levels(config, exemplars.shape[-2], exemplars.shape[-1])
    _validate_checkpoints(checkpoints, len(exemplars), sizes)
    network = network.to(device)
    batches = make_batches(network, config, sizes)
    tasks = []
    for index, exemplar in enumerate(exemplars.float()):
        if index in checkpoints:
            point = checkpoints[index]
            tasks.append(resume_task(point, index, exemplar, config.evaluations, seeds[index]))
            continue
        if start is None:
            coarse = resize(exemplar[None], *sizes[0])
            image = draw_starts(coarse, [seeds[index]], config.start)[0]
        else:
            image = start[index].float()
        tasks.append(Task(index, exemplar, image, config.evaluations, seeds[index]))
    return Synthesis(tasks, batches, network, lanes)


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
    finer_costs = compute_finer_costs(sizes)
    return [
        LaneBatch(network, config, size, full_size=full, finer_cost=finer_cost)
        for size, finer_cost in zip(sizes, finer_costs, strict=True)
    ]


def compute_finer_costs(sizes: Sequence[tuple[int, int]]) -> list[float]:
    """What all finer levels spend for one evaluation at a level, in evaluations at full size.

    Every level gets LEVEL_GROWTH times as many evaluations as the coarser one.

    Args:
        sizes: (height, width) of every level, the finest last.
    """
    costs = [math.prod(size) / math.prod(sizes[-1]) for size in sizes]
    finer_costs = [0.0]
    for cost in reversed(costs[1:]):
        finer_costs.insert(0, LEVEL_GROWTH * (cost + finer_costs[0]))
    return finer_costs


def _validate_checkpoints(
    checkpoints: Mapping[int, TaskCheckpoint], exemplars: int, sizes: Sequence[tuple[int, int]]
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
