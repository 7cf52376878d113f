from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import skimage.data
import torch
from torch import Tensor

from texsynth import load_exemplar, receptive_field_px, triage_exemplars

DrawImages = Callable[..., Tensor]


def waves(period_px: float, side: int = 128) -> Tensor:
    """Stripes of one period across, the same down the columns."""
    x = torch.arange(float(side)) * (2 * torch.pi / period_px)
    return (0.5 + 0.4 * x.sin()).expand(1, 3, side, side)


@pytest.mark.parametrize("period_px", [6.0, 10.0, 16.0, 30.0])
def test_stripes_are_regular_with_their_period(period_px: float) -> None:
    (found,) = triage_exemplars(waves(period_px))
    assert found.kind == "regular"
    assert found.autocorrelation_peak > 0.9
    assert found.dominant_period_px == pytest.approx(period_px, abs=1)
    (transposed,) = triage_exemplars(waves(period_px).mT)
    assert transposed.dominant_period_px == pytest.approx(period_px, abs=1)


def test_periods_above_a_quarter_of_the_side_repeat_too_rarely() -> None:
    (found,) = triage_exemplars(waves(42.0))
    assert found.kind == "too_few_repeats"
    assert found.dominant_period_px == pytest.approx(42, abs=1)


def test_a_lattice_has_the_distance_of_its_nearest_points() -> None:
    tile = torch.full((3, 12, 12), 0.2)
    tile[:, 3:7, 2:8] = 0.9
    (found,) = triage_exemplars(tile.repeat(1, 8, 8)[None])
    assert found.kind == "regular"
    assert found.dominant_period_px == pytest.approx(12, abs=0.5)


def test_noise_is_stochastic(draw_images: DrawImages) -> None:
    (found,) = triage_exemplars(draw_images(1, 96, 128))
    assert found.kind == "stochastic"
    assert found.autocorrelation_peak < 0.2
    assert found.quadrant_spread < 0.1
    assert found.contrast == pytest.approx(12**-0.5, rel=0.02)


def test_flat_and_not_stationary_exemplars(draw_images: DrawImages) -> None:
    noise = draw_images(1, 64, 64)
    flat = 0.5 + 0.02 * noise
    halves = torch.where(torch.arange(64) < 32, 0.3 * noise, 0.6 + 0.3 * noise)
    contrasts = 0.5 + (noise - 0.5) * torch.linspace(0.02, 1, 64)[:, None]
    kinds = [found.kind for found in triage_exemplars(torch.cat([flat, halves, contrasts]))]
    assert kinds[:2] == ["flat", "not_stationary"]
    even, uneven = triage_exemplars(torch.cat([noise, contrasts]))
    assert uneven.quadrant_spread > 3 * even.quadrant_spread


def test_photographs() -> None:
    """Brick repeats, grass and gravel do not."""
    folder = Path(skimage.data.__file__).parent
    exemplars = torch.stack(
        [load_exemplar(folder / f"{name}.png", 256) for name in ("brick", "grass", "gravel")]
    )[..., :128, :128]
    kinds = [found.kind for found in triage_exemplars(exemplars)]
    assert kinds == ["regular", "stochastic", "stochastic"]


def test_lanes_are_apart(draw_images: DrawImages) -> None:
    noise = draw_images(1, 64, 64)
    batch = torch.cat([noise, waves(8.0, 64).double(), 0.5 + 0.01 * noise])
    assert triage_exemplars(batch) == tuple(triage_exemplars(lane[None])[0] for lane in batch)


def test_exemplars_too_small(draw_images: DrawImages) -> None:
    with pytest.raises(ValueError, match="exemplars of 20x15 px, expected at least 16"):
        triage_exemplars(draw_images(1, 15, 20))


def test_receptive_fields() -> None:
    """A 3x3 convolution adds 2 strides, a 2x2 pool one."""
    expected = {"relu1_1": 3, "relu1_2": 5, "pool1": 6, "relu2_1": 10, "pool2": 16, "pool3": 52}
    assert {tap: receptive_field_px(tap) for tap in expected} == expected
    assert receptive_field_px("pool3", "vgg16") == 44
    with pytest.raises(ValueError, match="tap 'pool9' is not in vgg19"):
        receptive_field_px("pool9")
