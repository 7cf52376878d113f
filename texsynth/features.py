"""A frozen VGG19 or VGG16 with 2x2 average pooling that returns the taps of a batch of images.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (ICLR
2015); average instead of max pooling: Gatys, Ecker, Bethge (NeurIPS 2015). Layers carry the indices
of torchvision's `features`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from texsynth.config import REFERENCE_SIDE, REFERENCE_TAPS, Taps
from texsynth.shapes import FeatureMap, Images, Size

Architecture = Literal["vgg19", "vgg16"]
Normalisation = Literal["none", "imagenet"]
Padding = Literal["constant", "circular", "reflect"]
"""What convolutions see beyond the border: zeros, the opposite edge, or what lies inside it."""

CONVOLUTIONS: dict[Architecture, tuple[int, ...]] = {
    "vgg19": (2, 2, 4, 4, 4),
    "vgg16": (2, 2, 3, 3, 3),
}
"""Convolutions in each of the five blocks; every block ends in a pool."""
CHANNELS = (64, 128, 256, 512, 512)
"""Output channels of the blocks' convolutions."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MIN_TAP_SIDE = 16
"""Positions that a tap needs on both sides under `taps: auto`. Its Gram matrices then hold about as
many numbers as the image has (256 px: 196,608 pixel values, 176,640 entries to pool4). Deeper taps
hold more, and zero padding anchors them, so that the minimum of the loss is a copy."""


class TapError(ValueError):
    """A tap that the network does not have, or that an image is too small for."""


@dataclass(frozen=True)
class Layer:
    """One step of the trunk: a convolution with its ReLU, or a pool.

    Args:
        tap: its name as a tap, such as `relu3_1` or `pool2`.
        index: of the convolution or pool in torchvision's `features`.
        channels: (in, out) of a convolution; None for a pool.
        stride: px of the input per position of the output.
    """

    tap: str
    index: int
    channels: tuple[int, int] | None
    stride: int


def trunk_layers(architecture: Architecture) -> tuple[Layer, ...]:
    """All layers of an architecture, in order."""
    layers: list[Layer] = []
    index, channels, stride = 0, 3, 1
    for block, (count, width) in enumerate(
        zip(CONVOLUTIONS[architecture], CHANNELS, strict=True), start=1
    ):
        for number in range(1, count + 1):
            layers.append(Layer(f"relu{block}_{number}", index, (channels, width), stride))
            index, channels = index + 2, width
        stride *= 2
        layers.append(Layer(f"pool{block}", index, None, stride))
        index += 1
    return tuple(layers)


class TextureNetwork(nn.Module):
    """Convolutions and ReLUs of a VGG trunk, frozen, shared by all lanes.

    Args:
        architecture: `vgg19` or `vgg16`.
        convolutions: float32 tensors `features.I.weight` [out, in, 3, 3] and `features.I.bias`
            [out], gapless from the first; layers past the last are missing from the network.
        mean, std: what the input [0, 1] is shifted by, then divided by; R, G, B.
        weights_id: where the tensors came from.
        weights_sha256: of the tensors.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        architecture: Architecture,
        convolutions: Mapping[str, Tensor],
        *,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        weights_id: str,
        weights_sha256: str,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.weights_id = weights_id
        self.weights_sha256 = weights_sha256
        self.layers: list[Layer] = []
        for layer in trunk_layers(architecture):
            name = f"features_{layer.index}"
            if layer.channels is not None:
                if f"features.{layer.index}.weight" not in convolutions:
                    break
                for part in ("weight", "bias"):
                    tensor = convolutions[f"features.{layer.index}.{part}"]
                    self.register_buffer(f"{name}_{part}", tensor.clone())
            self.layers.append(layer)
        self._shifted = any(mean) or any(value != 1 for value in std)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))
        self.eval()

    @property
    def available_taps(self) -> tuple[str, ...]:
        """Names of all taps that the loaded layers give, in order."""
        return tuple(layer.tap for layer in self.layers)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.mean.device

    def resolve_taps(
        self, taps: Taps, height: int, width: int, exemplar_size: Size | None = None
    ) -> tuple[str, ...]:
        """Tap names in network order for textures of height x width px.

        `auto` keeps those of relu1_1, pool1 to pool5 that the network has and that have at least
        MIN_TAP_SIDE positions on both sides; `reference` keeps all six where texture and exemplar
        have 256 x 256 px.

        Args:
            taps: as in a `SynthesisConfig`.
            height: of the texture.
            width: of the texture.
            exemplar_size: of the exemplar, if another; the shorter sides of the two decide.

        Raises:
            TapError: for an unknown or missing tap, or an image too small for a tap.
        """
        sides = {height, width, *(exemplar_size or ())}
        whole = taps == "reference" and sides == {REFERENCE_SIDE}
        if exemplar_size is not None:
            height, width = min(height, exemplar_size[0]), min(width, exemplar_size[1])
        if isinstance(taps, tuple):
            return self._validate_taps(taps, height, width)
        fewest = 1 if whole else MIN_TAP_SIDE
        chosen = tuple(
            layer.tap
            for layer in self.layers
            if layer.tap in REFERENCE_TAPS and min(height, width) // layer.stride >= fewest
        )
        if not chosen:
            raise TapError(
                f"image of {width}x{height} px, tap 'relu1_1' needs {MIN_TAP_SIDE}x{MIN_TAP_SIDE}"
            )
        return chosen

    def _validate_taps(self, taps: tuple[str, ...], height: int, width: int) -> tuple[str, ...]:
        layers = {layer.tap: layer for layer in self.layers}
        for tap in taps:
            if tap not in layers:
                raise TapError(
                    f"tap {tap!r} is not in {self.architecture} from weights {self.weights_id!r}; "
                    f"it has {', '.join(layers)}"
                )
            stride = layers[tap].stride
            if min(height, width) < stride:
                raise TapError(
                    f"image of {width}x{height} px, tap {tap!r} needs {stride}x{stride} px"
                )
        return tuple(tap for tap in layers if tap in taps)

    def require_tiling(self, taps: Sequence[str], height: int, width: int) -> None:
        """Raise unless every pool before the deepest of the taps halves both sides evenly.

        Raises:
            TapError: naming the tap and what it needs.
        """
        strides = {layer.tap: layer.stride for layer in self.layers}
        deepest = max(taps, key=lambda tap: strides[tap])
        if height % strides[deepest] or width % strides[deepest]:
            raise TapError(
                f"tileable texture of {width}x{height} px, tap {deepest!r} needs sides that are "
                f"multiples of {strides[deepest]}"
            )

    def forward(
        self, images: Images, taps: Sequence[str], padding: Padding = "constant"
    ) -> list[FeatureMap]:
        """Feature maps of the taps in network order, computed no further than the deepest.

        Args:
            images: [B, 3, H, W], RGB, nominally in [0, 1].
            taps: names out of `available_taps`.
            padding: at the border of every convolution.

        Raises:
            TapError: as `resolve_taps` does.
        """
        wanted = self._validate_taps(tuple(taps), *images.shape[-2:])
        features = (images - self.mean) / self.std if self._shifted else images
        maps: list[FeatureMap] = []
        for layer in self.layers:
            features = self._advance(layer, features, padding)
            if layer.tap in wanted:
                maps.append(features)
                if len(maps) == len(wanted):
                    break
        return maps

    def _advance(self, layer: Layer, features: FeatureMap, padding: Padding) -> FeatureMap:
        if layer.channels is None:
            return functional.avg_pool2d(features, 2)
        weight = self.get_buffer(f"features_{layer.index}_weight")
        bias = self.get_buffer(f"features_{layer.index}_bias")
        if padding == "constant":
            return functional.relu(functional.conv2d(features, weight, bias, padding=1))
        continued = functional.pad(features, (1, 1, 1, 1), mode=padding)
        return functional.relu(functional.conv2d(continued, weight, bias))
