from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import vgg

from texsynth import TapError, TextureNetwork, load_network
from texsynth.config import REFERENCE_TAPS, Taps
from texsynth.features import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Architecture,
    Layer,
    Padding,
    trunk_layers,
)

MakeNetwork = Callable[..., TextureNetwork]
DrawConvolutions = Callable[..., dict[str, Tensor]]
DrawImages = Callable[..., Tensor]
UNTIL_POOL4 = REFERENCE_TAPS[:5]


@pytest.fixture(scope="module")
def whole() -> TextureNetwork:
    """All sixteen convolutions of a VGG19."""
    return load_network("random:0")


def torchvision_trunk(architecture: Architecture) -> nn.Sequential:
    """`features` as torchvision builds them, with average pooling."""
    trunk = vgg.make_layers(vgg.cfgs["E" if architecture == "vgg19" else "D"])
    for index, module in enumerate(trunk):
        if isinstance(module, nn.MaxPool2d):
            trunk[index] = nn.AvgPool2d(kernel_size=2, stride=2)
    return trunk


@pytest.mark.parametrize("architecture", ["vgg19", "vgg16"])
def test_layers_have_torchvisions_indices_and_channels(architecture: Architecture) -> None:
    trunk = torchvision_trunk(architecture)
    stride, listed = 1, set()
    for layer in trunk_layers(architecture):
        module = trunk[layer.index]
        listed.add(layer.index)
        if layer.channels is None:
            assert isinstance(module, nn.AvgPool2d)
            stride *= 2
        else:
            assert isinstance(module, nn.Conv2d)
            assert (module.in_channels, module.out_channels) == layer.channels
            assert isinstance(trunk[layer.index + 1], nn.ReLU)
        assert layer.stride == stride
    assert all(isinstance(trunk[i], nn.ReLU) for i in set(range(len(trunk))) - listed)


def test_reference_taps_have_the_indices_of_the_reference() -> None:
    indices = {layer.tap: layer.index for layer in trunk_layers("vgg19")}
    assert [indices[tap] for tap in REFERENCE_TAPS] == [0, 4, 9, 18, 27, 36]


def test_maps_are_those_of_torchvisions_trunk(whole: TextureNetwork) -> None:
    trunk = torchvision_trunk("vgg19")
    images = torch.rand((2, 3, 32, 48))
    state = dict(trunk.state_dict())
    for key in state:
        state[key] = whole.get_buffer(f"features_{key.replace('.', '_')}")
    trunk.load_state_dict(state)
    expected, features = [], images
    with torch.no_grad():
        for index, module in enumerate(trunk):
            features = module(features)
            if index in (1, 4, 9, 18, 27, 36):  # 1: the ReLU after the first convolution
                expected.append(features.clone())
    maps = whole(images, REFERENCE_TAPS)
    assert len(maps) == 6
    for got, wanted in zip(maps, expected, strict=True):
        torch.testing.assert_close(got, wanted)


def test_maps_come_in_network_order(network: TextureNetwork, draw_images: DrawImages) -> None:
    images = draw_images(1, 16, 16)
    forwards = network(images, ("relu1_1", "relu2_1", "pool2"))
    backwards = network(images, ("pool2", "relu1_1", "relu2_1"))
    assert [tuple(tap.shape) for tap in forwards] == [
        (1, 64, 16, 16),
        (1, 128, 8, 8),
        (1, 128, 4, 4),
    ]
    assert all(torch.equal(a, b) for a, b in zip(forwards, backwards, strict=True))


def test_nothing_is_computed_past_the_deepest_tap(
    make_network: MakeNetwork, draw_images: DrawImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = make_network()
    seen: list[str] = []
    advance = network._advance

    def record(layer: Layer, features: Tensor, padding: Padding) -> Tensor:
        seen.append(layer.tap)
        return advance(layer, features, padding)

    monkeypatch.setattr(network, "_advance", record)
    network(draw_images(1, 8, 8), ("relu1_1", "pool1"))
    assert seen == ["relu1_1", "relu1_2", "pool1"]


def test_the_network_is_frozen(network: TextureNetwork, draw_images: DrawImages) -> None:
    images = draw_images(1, 8, 8).requires_grad_()
    (pool2,) = network(images, ("pool2",))
    pool2.sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert not network.training
    assert list(network.parameters()) == []
    assert all(not b.requires_grad and b.grad is None for b in network.buffers())


def test_the_network_keeps_its_own_weights(draw_convolutions: DrawConvolutions) -> None:
    tensors = draw_convolutions(deepest="relu1_1")
    network = TextureNetwork("vgg19", tensors, weights_id="x", weights_sha256="")
    before = network(torch.ones(1, 3, 4, 4), ("relu1_1",))[0]
    tensors["features.0.weight"].zero_()
    assert torch.equal(network(torch.ones(1, 3, 4, 4), ("relu1_1",))[0], before)


def test_normalisation_is_that_of_the_input(
    make_network: MakeNetwork, draw_images: DrawImages
) -> None:
    images = draw_images(2, 8, 8)
    raw, normalised = make_network(), make_network(mean=IMAGENET_MEAN, std=IMAGENET_STD)
    mean, std = torch.tensor([IMAGENET_MEAN, IMAGENET_STD]).double().view(2, 1, 3, 1, 1)
    (expected,) = raw((images - mean) / std, ("pool2",))
    torch.testing.assert_close(normalised(images, ("pool2",))[0], expected, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(raw(images, ("pool2",))[0], expected)


def test_batch_equals_the_stack_of_singles(
    network: TextureNetwork, draw_images: DrawImages
) -> None:
    images = draw_images(3, 12, 17)
    (together,) = network(images, ("pool2",))
    singles = torch.cat([network(image[None], ("pool2",))[0] for image in images])
    torch.testing.assert_close(together, singles, rtol=1e-12, atol=1e-12)


def test_odd_sides_lose_the_last_position(network: TextureNetwork, draw_images: DrawImages) -> None:
    pool1, pool2 = network(draw_images(1, 15, 9), ("pool1", "pool2"))
    assert (pool1.shape[2:], pool2.shape[2:]) == ((7, 4), (3, 2))


@pytest.mark.parametrize(
    ("taps", "height", "width", "expected"),
    [
        ("auto", 512, 512, REFERENCE_TAPS),
        ("auto", 256, 256, UNTIL_POOL4),
        ("auto", 255, 256, REFERENCE_TAPS[:4]),
        ("auto", 128, 128, REFERENCE_TAPS[:4]),
        ("auto", 64, 64, REFERENCE_TAPS[:3]),
        ("auto", 63, 64, REFERENCE_TAPS[:2]),
        ("auto", 32, 32, REFERENCE_TAPS[:2]),
        ("auto", 16, 16, REFERENCE_TAPS[:1]),
        ("auto", 256, 64, REFERENCE_TAPS[:3]),
        ("auto", 64, 256, REFERENCE_TAPS[:3]),
        ("reference", 256, 256, REFERENCE_TAPS),
        ("reference", 256, 512, UNTIL_POOL4),
        ("reference", 512, 512, REFERENCE_TAPS),
        ("reference", 128, 128, REFERENCE_TAPS[:4]),
        (("pool2", "relu1_1"), 8, 8, ("relu1_1", "pool2")),
        (("pool5", "relu3_4"), 32, 40, ("relu3_4", "pool5")),
    ],
)
def test_tap_rule(
    whole: TextureNetwork, taps: Taps, height: int, width: int, expected: tuple[str, ...]
) -> None:
    assert whole.resolve_taps(taps, height, width) == expected


@pytest.mark.parametrize("taps", ["auto", "reference"])
def test_rules_take_only_taps_that_the_network_has(network: TextureNetwork, taps: Any) -> None:
    assert network.available_taps == (
        *("relu1_1", "relu1_2", "pool1"),
        *("relu2_1", "relu2_2", "pool2"),
    )
    assert network.resolve_taps(taps, 256, 256) == ("relu1_1", "pool1", "pool2")


@pytest.mark.parametrize("taps", ["auto", "reference"])
def test_rules_refuse_an_image_that_is_too_small(whole: TextureNetwork, taps: Any) -> None:
    with pytest.raises(TapError, match=r"image of 40x15 px, tap 'relu1_1' needs 16x16"):
        whole.resolve_taps(taps, 15, 40)


def test_a_tap_needs_one_position(whole: TextureNetwork) -> None:
    assert whole.resolve_taps(("pool5",), 32, 32) == ("pool5",)
    with pytest.raises(TapError, match=r"image of 31x32 px, tap 'pool5' needs 32x32 px"):
        whole.resolve_taps(("pool1", "pool5"), 32, 31)
    with pytest.raises(TapError, match=r"tap 'pool5' needs 32x32 px"):
        whole(torch.rand(1, 3, 16, 16), ("pool5",))


@pytest.mark.parametrize("tap", ["pool3", "relu9_1", "conv1_1"])
def test_a_missing_tap_is_named_with_those_that_exist(network: TextureNetwork, tap: str) -> None:
    with pytest.raises(TapError) as caught:
        network.resolve_taps(("relu1_1", tap), 64, 64)
    assert str(caught.value) == (
        f"tap {tap!r} is not in vgg19 from weights 'test'; "
        "it has relu1_1, relu1_2, pool1, relu2_1, relu2_2, pool2"
    )


def test_a_prefix_may_end_inside_a_block(
    make_network: MakeNetwork, draw_images: DrawImages
) -> None:
    network = make_network(deepest="relu2_1")
    assert network.available_taps == ("relu1_1", "relu1_2", "pool1", "relu2_1")
    assert network(draw_images(1, 8, 8), ("relu2_1",))[0].shape == (1, 128, 4, 4)


def test_vgg16_and_vgg19_part_after_conv3_3(make_network: MakeNetwork) -> None:
    sixteen = make_network("vgg16", "relu3_3").available_taps
    nineteen = make_network("vgg19", "relu3_3").available_taps
    assert sixteen == (*nineteen, "pool3")


def test_device_is_where_the_weights_lie(network: TextureNetwork) -> None:
    assert network.device == torch.device("cpu")
