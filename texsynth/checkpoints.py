"""Files of VGG weights: reading them, and checking what they hold.

Nothing is unpickled but through torch's weights-only loader.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from texsynth.features import Architecture, trunk_layers

UNREADABLE = (
    *(SafetensorError, pickle.UnpicklingError),
    *(OSError, EOFError, RuntimeError, ValueError, KeyError, AttributeError, IndexError, TypeError),
)
"""What the two readers raise on damaged files, by where the damage lies."""


class WeightsError(ValueError):
    """Weights that cannot be had or do not fit; the message names file, expectation and remedy."""


def load_checkpoint(path: Path) -> dict[str, Tensor]:
    """The convolutions in a `.safetensors` or `.pth` file, float32, by torchvision's key names.

    Raises:
        WeightsError: if the file is missing, truncated, of another kind, or holds no `features.*`.
    """
    if not path.is_file():
        what = "file" if path.suffix in (".pth", ".safetensors") else "name or file"
        raise WeightsError(f"weights {str(path)!r}: no such {what}")
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
