from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from texsynth import (
    TapError,
    TextureNetwork,
    choose_held_out_tap,
    gram_errors,
    load_network,
    measure_fit,
)

DrawImages = Callable[..., Tensor]


def slow_gram_error(texture: Tensor, exemplar: Tensor) -> float:
    left, right = (
        torch.einsum("nhw,mhw->nm", features, features) / features.shape[1:].numel()
        for features in (texture, exemplar)
    )
    return ((left - right).norm() / right.norm()).item()


def test_gram_errors_are_relative_distances(
    network: TextureNetwork, draw_images: DrawImages
) -> None:
    taps = ["relu1_1", "pool1", "pool2"]
    textures, exemplars = draw_images(2, 16, 24), draw_images(2, 20, 16, seed=1)
    errors = gram_errors(network, textures, exemplars, taps)
    pairs = zip(network(textures, taps), network(exemplars, taps), strict=True)
    for column, (left, right) in enumerate(pairs):
        for lane in range(2):
            expected = slow_gram_error(left[lane], right[lane])
            assert errors[lane, column].item() == pytest.approx(expected)
    assert gram_errors(network, exemplars, exemplars, taps).abs().max() < 1e-12
    with pytest.raises(TapError, match="tap 'pool4' is not in"):
        gram_errors(network, textures, exemplars, ["pool4"])


def test_the_held_out_tap_is_the_next_deeper_or_one_left_over(
    network: TextureNetwork, draw_images: DrawImages
) -> None:
    whole = load_network("random:0")
    for side, deepest, expected in ((256, "pool4", "pool5"), (128, "pool3", "pool4")):
        taps = whole.resolve_taps("auto", side, side)
        assert taps[-1] == deepest
        assert choose_held_out_tap(whole, taps, side, side) == expected
    # At 100 px pool4 has 6 positions a side; the deepest layer with 8 that is left is relu4_4.
    assert choose_held_out_tap(whole, ("relu1_1", "pool3"), 100, 100) == "relu4_4"
    # This network ends in pool2.
    assert network.available_taps[-2:] == ("relu2_2", "pool2")
    assert choose_held_out_tap(network, ("relu1_1", "pool1", "pool2"), 64, 64) == "relu2_2"
    assert choose_held_out_tap(network, ("relu1_1", "pool1"), 64, 64) == "pool2"
    assert choose_held_out_tap(network, network.available_taps, 64, 64) is None
    assert choose_held_out_tap(network, ("relu1_1",), 7, 64) is None


def test_a_fit_has_the_taps_of_the_smaller_image(
    network: TextureNetwork, draw_images: DrawImages
) -> None:
    textures, exemplars = draw_images(2, 64, 64), draw_images(2, 40, 50, seed=1)
    fit = measure_fit(network, textures, exemplars)
    assert tuple(fit.errors) == ("relu1_1", "pool1")
    assert fit.held_out_tap == "pool2"
    assert fit.held_out_error is not None
    expected = gram_errors(network, textures, exemplars, ["pool2"])[:, 0]
    torch.testing.assert_close(fit.held_out_error, expected)
    larger = measure_fit(network, textures, textures.flip(3))
    assert (tuple(larger.errors), larger.held_out_tap) == (("relu1_1", "pool1", "pool2"), "relu2_2")
    with pytest.raises(TapError, match="image of 15x64 px"):
        measure_fit(network, textures[..., :15], exemplars)
