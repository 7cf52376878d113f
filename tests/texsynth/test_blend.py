"""Textures of two exemplars: their targets, and that what is no blend is as it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from texsynth import (
    SynthesisConfig,
    SynthesisResult,
    TextureNetwork,
    TextureObjective,
    prepare_synthesis,
    synthesize,
)
from texsynth.blend import Blend, make_blended_canvas, mix_spectra
from texsynth.gram import compute_gram
from texsynth.spectrum import colour_spectrum_term, compute_spectrum

CONFIG = SynthesisConfig(gram_weight=1e6, levels=2, evaluations=14, settle=False, weighting="none")


@pytest.fixture(scope="module")
def network(make_network: Callable[..., TextureNetwork]) -> TextureNetwork:
    """Two convolutions in float32: taps relu1_1 and pool1."""
    return make_network(deepest="relu1_2").float()


def draw(lanes: int, height: int = 32, width: int = 32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((lanes, 3, height, width), generator=generator)


def run(exemplars: Tensor, network: TextureNetwork, **settings: Any) -> list[SynthesisResult]:
    results = synthesize(exemplars, range(len(exemplars)), CONFIG, network, **settings)
    return sorted(results, key=lambda result: result.index)


def power(images: Tensor) -> Tensor:
    """Of all channels at every frequency, by the full transform, [B, H, W]."""
    full: Tensor = torch.fft.fft2(images)
    return full.abs().square().sum(1)


SIZES = [(16, 16), (15, 16), (16, 15), (9, 7)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 1.0])
def test_the_power_of_a_mixed_image_is_the_interpolated_one_at_every_frequency(
    size: tuple[int, int], weight: float
) -> None:
    a, b = draw(2, *size).double(), draw(2, *size, seed=1).double() ** 2
    mixed = mix_spectra(a, b, torch.full((2,), weight))
    mean = (1 - weight) * a.mean((2, 3)) + weight * b.mean((2, 3))
    torch.testing.assert_close(mixed.mean((2, 3)), mean, rtol=0, atol=1e-7)
    wanted = (1 - weight) * power(a) + weight * power(b)
    got, wanted = power(mixed).flatten(1)[:, 1:], wanted.flatten(1)[:, 1:]
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)


def test_the_ends_of_a_mix_are_its_two_images_and_either_may_come_first() -> None:
    a, b = draw(1).double(), draw(1, seed=1).double()
    torch.testing.assert_close(mix_spectra(a, b, torch.zeros(1)), a)
    other_end = mix_spectra(a, b, torch.ones(1))
    assert float(colour_spectrum_term(other_end, compute_spectrum(b))) < 1e-20
    assert float(colour_spectrum_term(other_end, compute_spectrum(a))) > 1
    there, back = mix_spectra(a, b, torch.tensor([0.25])), mix_spectra(b, a, torch.tensor([0.75]))
    torch.testing.assert_close(power(there), power(back), rtol=1e-6, atol=1e-4)


def test_the_power_of_gray_images_is_interpolated_in_every_channel() -> None:
    a, b = (draw(1, seed=seed).double().mean(1, keepdim=True).repeat(1, 3, 1, 1) for seed in (0, 1))
    mixed = mix_spectra(a, b, torch.tensor([0.5]))
    wanted = power(a) / 6 + power(b) / 6
    for channel in range(3):
        got = power(mixed[:, channel : channel + 1]).flatten(1)[:, 1:]
        torch.testing.assert_close(got, wanted.flatten(1)[:, 1:], rtol=1e-6, atol=1e-6)


def test_gram_targets_are_interpolated_lane_by_lane(network: TextureNetwork) -> None:
    exemplars, partners = draw(3), draw(3, seed=1)
    blend = Blend(partners, torch.tensor([0.0, 0.25, 1.0]))
    objective = TextureObjective(network, exemplars, CONFIG, blend=blend)
    plain = TextureObjective(network, exemplars, CONFIG)
    others = TextureObjective(network, partners, CONFIG)
    images = draw(3, seed=2)
    for index, features in enumerate(network(images, objective.taps)):
        for lane, weight in enumerate([0.0, 0.25, 1.0]):
            pair = [
                compute_gram(network(one[lane : lane + 1], objective.taps)[index])
                for one in (exemplars, partners)
            ]
            target = (1 - weight) * pair[0] + weight * pair[1]
            difference = compute_gram(features[lane : lane + 1]) - target
            expected = CONFIG.gram_weight * difference.square().sum()
            got = objective(images).gram[lane, index]
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(objective(images).gram[0], plain(images).gram[0])
    assert torch.equal(objective(images).gram[2], others(images).gram[2])


@pytest.mark.parametrize("tileable", [False, True])
def test_a_canvas_is_mixed_of_the_canvases_of_both(tileable: bool) -> None:
    exemplars, partners = draw(2), draw(2, seed=1)
    blend = Blend(partners, torch.tensor([0.0, 0.5]))
    canvas = make_blended_canvas(exemplars, (24, 40), blend, tileable=tileable)
    alone = [
        make_blended_canvas(one, (24, 40), None, tileable=tileable) for one in (exemplars, partners)
    ]
    assert torch.equal(canvas[0], alone[0][0])
    mixed = mix_spectra(alone[0][1:], alone[1][1:], torch.tensor([0.5]))
    assert torch.equal(canvas[1:], mixed)
    assert not torch.equal(canvas[1], alone[0][1])


def test_a_texture_without_a_second_exemplar_stays_the_same_to_the_bit(
    network: TextureNetwork,
) -> None:
    exemplars = draw(2)
    plain = run(exemplars, network)
    none = run(exemplars, network, blend_with=draw(2, seed=1), blend_weights=[0.0, 0.0])
    for before, after in zip(plain, none, strict=True):
        assert torch.equal(before.image, after.image)
        assert before.delivered_loss == after.delivered_loss


@pytest.mark.parametrize("output_size", [None, (48, 40)])
def test_a_blend_is_nearer_to_its_targets_than_a_texture_of_either(
    network: TextureNetwork, output_size: tuple[int, int] | None
) -> None:
    exemplars = torch.cat([draw(1) ** 3, 1 - draw(1, seed=1) ** 3])
    partners = exemplars.flip(0)
    settings: dict[str, Any] = {"output_size": output_size}
    plain = run(exemplars, network, **settings)
    (blended, other) = run(
        exemplars, network, blend_with=partners, blend_weights=[0.5, 0.0], **settings
    )
    size = output_size or (32, 32)
    blend = Blend(partners[:1], torch.tensor([0.5]))
    canvas = make_blended_canvas(exemplars[:1], size, blend)
    objective = TextureObjective(network, exemplars[:1], CONFIG, canvas, blend)
    own, first, second = (
        float(objective(image[None]).total)
        for image in (blended.image, plain[0].image, plain[1].image)
    )
    assert own < 0.5 * min(first, second)
    assert other.delivered_loss.total == pytest.approx(plain[1].delivered_loss.total, rel=0.05)


def test_a_blend_goes_on_from_its_checkpoint(network: TextureNetwork) -> None:
    settings: dict[str, Any] = {
        "blend_with": draw(1, seed=1),
        "blend_weights": [0.4],
        "lanes": 1,
    }
    work = prepare_synthesis(draw(1), [0], CONFIG, network, **settings)
    work.advance(lambda: True)
    points = {0: work.checkpoints()[0]}
    resumed = prepare_synthesis(draw(1), [0], CONFIG, network, checkpoints=points, **settings)
    results: list[SynthesisResult] = []
    while resumed.unfinished:
        results += resumed.advance()
    assert results[0].resumed_at
    whole = run(draw(1), network, **{k: v for k, v in settings.items() if k != "lanes"})[0]
    assert results[0].delivered_loss.total == pytest.approx(whole.delivered_loss.total, rel=0.5)


@pytest.mark.parametrize(
    ("partners", "weights", "message"),
    [
        (draw(2), None, "one is missing"),
        (None, [0.5, 0.5], "one is missing"),
        (draw(1), [0.5, 0.5], r"blend_with is \[1, 3, 32, 32\], expected \[2, 3, 32, 32\]"),
        (draw(2, 16), [0.5, 0.5], "expected"),
        (draw(2), [0.5], "expected 2 numbers from 0 to 1"),
        (draw(2), [0.5, 1.5], "expected 2 numbers from 0 to 1"),
        (draw(2), [0.5, float("nan")], "expected 2 numbers from 0 to 1"),
        (draw(2) * float("nan"), [0.5, 0.5], "NaN"),
    ],
)
def test_second_exemplars_that_do_not_fit_are_refused(
    network: TextureNetwork,
    partners: Tensor | None,
    weights: Sequence[float] | None,
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        synthesize(draw(2), [0, 1], CONFIG, network, blend_with=partners, blend_weights=weights)
