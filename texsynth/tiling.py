"""Gram matrices of an image too large for the network as a whole, and their gradient, by tiles.

A Gram matrix is a sum over positions, G = sum_t F_t F_t^T / (4 N M), and so is taken a tile t at a
time. The loss is a function of G, with the slope S = dL/dG, so that its gradient is the sum over
tiles of that of <S, F_t F_t^T> / (4 N M): two forward passes and a backward one, each with the maps
of one tile in memory. Around its own pixels a tile sees a halo as wide as any of its positions
looks, and begins at a multiple of the deepest stride, where the pools of the whole image do: but
for rounding, value and gradient are those of the whole image.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from texsynth.config import TilePx
from texsynth.features import Padding, TextureNetwork
from texsynth.gram import compute_gram
from texsynth.shapes import FeatureMap, GramMatrix, Images, Size

LARGEST_WHOLE = 1024**2
"""Pixels of the largest image that passes the network as a whole under `tile_px: auto`."""
AUTO_TILE_PX = 1024
"""With its halo a tile then is little larger than the largest whole image."""


def choose_tile_px(setting: TilePx, size: Size) -> int | None:
    """Longest side of a tile's own part in an image of this size; None for the whole image.

    It does not depend on the device: the same texture is made with the same tiles everywhere.
    """
    if setting == "auto":
        return AUTO_TILE_PX if math.prod(size) > LARGEST_WHOLE else None
    return setting if setting is not None and max(size) > setting else None


def compute_halo(network: TextureNetwork, taps: Sequence[str]) -> int:
    """How far the positions of the taps look beyond their own pixels, in whole deepest strides, px.

    Every convolution looks one position further; pools end where strides do.
    """
    radius = 0
    for layer in network.layers:
        radius += layer.stride if layer.channels is not None else 0
        if layer.tap == taps[-1]:
            return math.ceil(radius / layer.stride) * layer.stride
    raise ValueError(f"taps are {list(taps)}, expected the deepest of the network's last")


def largest_view(network: TextureNetwork, taps: Sequence[str], size: Size, tile_px: int) -> Size:
    """(height, width) of the largest tile of an image with its halo, px."""
    halo, stride = compute_halo(network, taps), _strides(network)[taps[-1]]
    height, width = (
        max(span.stop - span.start for span in _cut_side(side, tile_px, halo, stride, margin=0))
        for side in size
    )
    return height, width


def count_seen_pixels(
    network: TextureNetwork,
    taps: Sequence[str],
    size: Size,
    tile_px: int | None,
    padding: Padding = "constant",
) -> int:
    """Pixels that the network is given of an image in all its tiles, halos included.

    Args:
        network: the trunk.
        taps: names, in the order of the network.
        size: (height, width) of the image, px.
        tile_px: as of `compute_grams`; None for the whole image.
        padding: at the border of the image.
    """
    halo = compute_halo(network, taps)
    margin = halo if padding == "circular" else 0
    if tile_px is None or margin > min(size):
        return math.prod(size)
    stride = _strides(network)[taps[-1]]
    seen = [
        sum(x.stop - x.start for x in _cut_side(side + 2 * margin, tile_px, halo, stride, margin))
        for side in size
    ]
    return math.prod(seen)


def compute_grams(
    network: TextureNetwork,
    images: Images,
    taps: Sequence[str],
    padding: Padding,
    tile_px: int | None,
    *,
    weights: Sequence[Tensor] | None = None,
) -> list[GramMatrix]:
    """Gram matrices of the taps, [B, N, N] each; without weights differentiable by the images.

    Args:
        network: the trunk.
        images: [B, 3, H, W].
        taps: names, in the order of the network.
        padding: at the border of the images.
        tile_px: longest side of a tile without its halo, as `choose_tile_px` gives it.
        weights: [h, w] of each tap's positions, with a mean of 1: how often they count. Not on the
            torus.

    Raises:
        TapError: as the network does.
    """
    margin = compute_halo(network, taps) if padding == "circular" else 0
    # What is narrower than a halo is not too large.
    if tile_px is None or margin > min(images.shape[-2:]):
        maps = network(images, taps, padding)
        if weights is None:
            return [compute_gram(tap) for tap in maps]
        return [compute_gram(tap * w.sqrt().to(tap)) for tap, w in zip(maps, weights, strict=True)]
    if margin:
        # On the torus an image has no border: each tile finds its halo around it.
        images, padding = functional.pad(images, (margin,) * 4, mode="circular"), "constant"
    tiling = _Tiling.of(network, images, taps, padding, tile_px, margin)
    if weights is not None:
        return tiling.sum_products(images.detach(), weights)
    return list(_TiledGrams.apply(images, tiling))


class _Span(NamedTuple):
    """A tile along one side, px: what it sees, and what of that is its own."""

    start: int
    own_start: int
    own_stop: int
    stop: int

    def positions(self, stride: int) -> slice:
        """Its own, of a map of the whole image."""
        return slice(self.own_start // stride, self.own_stop // stride)

    def own_positions(self, stride: int) -> slice:
        """Of a map of what it sees."""
        own, first = self.positions(stride), self.start // stride
        return slice(own.start - first, own.stop - first)


def _cut_side(side: int, tile_px: int, halo: int, stride: int, margin: int) -> list[_Span]:
    """Tiles of nearly equal length, without a margin at either end that belongs to none."""
    inner = side - 2 * margin
    step = math.ceil(inner / math.ceil(inner / tile_px) / stride) * stride
    spans = []
    for start in range(margin, side - margin, step):
        stop = min(start + step, side - margin)
        spans.append(_Span(max(0, start - halo), start, stop, min(side, stop + halo)))
    return spans


def _strides(network: TextureNetwork) -> dict[str, int]:
    return {layer.tap: layer.stride for layer in network.layers}


@dataclass(frozen=True)
class _Tiling:
    """How images of one size pass the network.

    Args:
        padding: at the border of the images; what is padded inside stays in the halos.
        strides: of the taps.
        positions: of the taps, in all tiles.
    """

    network: TextureNetwork
    taps: tuple[str, ...]
    padding: Padding
    rows: list[_Span]
    columns: list[_Span]
    strides: list[int]
    positions: list[int]

    @classmethod
    def of(
        cls,
        network: TextureNetwork,
        images: Images,
        taps: Sequence[str],
        padding: Padding,
        tile_px: int,
        margin: int,
    ) -> _Tiling:
        """Of images with a margin that belongs to no tile."""
        strides = [_strides(network)[tap] for tap in taps]
        halo = compute_halo(network, taps)
        height, width = images.shape[-2:]
        rows, columns = (
            _cut_side(side, tile_px, halo, strides[-1], margin) for side in (height, width)
        )
        inner = height - 2 * margin, width - 2 * margin
        positions = [math.prod(side // stride for side in inner) for stride in strides]
        return cls(network, tuple(taps), padding, rows, columns, strides, positions)

    def __iter__(self) -> Iterator[tuple[_Span, _Span]]:
        return itertools.product(self.rows, self.columns)

    def see(self, images: Images, tile: tuple[_Span, _Span]) -> Images:
        """A tile with its halo, [B, 3, h, w], sharing memory."""
        rows, columns = tile
        return images[..., rows.start : rows.stop, columns.start : columns.stop]

    def own(self, features: FeatureMap, tile: tuple[_Span, _Span], stride: int) -> Tensor:
        """A tile's own positions in a map of what it sees, sharing memory."""
        rows, columns = (span.own_positions(stride) for span in tile)
        return features[..., rows, columns]

    @torch.no_grad()
    def sum_products(
        self, images: Images, weights: Sequence[Tensor] | None = None
    ) -> list[GramMatrix]:
        """The Gram matrices, tile after tile."""
        grams: list[GramMatrix] = []
        for tile in self:
            maps = self.network(self.see(images, tile), self.taps, self.padding)
            for number, (features, stride) in enumerate(zip(maps, self.strides, strict=True)):
                own = self.own(features, tile, stride)
                if weights is not None:
                    rows, columns = (span.positions(stride) for span in tile)
                    own = own * weights[number][rows, columns].sqrt().to(own)
                flat = own.flatten(2)
                product = self.scale(number, flat.shape[1]) * (flat @ flat.mT)
                if number == len(grams):
                    grams.append(product)
                else:
                    grams[number] += product
        return grams

    def scale(self, number: int, channels: int) -> float:
        """1 / (4 N M) of a tap."""
        return 1 / (4 * channels * self.positions[number])


class _TiledGrams(torch.autograd.Function):
    """Images to the Gram matrices of the taps."""

    @staticmethod
    def forward(ctx: Any, images: Images, tiling: _Tiling) -> tuple[GramMatrix, ...]:
        ctx.save_for_backward(images)
        ctx.tiling = tiling
        return tuple(tiling.sum_products(images))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: GramMatrix) -> tuple[Images, None]:
        (images,), tiling = ctx.saved_tensors, ctx.tiling
        gradient = torch.zeros_like(images)
        for tile in tiling:
            tiling.see(gradient, tile).add_(_pull_back(images, tile, tiling, slopes))
        return gradient, None


def _pull_back(
    images: Images, tile: tuple[_Span, _Span], tiling: _Tiling, slopes: Sequence[GramMatrix]
) -> Images:
    """Gradient of sum_l <S_l, F_t F_t^T> / (4 N M) by what a tile sees: S + S^T on its own F_t."""
    with torch.enable_grad():
        seen = tiling.see(images, tile).detach().requires_grad_()
        maps = tiling.network(seen, tiling.taps, tiling.padding)
    gradients = []
    for number, (features, slope) in enumerate(zip(maps, slopes, strict=True)):
        gradient = torch.zeros_like(features)
        own, target = (
            tiling.own(x, tile, tiling.strides[number]) for x in (features.detach(), gradient)
        )
        scaled = tiling.scale(number, slope.shape[-1]) * (slope + slope.mT)
        target.copy_((scaled @ own.flatten(2)).view_as(own))
        gradients.append(gradient)
    (pulled,) = torch.autograd.grad(maps, seen, gradients)
    return pulled
