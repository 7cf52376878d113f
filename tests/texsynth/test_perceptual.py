from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
import torchvision
from torch import Tensor

from texsynth import PairError, PerceptualError, perceptual_distance

DrawImages = Callable[..., Tensor]
needs_torchmetrics = pytest.mark.skipif(
    importlib.util.find_spec("torchmetrics") is None, reason="extra `perceptual` not installed"
)


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """A VGG16 of random weights in place of the one that torch hub would fetch."""
    from torchmetrics.functional.image import dists

    torch.manual_seed(0)
    vgg = torchvision.models.vgg
    network = SimpleNamespace(features=vgg.make_layers(vgg.cfgs["D"]))
    monkeypatch.setattr(dists, "vgg16", lambda weights: network)


@needs_torchmetrics
@pytest.mark.usefixtures("untrained")
def test_a_copy_has_no_distance_and_lanes_are_apart(draw_images: DrawImages) -> None:
    exemplars = draw_images(2, 40, 32).float()
    textures = torch.stack([exemplars[0], 1 - exemplars[1]])
    distances = perceptual_distance(textures, exemplars)
    assert distances[0].item() == pytest.approx(0, abs=1e-4)
    assert distances[1].item() > 0.01
    assert not distances.requires_grad
    alone = perceptual_distance(textures[1:], exemplars[1:])
    torch.testing.assert_close(alone, distances[1:])


@needs_torchmetrics
def test_weights_that_cannot_be_had(
    draw_images: DrawImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchmetrics.functional.image import dists

    def fail(weights: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(dists, "vgg16", fail)
    images = draw_images(1, 32, 32).float()
    with pytest.raises(PerceptualError, match=r"VGG16 .* cannot be had \(no route to host\): put"):
        perceptual_distance(images, images)


def test_without_the_extra(draw_images: DrawImages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.image.dists", None)
    images = draw_images(1, 32, 32).float()
    with pytest.raises(PerceptualError, match=r"pip install 'texsynth\[perceptual\]'"):
        perceptual_distance(images, images)
    with pytest.raises(PairError, match="expected the same"):
        perceptual_distance(images, images[..., 1:])
