"""What an exemplar's border counts for in a texture of another size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import texsynth.borders
from texsynth import SynthesisConfig, TextureNetwork, TextureObjective
from texsynth.borders import compute_position_weights
from texsynth.canvas import make_canvas
from texsynth.gram import compute_gram
from texsynth.tiling import compute_grams

TAPS = ("relu1_1", "pool1", "pool2")
DrawImages = Callable[..., Tensor]


@pytest.mark.parametrize("size", [(128, 64), (32, 48), (256, 256)])
def test_an_image_without_structure_has_the_gram_matrices_of_the_other_size(
    network: TextureNetwork, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    """Its features depend on the distance to the border alone."""
    monkeypatch.setattr(texsynth.borders, "BORDER_REACH", 1.0)
    own = (64, 64)
    colour = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)[:, None, None]
    weights = compute_position_weights(network, TAPS, own, size)
    exemplar, texture = (colour.expand(1, 3, *side) for side in (own, size))
    found = compute_grams(network, exemplar, TAPS, "constant", None, weights=weights)
    plain = compute_grams(network, exemplar, TAPS, "constant", None)
    wanted = compute_grams(network, texture, TAPS, "constant", None)
    for gram, unweighted, target in zip(found, plain, wanted, strict=True):
        torch.testing.assert_close(gram, target, rtol=1e-9, atol=0)
        assert not torch.allclose(unweighted, target, rtol=1e-3, atol=0)


@given(
    own=st.tuples(st.integers(16, 70), st.integers(16, 70)),
    wanted=st.tuples(st.integers(16, 300), st.integers(16, 300)),
)
def test_weights_are_positive_with_a_mean_of_one(
    network: TextureNetwork, own: Any, wanted: Any
) -> None:
    for weights in compute_position_weights(network, TAPS, own, wanted):
        assert weights.min() > 0
        assert weights.mean().item() == pytest.approx(1)
    for weights in compute_position_weights(network, TAPS, own, own):
        torch.testing.assert_close(weights, torch.ones_like(weights))


def test_a_border_position_counts_as_one_of_the_textures(network: TextureNetwork) -> None:
    """At pool1 positions look 2 px, one position, far: half of it, rounded up, is one."""
    _, weights = compute_position_weights(network, TAPS[:2], (20, 20), (80, 20))
    assert weights.shape == (10, 10)
    rows = weights[:, 5] / weights[:, 5].sum()
    assert rows.tolist() == pytest.approx([1 / 40, *[38 / 40 / 8] * 8, 1 / 40])


def test_weighted_gram_matrices_are_the_same_by_tiles(
    network: TextureNetwork, draw_images: DrawImages
) -> None:
    images = draw_images(2, 56, 72)
    weights = compute_position_weights(network, TAPS, (56, 72), (200, 30))
    whole, tiled = (
        compute_grams(network, images, TAPS, "constant", tile_px, weights=weights)
        for tile_px in (None, 24)
    )
    for tap, gram, other in zip(TAPS, whole, tiled, strict=True):
        torch.testing.assert_close(gram, other)
        (features,) = network(images, (tap,))
        flat = features.flatten(2)
        count = weights[TAPS.index(tap)].flatten()
        oracle = torch.einsum("bnm,m,bkm->bnk", flat, count, flat) / (4 * flat[0].numel())
        torch.testing.assert_close(gram, oracle)


def test_a_texture_that_joins_has_no_border_to_count(
    network: TextureNetwork, draw_images: DrawImages
) -> None:
    exemplar = draw_images(1, 32, 32)
    canvas = make_canvas(exemplar, (64, 64), tileable=True)
    config = SynthesisConfig(taps=TAPS[:2], tileable=True)
    target = TextureObjective(network, exemplar, config, canvas)._gram_targets[1]
    (features,) = network(exemplar, ("pool1",), "reflect")
    torch.testing.assert_close(target, compute_gram(features))
