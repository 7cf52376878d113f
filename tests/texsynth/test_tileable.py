"""Textures that show no seam side by side."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from texsynth import (
    SynthesisConfig,
    TapError,
    TextureNetwork,
    TextureObjective,
    prepare_synthesis,
    seam_score,
    synthesize,
)
from texsynth.canvas import make_canvas
from texsynth.images import resize
from texsynth.sensitivity import PROBE_COST

TAPS = ("relu1_1", "pool1", "pool2")
CONFIG = SynthesisConfig(tileable=True, taps=TAPS, gram_weight=1e4, levels=1)
STRIDE = 4


def draw(lanes: int, height: int = 32, width: int = 40, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand((lanes, 3, height, width), generator=generator, dtype=torch.float64)
    return functional.avg_pool2d(images, 5, stride=1, padding=2, count_include_pad=False)


def objective_of(network: TextureNetwork, **changes: Any) -> TextureObjective:
    config = dataclasses.replace(CONFIG, **changes)
    canvas = make_canvas(draw(1), (32, 40), tileable=config.tileable)
    return TextureObjective(network, draw(1), config, canvas)


@pytest.mark.parametrize("shift", [(STRIDE, 0), (0, -STRIDE), (16, 3 * STRIDE)])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_shift_by_the_deepest_stride_leaves_the_loss_as_it_is(
    network: TextureNetwork, shift: tuple[int, int], weighted: bool
) -> None:
    objective, images = objective_of(network), draw(1, seed=1)
    if weighted:
        objective.even_out(images)
    value, gradient = objective.value_and_gradient(images)
    moved, moved_gradient = objective.value_and_gradient(images.roll(shift, (2, 3)))
    torch.testing.assert_close(moved, value, rtol=1e-12, atol=0)
    torch.testing.assert_close(moved_gradient, gradient.roll(shift, (2, 3)))
    plain = objective_of(network, tileable=False)
    one, other = (plain(x).gram.sum().item() for x in (images, images.roll(shift, (2, 3))))
    assert one != pytest.approx(other, rel=1e-6)


def test_four_copies_have_the_gram_matrices_of_one(network: TextureNetwork) -> None:
    image = draw(1)
    for one, four in zip(
        network(image, TAPS, "circular"),
        network(image.repeat(1, 1, 2, 2), TAPS, "circular"),
        strict=True,
    ):
        torch.testing.assert_close(one.repeat(1, 1, 2, 2), four)


@pytest.mark.parametrize("size", [(64, 80), (16, 20), (48, 50)])
def test_a_periodic_resize_is_that_of_the_middle_of_many_copies(size: tuple[int, int]) -> None:
    images = draw(2)
    resized = resize(images, *size, periodic=True)
    many = resize(images.repeat(1, 1, 5, 5), 5 * size[0], 5 * size[1])
    middle = many[..., 2 * size[0] : 3 * size[0], 2 * size[1] : 3 * size[1]]
    torch.testing.assert_close(resized, middle)
    assert not torch.allclose(resized, resize(images, *size))


def test_the_seam_goes_away(network: TextureNetwork) -> None:
    # Two levels: what enlarges is periodic, too.
    exemplar = draw(1, 48, 48).float()
    scores = []
    for tileable in (True, False):
        config = dataclasses.replace(CONFIG, tileable=tileable, taps=("relu1_1", "pool1"), levels=2)
        # Without the spectrum term, which is periodic and leaves no seam either.
        config = dataclasses.replace(
            config,
            gram_weight=1e8,
            spectrum="none",
            start="noise",
            evaluations=2 * PROBE_COST + 40,
        )
        (result,) = synthesize(exemplar, [0], config, network.float())
        mosaic = result.image.repeat(1, 2, 2)
        rows = mosaic.diff(dim=1).square().mean((0, 2))
        columns = mosaic.diff(dim=2).square().mean((0, 1))
        hidden = [bool(steps[47] <= steps[:47].max()) for steps in (rows, columns)]
        scores.append((seam_score(result.image[None]).item(), hidden))
    network.double()
    # Measured: 1.2 and 3.4. A step across the seam is one of those inside.
    assert scores[0][0] < 1.4
    assert scores[0][1] == [True, True]
    assert scores[1][0] > 2 * scores[0][0]
    assert scores[1][1] == [False, False]


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((32, 42), "tileable texture of 42x32 px, tap 'pool2' needs sides that are multiples of 4"),
        ((33, 40), "tileable texture of 40x33 px, tap 'pool2'"),
    ],
)
def test_sides_that_do_not_halve_evenly_are_refused(
    network: TextureNetwork, size: tuple[int, int], message: str
) -> None:
    with pytest.raises(TapError, match=message):
        prepare_synthesis(draw(1), [0], CONFIG, network, output_size=size)
    config = dataclasses.replace(CONFIG, levels=2)
    with pytest.raises(TapError, match="tileable texture of 18x16 px"):
        prepare_synthesis(draw(1), [0], config, network, output_size=(32, 36))
