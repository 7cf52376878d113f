from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from texsynth import (
    ConfigError,
    Progress,
    SynthesisConfig,
    TapError,
    TextureNetwork,
    TextureObjective,
    TextureSynthesizer,
    synthesize,
)
from texsynth.images import round_to_8_bits
from texsynth.sensitivity import PROBE_COST

CONFIG = SynthesisConfig(
    gram_weight=1e6,
    spectrum_weight=1e-2 * (32 / 256) ** 2,  # a factor of 1e3 at 32 px
    range_weight=1e3,
    settle=False,
    weighting="none",
    evaluations=20,
    levels=1,
)
TWO_LEVELS = dataclasses.replace(CONFIG, levels=2)


@pytest.fixture(scope="module")
def network(make_network: Callable[..., TextureNetwork]) -> TextureNetwork:
    """Two convolutions in float32: taps relu1_1 and pool1 at 32 px and above."""
    return make_network(deepest="relu1_2").float()


def draw(height: int = 32, width: int = 32, seed: int = 0) -> Tensor:
    return torch.rand((3, height, width), generator=torch.Generator().manual_seed(seed))


def pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).movedim(-1, 0)


# What it takes


def test_paths_are_cropped_and_resized_and_give_the_name(
    network: TextureNetwork, tmp_path: Path
) -> None:
    picture = Image.fromarray(np.full((40, 90, 3), (255, 0, 51), np.uint8))
    picture.save(tmp_path / "bricks_01.png")
    for path in (tmp_path / "bricks_01.png", str(tmp_path / "bricks_01.png")):
        synthesizer = TextureSynthesizer(path, network, size=(32, 48))
        assert synthesizer.name == "bricks_01"
        expected = torch.tensor([1, 0, 0.2]).view(3, 1, 1).expand(3, 32, 48)
        torch.testing.assert_close(synthesizer.exemplar, expected)
    assert TextureSynthesizer(path, network, size=None).exemplar.shape == (3, 40, 90)
    assert TextureSynthesizer(path, network).exemplar.shape == (3, 256, 256)
    assert TextureSynthesizer(path, network, name="wall").name == "wall"


def test_pictures_arrays_and_tensors_are_taken_as_they_are(network: TextureNetwork) -> None:
    stored = round_to_8_bits(draw(20, 24)[None])[0]
    array = stored.movedim(0, -1).numpy()
    for exemplar in (Image.fromarray(array), array, stored, stored / 255):
        synthesizer = TextureSynthesizer(exemplar, network)
        assert synthesizer.name == "texture"
        assert torch.equal(synthesizer.exemplar, stored.float() / 255)


def test_weights_are_loaded_by_name_or_taken_as_a_network(network: TextureNetwork) -> None:
    assert TextureSynthesizer(draw(), network).network is network
    loaded = TextureSynthesizer(draw(), "random:3").network
    assert loaded.weights_id == "random:3"


# What it makes


@pytest.mark.parametrize("config", [CONFIG, TWO_LEVELS])
@pytest.mark.parametrize("start", ["noise", "random_phase"])
def test_a_seed_gives_what_synthesize_gives(
    network: TextureNetwork, config: SynthesisConfig, start: Any
) -> None:
    config = dataclasses.replace(config, start=start)
    synthesizer = TextureSynthesizer(draw(), network, config=config)
    image = synthesizer.synthesize(seed=5)
    (expected,) = synthesize(draw()[None], [5], config, network, lanes=1)
    assert synthesizer.result is not None
    assert torch.equal(synthesizer.result.image, expected.image)
    assert torch.equal(pixels(image), expected.image_8bit)
    assert torch.equal(pixels(synthesizer.output_image), expected.image_8bit)
    assert synthesizer.result.delivered_loss == expected.delivered_loss
    assert tuple(synthesizer.losses) == expected.loss_curve
    assert synthesizer.result.evaluations == config.evaluations


def test_a_new_texture_replaces_the_old_one(network: TextureNetwork) -> None:
    synthesizer = TextureSynthesizer(draw(), network, config=CONFIG)
    first = synthesizer.synthesize(seed=0, evaluations=2)
    assert synthesizer.losses[-1].evaluations == 2
    synthesizer.synthesize(seed=1, evaluations=3)
    assert synthesizer.losses[-1].evaluations == 3
    assert synthesizer.synthesize(seed=0, evaluations=2).tobytes() == first.tobytes()


def test_start_is_where_it_begins(network: TextureNetwork) -> None:
    synthesizer = TextureSynthesizer(draw(24, 40), network, config=CONFIG)
    start = draw(24, 40, seed=3).double()
    image = synthesizer.synthesize(start=start, evaluations=1)
    assert torch.equal(pixels(image), round_to_8_bits(start[None])[0])
    assert synthesizer.synthesize(start=start).size == (40, 24)
    assert synthesizer.losses[-1].loss < synthesizer.losses[0].loss


@pytest.mark.parametrize("preset", ["default", "reference"])
def test_optimize_goes_on_as_if_it_had_not_stopped(network: TextureNetwork, preset: Any) -> None:
    # Exactly so, since the optimiser's whole state is kept; a dropped history would show.
    probes = PROBE_COST if preset == "default" else 0
    config = SynthesisConfig.preset(preset, levels=1, evaluations=probes + 40, settle=False)
    once = TextureSynthesizer(draw(), network, config=config)
    once.synthesize()
    twice = TextureSynthesizer(draw(), network, config=config)
    half = twice.synthesize(evaluations=probes + 20)
    image = twice.optimize(20)
    assert image.tobytes() != half.tobytes()
    assert once.result is not None
    assert twice.result is not None
    assert torch.equal(twice.result.image, once.result.image)
    assert twice.losses == once.losses
    assert twice.result.iterations == once.result.iterations
    assert twice.result.evaluations == probes + 40
    assert twice.result.float_loss == once.result.float_loss


def test_optimize_goes_on_at_the_finest_level(network: TextureNetwork) -> None:
    synthesizer = TextureSynthesizer(draw(), network, config=TWO_LEVELS)
    synthesizer.synthesize()
    before = synthesizer.losses
    synthesizer.optimize(15)
    assert synthesizer.losses[: len(before)] == before
    assert {point.side for point in synthesizer.losses[len(before) :]} == {32}
    assert synthesizer.losses[-1].evaluations == before[-1].evaluations + 15
    assert synthesizer.losses[-1].loss < before[-1].loss


def test_optimize_takes_up_the_levels_that_a_time_limit_left(
    network: TextureNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr("texsynth.lanes.time", SimpleNamespace(monotonic=lambda: next(clock)))
    config = dataclasses.replace(TWO_LEVELS, time_limit_s=5.0)
    synthesizer = TextureSynthesizer(draw(), network, config=config)
    assert synthesizer.synthesize(evaluations=200).size == (32, 32)
    assert synthesizer.result is not None
    assert synthesizer.result.stop_reason == "time_limit"
    assert {point.side for point in synthesizer.losses} == {16}
    synthesizer.optimize(4.5)
    assert synthesizer.result.stop_reason == "budget"
    assert synthesizer.losses[-1].side == 32
    # Thirty of the coarse level and two more, and four of the fine.
    assert synthesizer.result.evaluations == 32 / 4 + 4


def test_an_interrupted_texture_can_be_taken_up(network: TextureNetwork) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.point.evaluations == 10:
            raise KeyboardInterrupt

    synthesizer = TextureSynthesizer(draw(), network, config=CONFIG)
    with pytest.raises(KeyboardInterrupt):
        synthesizer.synthesize(progress=interrupt)
    with pytest.raises(RuntimeError, match="no texture yet"):
        _ = synthesizer.output_image
    synthesizer.optimize(10)
    (expected,) = synthesize(draw()[None], [0], CONFIG, network, lanes=1)
    assert torch.equal(pixels(synthesizer.output_image), expected.image_8bit)


def test_progress_and_losses_tell_the_same(network: TextureNetwork) -> None:
    seen: list[Progress] = []
    synthesizer = TextureSynthesizer(draw(), network, config=TWO_LEVELS)
    assert synthesizer.losses == []
    synthesizer.synthesize(progress=seen.append)
    assert [progress.point for progress in seen] == synthesizer.losses
    assert {progress.budget for progress in seen} == {20}
    synthesizer.optimize(10, progress=seen.append)
    assert [progress.point for progress in seen] == synthesizer.losses
    assert seen[-1].budget == 30
    objective = TextureObjective(network, draw()[None], TWO_LEVELS)
    assert synthesizer.result is not None
    loss = objective(synthesizer.result.image[None]).total.item()
    assert min(point.loss for point in synthesizer.losses if point.side == 32) >= 0.999 * loss


# What it shows and refuses


def test_save_writes_exemplar_and_texture(network: TextureNetwork, tmp_path: Path) -> None:
    synthesizer = TextureSynthesizer(draw(24, 40), network, config=CONFIG, name="grass")
    synthesizer.synthesize(evaluations=2)
    folder = tmp_path / "new" / "folder"
    paths = synthesizer.save(folder)
    assert paths == (folder / "exemplar_grass.png", folder / "synth_grass.png")
    assert sorted(folder.iterdir()) == sorted(paths)
    with Image.open(paths[0]) as exemplar, Image.open(paths[1]) as texture:
        assert torch.equal(pixels(exemplar), round_to_8_bits(draw(24, 40)[None])[0])
        assert torch.equal(pixels(texture), pixels(synthesizer.output_image))


def test_show_opens_both_side_by_side(
    network: TextureNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Image.Image] = []
    monkeypatch.setattr(Image.Image, "show", lambda self, *args, **kwargs: shown.append(self))
    synthesizer = TextureSynthesizer(draw(24, 40), network, config=CONFIG)
    synthesizer.synthesize(evaluations=2)
    synthesizer.show()
    (picture,) = shown
    assert picture.size == (80, 24)
    expected = round_to_8_bits(draw(24, 40)[None])[0]
    assert torch.equal(pixels(picture.crop((0, 0, 40, 24))), expected)
    texture = picture.crop((40, 0, 80, 24))
    assert torch.equal(pixels(texture), pixels(synthesizer.output_image))


def test_nothing_can_be_had_before_the_first_texture(
    network: TextureNetwork, tmp_path: Path
) -> None:
    synthesizer = TextureSynthesizer(draw(), network, config=CONFIG)
    for call in (
        lambda: synthesizer.output_image,
        lambda: synthesizer.optimize(5),
        lambda: synthesizer.save(tmp_path / "none"),
        synthesizer.show,
    ):
        with pytest.raises(RuntimeError, match=r"no texture yet: call synthesize\(\) first"):
            call()
    assert not (tmp_path / "none").exists()
    assert synthesizer.result is None


@pytest.mark.parametrize("evaluations", [0, -5, float("nan")])
def test_budgets_below_one_are_refused(network: TextureNetwork, evaluations: float) -> None:
    synthesizer = TextureSynthesizer(draw(), network, config=CONFIG)
    with pytest.raises(ConfigError, match=f"evaluations is {evaluations}"):
        synthesizer.synthesize(evaluations=evaluations)
    synthesizer.synthesize(evaluations=1)
    with pytest.raises(ConfigError, match=f"evaluations is {evaluations}"):
        synthesizer.optimize(evaluations)


def test_what_does_not_fit_is_refused_and_the_last_texture_stays(network: TextureNetwork) -> None:
    with pytest.raises(ValueError, match="exemplar has NaN or infinite pixels"):
        TextureSynthesizer(draw() / 0, network, config=CONFIG).synthesize()
    with pytest.raises(TapError, match="12x40 px"):
        TextureSynthesizer(draw(40, 12), network, config=CONFIG).synthesize()
    with pytest.raises(ValueError, match="expected 3 channels"):
        TextureSynthesizer(draw()[:2], network)
    synthesizer = TextureSynthesizer(draw(), network, config=CONFIG)
    image = synthesizer.synthesize(evaluations=2)
    with pytest.raises(ValueError, match="start has NaN or infinite pixels"):
        synthesizer.synthesize(start=draw() / 0)
    assert synthesizer.output_image.tobytes() == image.tobytes()
