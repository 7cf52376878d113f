from __future__ import annotations

from pathlib import Path

import torch

import texsynth.lanes
from benchmarks.convergence import SHARES, VARIANTS, enlarge, losses_of, patched
from texsynth import SynthesisConfig, load_network, sensitivity
from texsynth.images import resize
from texsynth.start import refine


def draw(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def test_every_variant_is_a_setting_of_the_preset_and_no_two_are_the_same() -> None:
    made = [
        (SynthesisConfig.preset("default", **changes), tuple(constants.items()))
        for changes, constants in VARIANTS.values()
    ]
    assert all(one != other for i, one in enumerate(made) for other in made[:i])


def test_constants_are_put_back() -> None:
    floor = sensitivity.FLOOR
    with patched({"FLOOR": 0.5, "refine": enlarge}):
        assert sensitivity.FLOOR == 0.5
        assert texsynth.lanes.refine is enlarge
    assert floor == sensitivity.FLOOR
    assert texsynth.lanes.refine is refine


def test_enlarge_is_the_resize_alone() -> None:
    images = draw(1, 3, 16, 16)
    assert torch.equal(enlarge(images, draw(1, 3, 32, 32), [0]), resize(images, 32, 32))


def test_losses_are_those_at_the_shares_of_the_budget(weights_file: Path) -> None:
    network = load_network(str(weights_file))
    config = SynthesisConfig.preset(
        "default",
        evaluations=30,
        levels=1,
        spectrum="gray",
        clamp=False,
        range_weight=0.0,
        settle=False,
    )
    losses, copied = losses_of(network, draw(3, 32, 32), config, 0)
    assert len(losses) == len(SHARES)
    assert losses == sorted(losses, reverse=True)
    assert not copied
