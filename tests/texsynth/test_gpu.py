"""On a CUDA device: the values of the CPU, lanes apart, the same again, memory as estimated."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.lane_memory import measure_peak
from texsynth import (
    LBFGSConfig,
    SynthesisConfig,
    TextureNetwork,
    TextureObjective,
    load_network,
    synthesize,
)
from texsynth.levels import compute_levels
from texsynth.memory import estimate_lane_bytes
from texsynth.precision import exact_arithmetic

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DrawImages = Callable[..., Tensor]
QUICK = SynthesisConfig.preset("default", evaluations=12)


@pytest.fixture(scope="module")
def on_cpu() -> TextureNetwork:
    """A whole VGG19 in float32."""
    return load_network("random:0")


@pytest.fixture(scope="module")
def on_gpu(on_cpu: TextureNetwork) -> TextureNetwork:
    """The same, on the device."""
    return copy.deepcopy(on_cpu).to("cuda")


def make(network: TextureNetwork, exemplars: Tensor, **settings: Any) -> dict[int, Tensor]:
    """Stored images by number of the exemplar."""
    seeds = settings.pop("seeds", range(len(exemplars)))
    config = settings.pop("config", QUICK)
    lanes = settings.pop("lanes", len(exemplars))
    results = synthesize(exemplars, seeds, config, network, lanes=lanes, device=network.device)
    return {result.index: result.image_8bit for result in results}


@pytest.mark.parametrize("tile_px", [None, 64])
@pytest.mark.parametrize("preset", ["reference", "default"])
def test_value_and_gradient_are_those_of_float64_on_the_cpu(
    on_cpu: TextureNetwork,
    on_gpu: TextureNetwork,
    draw_images: DrawImages,
    preset: Any,
    tile_px: int | None,
) -> None:
    taps = ("relu1_1", "pool1", "pool2", "pool3")
    config = SynthesisConfig.preset(preset, taps=taps, tile_px=tile_px)
    exemplars, images = draw_images(2, 96, 128), draw_images(2, 96, 128, seed=1)
    exact = TextureObjective(copy.deepcopy(on_cpu).double(), exemplars, config)
    value, gradient = exact.value_and_gradient(images)
    with exact_arithmetic():
        objective = TextureObjective(on_gpu, exemplars.float().cuda(), config)
        got, direction = objective.value_and_gradient(images.float().cuda())
    assert got.cpu().double().tolist() == pytest.approx(value.tolist(), rel=2e-5)
    error = (direction.cpu().double() - gradient).flatten(1).norm(dim=1)
    assert (error < 2e-4 * gradient.flatten(1).norm(dim=1)).all(), error


def test_the_same_again_to_the_bit(on_gpu: TextureNetwork, draw_images: DrawImages) -> None:
    exemplars = draw_images(3, 64, 64).float()
    first, second = make(on_gpu, exemplars), make(on_gpu, exemplars)
    assert all(torch.equal(image, second[index]) for index, image in first.items())


def test_poison_in_one_lane_is_not_noticed_by_the_others(
    on_gpu: TextureNetwork, draw_images: DrawImages
) -> None:
    exemplars, images = draw_images(3, 64, 64).float().cuda(), draw_images(3, 64, 64, seed=1)
    images = images.float().cuda()
    config = SynthesisConfig.preset("default", taps=("relu1_1", "pool1", "pool2"))
    with exact_arithmetic():
        objective = TextureObjective(on_gpu, exemplars, config)
        clean, gradient = objective.value_and_gradient(images)
        images[1, 0, 3, 5] = torch.nan
        poisoned, directions = objective.value_and_gradient(images)
    assert not poisoned[1].isfinite()
    assert torch.equal(poisoned[::2], clean[::2])
    assert torch.equal(directions[::2], gradient[::2])


def test_losses_are_those_of_the_cpu_after_some_evaluations(
    on_cpu: TextureNetwork, on_gpu: TextureNetwork, draw_images: DrawImages
) -> None:
    exemplars = draw_images(2, 64, 64).float()

    def losses(network: TextureNetwork) -> list[float]:
        results = synthesize(exemplars, [0, 1], QUICK, network, lanes=2, device=network.device)
        return [r.float_loss.total for r in sorted(results, key=lambda result: result.index)]

    assert losses(on_gpu) == pytest.approx(losses(on_cpu), rel=1e-2)


@pytest.mark.parametrize("side", [128, 256])
def test_memory_of_a_lane_is_estimated_within_15_percent(
    on_gpu: TextureNetwork, draw_images: DrawImages, side: int
) -> None:
    config = SynthesisConfig(optimizer=LBFGSConfig(history=10))
    exemplar = draw_images(1, 128, 128).float()
    sizes = compute_levels(config, side, side, (128, 128))
    estimated = estimate_lane_bytes(on_gpu, config, sizes, (128, 128))
    few, many = (measure_peak(on_gpu, config, exemplar, n, (side, side)) for n in (2, 6))
    assert (many - few) / 4 == pytest.approx(estimated, rel=0.15)
