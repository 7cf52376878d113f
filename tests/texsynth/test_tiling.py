"""By tiles, value and gradient are those of the whole image."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from texsynth import (
    ConfigError,
    SynthesisConfig,
    TextureNetwork,
    TextureObjective,
    load_network,
    receptive_field_px,
    synthesize,
)
from texsynth.canvas import make_canvas
from texsynth.features import Padding, trunk_layers
from texsynth.gram import compute_gram
from texsynth.tiling import (
    AUTO_TILE_PX,
    LARGEST_WHOLE,
    choose_tile_px,
    compute_grams,
    compute_halo,
    count_seen_pixels,
    largest_view,
)

DrawImages = Callable[..., Tensor]
TAPS = ("relu1_1", "pool1", "pool2")
CONFIG = SynthesisConfig(taps=TAPS, spectrum="gray", gram_weight=1e9, tile_px=None)
REFERENCE_TAPS = ("relu1_1", "pool1", "pool2", "pool3", "pool4", "pool5")


@pytest.fixture(scope="module")
def vgg() -> TextureNetwork:
    """Of the real depth, in float64, with a 32nd of the channels."""
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {}
    for layer in trunk_layers("vgg19"):
        if layer.channels is not None:
            inputs = 3 if layer.tap == "relu1_1" else layer.channels[0] // 32
            outputs = layer.channels[1] // 32
            kernel = torch.randn((outputs, inputs, 3, 3), generator=generator)
            tensors[f"features.{layer.index}.weight"] = kernel * (2 / (9 * inputs)) ** 0.5
            tensors[f"features.{layer.index}.bias"] = torch.rand(outputs, generator=generator)
    return TextureNetwork("vgg19", tensors, weights_id="test", weights_sha256="").double()


def evaluate(
    network: TextureNetwork, config: SynthesisConfig, images: Tensor, *, weighted: bool
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    exemplars = torch.rand(len(images), 3, 40, 48, generator=generator, dtype=torch.float64)
    canvas = make_canvas(exemplars, (images.shape[-2], images.shape[-1]))
    objective = TextureObjective(network, exemplars, config, canvas)
    if weighted:
        objective.even_out(images)
    return objective.value_and_gradient(images)


@pytest.mark.parametrize(
    ("size", "tile_px", "tileable"),
    [
        ((64, 64), 32, False),
        ((72, 40), 32, False),
        ((71, 101), 32, False),  # no multiples of any stride
        ((35, 200), 64, False),
        ((64, 64), 32, True),
        ((40, 100), 36, True),
        ((36, 76), 40, True),  # one tile high
    ],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_value_and_gradient_are_those_of_the_whole_image(
    vgg: TextureNetwork,
    draw_images: DrawImages,
    size: tuple[int, int],
    tile_px: int,
    tileable: bool,
    weighted: bool,
) -> None:
    # Some values lie outside [0, 1], where the network sees them clamped.
    images = 1.2 * draw_images(2, *size) - 0.1
    whole = dataclasses.replace(CONFIG, tileable=tileable)
    by_tiles = dataclasses.replace(whole, tile_px=tile_px)
    value, gradient = evaluate(vgg, whole, images, weighted=weighted)
    tiled_value, tiled_gradient = evaluate(vgg, by_tiles, images, weighted=weighted)
    assert not torch.equal(tiled_gradient, gradient)
    torch.testing.assert_close(tiled_value, value, rtol=1e-9, atol=0)
    largest = gradient.abs().max().item()
    torch.testing.assert_close(tiled_gradient, gradient, rtol=0, atol=1e-9 * largest)


@pytest.mark.parametrize("padding", ["constant", "circular", "reflect"])
def test_so_are_the_gram_matrices_of_all_taps(
    vgg: TextureNetwork, draw_images: DrawImages, padding: Padding
) -> None:
    _compare_grams(vgg, draw_images, padding)


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["constant", "circular", "reflect"])
def test_and_those_of_the_real_channels(draw_images: DrawImages, padding: Padding) -> None:
    _compare_grams(load_network("random:0").double(), draw_images, padding)


def _compare_grams(vgg: TextureNetwork, draw_images: DrawImages, padding: Padding) -> None:
    # Two tiles beside each other, neither of which sees the whole image.
    size = (160, 320)
    assert largest_view(vgg, REFERENCE_TAPS, size, 160) == (160, 288)
    images = draw_images(1, *size).requires_grad_()
    results = []
    for tile_px in (None, 160):
        grams = compute_grams(vgg, images, REFERENCE_TAPS, padding, tile_px)
        total = sum(gram.square().sum() for gram in grams)
        results.append((grams, *torch.autograd.grad(total, images)))
    for whole, tiled in zip(results[0][0], results[1][0], strict=True):
        torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-9 * whole.abs().max().item())
    largest = results[0][1].abs().max().item()
    torch.testing.assert_close(results[1][1], results[0][1], rtol=0, atol=1e-9 * largest)


def test_it_is_the_gradient(vgg: TextureNetwork, draw_images: DrawImages) -> None:
    weights = [torch.randn(n, n, dtype=torch.float64) for n in (2, 2, 4)]

    def total(images: Tensor) -> Tensor:
        grams = compute_grams(vgg, images, TAPS, "constant", 32)
        return torch.stack([(w * gram).sum() for w, gram in zip(weights, grams, strict=True)]).sum()

    # Slopes that are not symmetric, along one direction: all pixels would take minutes.
    images, move = draw_images(1, 40, 36).requires_grad_(), draw_images(1, 40, 36, seed=1)
    (gradient,) = torch.autograd.grad(total(images), images)
    with torch.no_grad():
        slope = (total(images + 1e-6 * move) - total(images - 1e-6 * move)) / 2e-6
    assert slope.item() == pytest.approx((gradient * move).sum().item(), rel=1e-5)


@pytest.mark.parametrize("tap", [*REFERENCE_TAPS, "relu3_2", "relu4_4"])
def test_a_halo_is_as_wide_as_any_position_looks_and_no_stride_wider(
    vgg: TextureNetwork, tap: str
) -> None:
    stride = next(layer.stride for layer in vgg.layers if layer.tap == tap)
    beyond = (receptive_field_px(tap) - stride) / 2
    assert 0 <= compute_halo(vgg, (tap,)) - beyond < stride
    assert compute_halo(vgg, ("relu1_1", tap)) == compute_halo(vgg, (tap,))


def test_without_its_halo_a_tile_would_give_other_matrices(
    vgg: TextureNetwork, draw_images: DrawImages
) -> None:
    images = draw_images(1, 64, 64)
    tiles = [images[..., y : y + 32, x : x + 32] for y, x in itertools.product((0, 32), repeat=2)]
    apart = torch.stack([compute_gram(vgg(tile, ("pool2",))[0]) for tile in tiles]).mean(0)
    (gram,) = compute_grams(vgg, images, ("pool2",), "constant", 32)
    assert not torch.allclose(apart, gram, rtol=1e-4)


def test_what_is_larger_than_1024_by_1024_px_is_tiled_unless_told_otherwise() -> None:
    assert LARGEST_WHOLE == 1024**2
    assert choose_tile_px("auto", (1024, 1024)) is None
    assert choose_tile_px("auto", (2048, 512)) is None
    assert choose_tile_px("auto", (1024, 1040)) == AUTO_TILE_PX
    assert choose_tile_px(None, (4096, 4096)) is None
    assert choose_tile_px(64, (64, 64)) is None
    assert choose_tile_px(64, (64, 65)) == 64
    with pytest.raises(ConfigError, match="tile_px is 16, expected 'auto', null or at least 32"):
        SynthesisConfig(tile_px=16)


@pytest.mark.parametrize("tileable", [False, True])
def test_a_texture_made_by_tiles_is_that_of_the_whole(
    vgg: TextureNetwork, draw_images: DrawImages, tileable: bool
) -> None:
    # Of float32 images, whose rounding grows: few evaluations.
    network, exemplar = copy.deepcopy(vgg).float(), draw_images(1, 32, 48).float()
    losses = []
    for tile_px in (None, 32):
        config = dataclasses.replace(
            CONFIG, tile_px=tile_px, tileable=tileable, levels=1, weighting="none", evaluations=8
        )
        (result,) = synthesize(exemplar, [0], config, network, output_size=(64, 80))
        losses.append(result.objective_loss)
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert losses[1] != losses[0]


@pytest.mark.parametrize("padding", ["constant", "circular"])
@pytest.mark.parametrize("tile_px", [None, 16, 40])
@pytest.mark.parametrize("size", [(64, 96), (8, 8)])
def test_the_pixels_that_the_network_sees_are_counted(
    vgg: TextureNetwork,
    monkeypatch: pytest.MonkeyPatch,
    padding: Padding,
    tile_px: int | None,
    size: tuple[int, int],
) -> None:
    seen = []
    forward = TextureNetwork.forward

    def note(self: TextureNetwork, images: Tensor, *rest: Any) -> list[Tensor]:
        seen.append(images.shape[-2] * images.shape[-1])
        return forward(self, images, *rest)

    monkeypatch.setattr(TextureNetwork, "forward", note)
    images = torch.rand(1, 3, *size, dtype=torch.float64)
    compute_grams(vgg, images, TAPS, padding, tile_px)
    assert count_seen_pixels(vgg, TAPS, size, tile_px, padding) == sum(seen)
