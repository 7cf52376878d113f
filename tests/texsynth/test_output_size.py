"""Textures of another size than their exemplar's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from texsynth import (
    ConfigError,
    SynthesisConfig,
    SynthesisResult,
    TapError,
    TextureNetwork,
    TextureObjective,
    TextureSynthesizer,
    load_network,
    prepare_synthesis,
    synthesize,
)
from texsynth.borders import compute_position_weights
from texsynth.canvas import make_canvas
from texsynth.images import luminance
from texsynth.levels import compute_exemplar_levels, compute_levels
from texsynth.results import measure_reference_loss
from texsynth.sensitivity import PROBE_COST
from texsynth.start import refine

CONFIG = SynthesisConfig(
    gram_weight=1e6,
    spectrum_weight=1e-2 * (32 / 256) ** 2,  # a factor of 1e3 at 32 px
    range_weight=1e3,
    levels=1,
    evaluations=PROBE_COST + 10,
)
TWO_LEVELS = dataclasses.replace(CONFIG, levels=2)
SIZES = [(48, 64), (24, 40), (16, 16)]


@pytest.fixture(scope="module")
def network(make_network: Callable[..., TextureNetwork]) -> TextureNetwork:
    """Two convolutions in float32: taps relu1_1 and pool1."""
    return make_network(deepest="relu1_2").float()


def draw(lanes: int, height: int = 32, width: int = 32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((lanes, 3, height, width), generator=generator)


def run(
    exemplars: Tensor, config: SynthesisConfig, network: TextureNetwork, **settings: Any
) -> list[SynthesisResult]:
    results = synthesize(exemplars, range(len(exemplars)), config, network, **settings)
    return sorted(results, key=lambda result: result.index)


def test_both_shrink_by_the_same_factor_as_far_as_the_smaller_one_allows() -> None:
    auto = SynthesisConfig()
    exemplar = (128, 160)
    assert compute_levels(auto, 512, 256, exemplar) == [(256, 128), (512, 256)]
    assert compute_exemplar_levels([(256, 128), (512, 256)], exemplar) == [(64, 80), exemplar]
    assert compute_levels(auto, 128, 128, (512, 512)) == [(64, 64), (128, 128)]
    assert compute_exemplar_levels([(64, 64), (128, 128)], (512, 512)) == [(256, 256), (512, 512)]
    assert compute_levels(auto, 1024, 1024, (64, 64)) == [(1024, 1024)]
    with pytest.raises(ConfigError, match="levels is 6, too many for 900x800 px of an exemplar of"):
        compute_levels(dataclasses.replace(auto, levels=6), 800, 900, (31, 40))


def test_the_smaller_of_the_two_decides_on_the_taps() -> None:
    network = load_network("random:0")

    def count(size: tuple[int, int], exemplar_size: tuple[int, int], taps: Any = "auto") -> int:
        return len(network.resolve_taps(taps, *size, exemplar_size))

    assert count((1024, 1024), (64, 200)) == count((64, 64), (1024, 1024)) == 3
    assert count((512, 100), (90, 512)) == 3
    assert count((256, 256), (256, 256), "reference") == 6
    assert count((512, 512), (256, 256), "reference") == 5
    assert count((256, 256), (512, 512), "reference") == 5
    with pytest.raises(TapError, match="image of 24x24 px, tap 'pool5' needs 32x32"):
        count((400, 400), (24, 24), ("pool5",))


@pytest.mark.parametrize("spectrum", ["gray", "colour"])
def test_gram_targets_are_the_exemplars_and_the_spectrum_is_that_of_the_canvas(
    network: TextureNetwork, spectrum: Any
) -> None:
    config = dataclasses.replace(CONFIG, spectrum=spectrum, clamp=False)
    exemplars, images = draw(2), draw(2, 48, 40, seed=1)
    canvas = make_canvas(exemplars, (48, 40))
    objective = TextureObjective(network, exemplars, config, canvas)
    assert (objective.size, objective.taps) == ((48, 40), ("relu1_1", "pool1"))
    terms = objective(images)
    weights = compute_position_weights(network, objective.taps, (32, 32), (48, 40))
    for lane in range(2):
        for number, tap in enumerate(objective.taps):
            grams = []
            counts = (torch.ones(48 * 40 // 4**number), weights[number].flatten())
            for picture, count in zip((images[lane], exemplars[lane]), counts, strict=True):
                flat = network(picture[None], (tap,))[0][0].flatten(1)
                grams.append((flat * count.to(flat)) @ flat.T / (4 * flat.shape[0] * flat.shape[1]))
            expected = config.gram_weight * (grams[0] - grams[1]).square().sum()
            torch.testing.assert_close(terms.gram[lane, number], expected, rtol=2e-5, atol=0)
    whole = TextureObjective(network, canvas, config)(images)
    torch.testing.assert_close(terms.spectrum, whole.spectrum)
    assert not torch.allclose(terms.gram, whole.gram)
    with pytest.raises(ValueError, match=r"images are \[2, 3, 32, 32\], expected \[2, 3, 48, 40\]"):
        objective(exemplars)
    with pytest.raises(ValueError, match="canvas has 1 images, expected 2"):
        TextureObjective(network, exemplars, config, canvas[:1])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("preset", ["default", "reference"])
def test_a_texture_of_any_size_is_made_and_measured(
    network: TextureNetwork, size: tuple[int, int], preset: Any
) -> None:
    config = SynthesisConfig.preset(preset, evaluations=PROBE_COST + 12)
    config = dataclasses.replace(config, gram_weight=1e6, spectrum_weight=CONFIG.spectrum_weight)
    exemplars = draw(2)
    for result in run(exemplars, config, network, output_size=size):
        assert tuple(result.image.shape) == (3, *size) == tuple(result.image_8bit.shape)
        assert result.loss_curve[-1].loss < result.loss_curve[0].loss
        assert result.loss_curve[0].side == min(size)
        stored = result.image_8bit.float()[None] / 255
        (measured,) = measure_reference_loss(stored, exemplars[result.index][None], network)
        assert measured == result.delivered_loss
        assert len(measured.gram) == len(result.taps) == (2 if min(size) >= 32 else 1)
        canvas = make_canvas(exemplars[result.index][None], size)
        full = [torch.fft.fft2(luminance(x).double()).abs() for x in (stored, canvas)]
        expected = 1e5 * (full[0] - full[1]).square().sum() / (2 * size[0] * size[1])
        assert measured.spectrum == pytest.approx(expected.item(), rel=1e-4)


def test_the_exemplars_own_size_changes_nothing(network: TextureNetwork) -> None:
    exemplars = draw(2)
    for config in (TWO_LEVELS, SynthesisConfig.preset("reference", evaluations=4)):
        given = run(exemplars, config, network, output_size=(32, 32))
        for one, other in zip(given, run(exemplars, config, network), strict=True):
            assert torch.equal(one.image, other.image)
            assert one.float_loss == other.float_loss


def test_evaluations_are_counted_at_the_size_of_the_texture(network: TextureNetwork) -> None:
    config = dataclasses.replace(TWO_LEVELS, weighting="none", settle=False, evaluations=9)
    (result,) = run(draw(1, 64, 64), config, network, output_size=(128, 48))
    # As many at half the side as make half of those at the full one: 9 = 4 / 4 + 8.
    assert result.evaluations == pytest.approx(9)
    assert [point.side for point in result.loss_curve] == [24, 24, 48, 48]
    assert result.loss_curve[1].evaluations == pytest.approx(1)


def test_a_finer_level_begins_with_detail_of_its_canvas(network: TextureNetwork) -> None:
    """The projection onto the canvas' spectrum leaves no spectrum term."""
    exemplar = draw(1)
    canvas = make_canvas(exemplar, (48, 80))
    image = refine(draw(1, 24, 40, seed=2), canvas, [1])
    config = dataclasses.replace(CONFIG, clamp=False)
    terms = TextureObjective(network, exemplar, config, canvas)(image)
    assert terms.spectrum.item() < 1e-6 * terms.gram.sum().item()


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_checkpoint_knows_the_size_of_its_texture(
    network: TextureNetwork, stop_after: int
) -> None:
    exemplars = draw(1, 64, 64)
    config = dataclasses.replace(TWO_LEVELS, evaluations=30)
    work = prepare_synthesis(exemplars, [7], config, network, output_size=(40, 80))
    for _ in range(stop_after):
        assert not work.advance()
    (point,) = work.checkpoints()
    again = prepare_synthesis(
        exemplars, [7], config, network, output_size=(40, 80), checkpoints={0: point}
    )
    results = []
    while again.unfinished:
        results += again.advance()
    assert tuple(results[0].image.shape) == (3, 40, 80)
    assert results[0].resumed_at == (point.spent,)
    with pytest.raises(ValueError, match="has an image"):
        prepare_synthesis(exemplars, [7], config, network, checkpoints={0: point})


def test_one_image_at_a_time_gives_the_same_texture(network: TextureNetwork) -> None:
    exemplar = draw(1)
    synthesizer = TextureSynthesizer(exemplar[0], network, config=TWO_LEVELS, output_size=(40, 64))
    picture = synthesizer.synthesize(seed=0)
    assert picture.size == (64, 40)
    assert synthesizer.result is not None
    (alone,) = run(exemplar, TWO_LEVELS, network, output_size=(40, 64), lanes=1)
    assert torch.equal(synthesizer.result.image, alone.image)


@pytest.mark.parametrize(
    ("exemplar", "size", "message"),
    [
        ((32, 32), (15, 400), "image of 32x15 px, tap 'relu1_1' needs 16x16"),
        ((15, 40), (64, 64), "image of 40x15 px, tap 'relu1_1' needs 16x16"),
    ],
)
def test_sizes_too_small_for_any_tap_are_refused_before_work_starts(
    network: TextureNetwork, exemplar: tuple[int, int], size: tuple[int, int], message: str
) -> None:
    with pytest.raises(TapError, match=message):
        prepare_synthesis(draw(1, *exemplar), [0], CONFIG, network, output_size=size)
