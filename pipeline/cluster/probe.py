"""What a node finds out about itself: runs there, as a Ray task, and reports instead of raising."""

from __future__ import annotations

import json
import math
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

import numpy as np
import pyarrow as pa
import torch

from pipeline.config import RunConfig
from pipeline.downloads import load_network
from pipeline.prepare import ExemplarSource, prepare_tasks
from pipeline.rundir import TEMPORARY_PREFIX, write_json_atomic
from pipeline.storage import as_path
from texsynth import synthesize
from texsynth.images import image_to_tensor
from texsynth.levels import compute_levels
from texsynth.memory import SHARE_OF_FREE_MEMORY, estimate_lane_bytes

PACKAGES = ("torch", "ray", "texsynth")
"""Whose versions have to be the same on all nodes, beside Python's."""
EXCHANGED = "read, written"
"""What a node says that found the driver's file in the run directory and put one of its own."""
TRIAL_EVALUATIONS = 4
"""Of the one texture that each kind of node makes: enough for every level to be gone through."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one check found: a value, or why there is none.

    Attributes:
        value: for people.
        error: empty if all is well.
    """

    value: str = ""
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class NodeReport:
    """What a node says of itself.

    Attributes:
        versions: by package, Python among them.
        weights: sha256 of the tensors.
        run_directory: whether it saw the driver's file there, and wrote one of its own.
    """

    versions: dict[str, str]
    weights: Outcome
    run_directory: Outcome | None


@dataclass(frozen=True, kw_only=True)
class Token:
    """A file that the driver has put into the run directory, for nodes to find.

    Attributes:
        out: run directory.
        key: what stands in it.
    """

    out: str
    key: str

    def name(self, writer: str) -> str:
        """Of the file that a writer puts there; a run passes over it."""
        return f"{TEMPORARY_PREFIX}check-{self.key}-{writer}.tmp"


def probe_node(node: str, weights: str, token: Token | None) -> NodeReport:
    """Versions, weights, and the way to the run directory.

    Args:
        node: its id, which names the file that it writes.
        weights: as of a run.
        token: None if there is no run directory to look at.
    """
    return NodeReport(
        versions={"python": platform.python_version()} | {p: _version(p) for p in PACKAGES},
        weights=_report(lambda: load_network(weights).weights_sha256),
        run_directory=None if token is None else _report(lambda: _exchange(node, token)),
    )


def read_clock() -> float:
    """Seconds since 1970."""
    return time.time()


def try_texture(config: RunConfig, root: str, task: pa.Table | None, *, gpu: bool) -> Outcome:
    """Make one texture of few evaluations where an actor would, and say how that went.

    Args:
        config: of the run; its evaluations are not spent.
        root: of the manifest's paths.
        task: one row, whose image is read as in a run; None for an image of noise.
        gpu: on a GPU.
    """
    return _report(lambda: _try_texture(config, root, task, gpu=gpu))


def _report(find: Callable[[], str]) -> Outcome:
    """What was found, or in one line what went wrong."""
    try:
        return Outcome(value=find())
    except Exception as error:
        text = " ".join(str(error).split()) or "no message"
        return Outcome(error=f"{type(error).__name__}: {text}")


def _version(package: str) -> str:
    # A checkout on the path is no installed package.
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return str(getattr(sys.modules.get(package), "__version__", "unknown"))


def _exchange(node: str, token: Token) -> str:
    """Read what the driver has written, and leave something for it to read."""
    path = as_path(token.out)
    seen = json.loads((path / token.name("driver")).read_text(encoding="utf-8"))
    if seen != {"key": token.key}:
        raise ValueError(f"the driver's file in {token.out!r} holds {seen!r}")
    write_json_atomic(path / token.name(node), {"key": token.key, "node": node})
    return EXCHANGED


def _try_texture(config: RunConfig, root: str, task: pa.Table | None, *, gpu: bool) -> str:
    device = _require_device(gpu=gpu)
    network = load_network(config.weights, normalisation=config.normalisation, device=device)
    synthesis = config.resolve_synthesis().with_values({"evaluations": TRIAL_EVALUATIONS})
    sizes = compute_levels(synthesis, *config.texture_size, config.exemplar_size)
    lane = estimate_lane_bytes(network, synthesis, sizes, config.exemplar_size)
    memory = _describe_memory(lane) if gpu else ""
    begun = time.monotonic()
    (result,) = synthesize(
        _load_exemplar(config, root, task),
        [config.seed],
        synthesis,
        network,
        lanes=1,
        device=device,
        output_size=config.texture_size,
    )
    if not math.isfinite(result.float_loss.total):
        raise ValueError(f"the loss of the trial is {result.float_loss.total}")
    return f"{time.monotonic() - begun:.1f} s{memory}"


def _require_device(*, gpu: bool) -> str:
    if not gpu:
        return "cpu"
    if not torch.cuda.is_available():
        raise ValueError(
            "Ray counts a GPU here, and torch finds none: driver, CUDA, or a torch for CPUs"
        )
    return "cuda"


def _describe_memory(lane_bytes: int) -> str:
    """Of the GPU, and the lanes that fit.

    Raises:
        MemoryError: not one does.
    """
    free, total = torch.cuda.mem_get_info()
    lanes = int(SHARE_OF_FREE_MEMORY * free) // lane_bytes
    gib = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    if lanes < 1:
        raise MemoryError(f"a lane takes {lane_bytes / 2**30:.1f} GiB, {gib}")
    return f" on {torch.cuda.get_device_name()}, {gib}, {lanes} lanes fit"


def _load_exemplar(config: RunConfig, root: str, task: pa.Table | None) -> torch.Tensor:
    """[1, 3, H, W], RGB in [0, 1]."""
    height, width = config.exemplar_size
    if task is None:
        return torch.rand((1, 3, height, width), generator=torch.Generator().manual_seed(0))
    (row,) = prepare_tasks(task, ExemplarSource(root, config)).to_pylist()
    if row["error"] is not None:
        raise OSError(f"{row['error_type']}, {row['error']}")
    pixels = np.frombuffer(row["pixels"], np.uint8).reshape(height, width, 3)
    return image_to_tensor(pixels)[None]
