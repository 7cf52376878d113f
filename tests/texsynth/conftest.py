"""Small networks and images, in float64, so that an oracle can be compared to the last digits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from texsynth import TextureNetwork
from texsynth.features import Architecture, trunk_layers

DrawConvolutions = Callable[..., dict[str, Tensor]]
MakeNetwork = Callable[..., TextureNetwork]
DrawImages = Callable[..., Tensor]


@pytest.fixture(autouse=True, scope="module")
def _one_thread(one_thread: None) -> None:
    """All tests of the science."""


def _draw_convolutions(
    architecture: Architecture = "vgg19", deepest: str = "relu2_2", seed: int = 0
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for layer in trunk_layers(architecture):
        if layer.channels is not None:
            inputs, outputs = layer.channels
            kernel = torch.randn((outputs, inputs, 3, 3), generator=generator)
            bias = torch.randn(outputs, generator=generator)
            tensors[f"features.{layer.index}.weight"] = kernel * (2 / (9 * inputs)) ** 0.5
            tensors[f"features.{layer.index}.bias"] = 0.05 * bias
        if layer.tap == deepest:
            return tensors
    raise AssertionError(f"{architecture} has no {deepest}")


@pytest.fixture(scope="session")
def draw_convolutions() -> DrawConvolutions:
    """He-initialised float32 tensors of a prefix: (architecture, deepest convolution, seed)."""
    return _draw_convolutions


@pytest.fixture(scope="session")
def make_network() -> MakeNetwork:
    """A float64 network of such a prefix; keywords go to `TextureNetwork`."""

    def make(
        architecture: Architecture = "vgg19", deepest: str = "relu2_2", **settings: Any
    ) -> TextureNetwork:
        convolutions = _draw_convolutions(architecture, deepest)
        identity = {"weights_id": "test", "weights_sha256": ""}
        return TextureNetwork(architecture, convolutions, **(identity | settings)).double()

    return make


@pytest.fixture(scope="session")
def network(make_network: MakeNetwork) -> TextureNetwork:
    """The first four convolutions of a VGG19, in float64: taps relu1_1 to pool2."""
    return make_network()


@pytest.fixture(scope="session")
def draw_images() -> DrawImages:
    """Float64 images uniform in [0, 1]: (lanes, height, width, seed)."""

    def draw(lanes: int, height: int, width: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.rand((lanes, 3, height, width), generator=generator, dtype=torch.float64)

    return draw
