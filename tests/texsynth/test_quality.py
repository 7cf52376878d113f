from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import texsynth
from texsynth import PairError, QualityMeasures, TextureNetwork, measure_quality, score
from texsynth.decoding import ImageError
from texsynth.images import tensor_to_pil

DrawImages = Callable[..., Tensor]
EQUAL_SIZES = {
    *("layout_correlation", "layout_correlation_shifted", "phase_correlation_peak"),
    *("spectrum_error", "colour_spectrum_error"),
}
NETWORK = {"gram_errors", "held_out_gram_error"}
EXTRAS = {"held_out_tap", "skipped"}
PAGE = Path(__file__).parents[2] / "docs" / "quality.md"


def names() -> set[str]:
    return {f.name for f in dataclasses.fields(QualityMeasures)}


def test_a_score_has_all_numbers_that_need_no_network(draw_images: DrawImages) -> None:
    texture, exemplar = draw_images(2, 48, 64).float()
    measures = score(texture, exemplar)
    assert set(measures.skipped) == NETWORK | {"perceptual_distance"}
    assert measures.skipped["gram_errors"] == "no network given"
    for name in names() - NETWORK - EXTRAS - {"perceptual_distance"}:
        value = getattr(measures, name)
        assert type(value) is float, name
        assert np.isfinite(value), name
    json.dumps(dataclasses.asdict(measures), allow_nan=False)


def test_a_score_is_the_functions_one_by_one(draw_images: DrawImages) -> None:
    textures, exemplars = draw_images(2, 48, 48), draw_images(2, 48, 48, seed=1)
    lanes = measure_quality(textures, exemplars)
    at_zero, _ = texsynth.layout_correlation(textures, exemplars)
    for lane, measures in enumerate(lanes):
        for name in ("verbatim_share", "wavelet_kl", "displacement_score", "local_mean_drift"):
            expected = getattr(texsynth, name)(textures, exemplars)[lane].item()
            assert getattr(measures, name) == pytest.approx(expected)
        assert measures.layout_correlation == pytest.approx(at_zero[lane].item())
        expected = texsynth.seam_score(exemplars)[lane].item()
        assert measures.exemplar_seam_score == pytest.approx(expected)


def test_lanes_are_apart(draw_images: DrawImages) -> None:
    textures, exemplars = draw_images(3, 40, 48), draw_images(3, 40, 48, seed=1)
    textures[0, :, :, :32] = exemplars[0, :, :, :32]
    together = measure_quality(textures, exemplars)
    order = [2, 0, 1]
    permuted = measure_quality(textures[order], exemplars[order])
    alone = [measure_quality(textures[i : i + 1], exemplars[i : i + 1])[0] for i in range(3)]
    for name in names() - EXTRAS - NETWORK - {"perceptual_distance"}:
        values = [getattr(measures, name) for measures in together]
        assert [getattr(measures, name) for measures in alone] == pytest.approx(values), name
        expected = [values[index] for index in order]
        assert [getattr(measures, name) for measures in permuted] == pytest.approx(expected), name


def test_other_sizes_leave_out_what_needs_equal_ones(draw_images: DrawImages) -> None:
    exemplar = draw_images(1, 64, 64)[0].float()
    measures = score(exemplar[:, :40, :50], exemplar)
    assert set(measures.skipped) == EQUAL_SIZES | NETWORK | {"perceptual_distance"}
    reason = "textures are [1, 3, 40, 50], exemplars [1, 3, 64, 64]; expected the same"
    assert measures.skipped["spectrum_error"] == reason
    assert measures.displacement_score == 0
    assert measures.verbatim_share == 1
    tiny = score(exemplar, exemplar.repeat(1, 3, 3))
    assert "local_mean_drift" in tiny.skipped
    assert tiny.local_mean_drift is None


def test_a_network_adds_gram_errors(network: TextureNetwork, draw_images: DrawImages) -> None:
    texture, exemplar = draw_images(2, 64, 64)
    measures = score(texture.double(), exemplar.double(), network=network.float())
    assert set(measures.gram_errors) == {"relu1_1", "pool1", "pool2"}
    assert measures.held_out_tap == "relu2_2"
    assert measures.held_out_gram_error is not None
    assert measures.held_out_gram_error > 0
    copied = score(exemplar, exemplar, network=network)
    assert max(copied.gram_errors.values()) < 1e-4
    network.double()


def test_any_kind_of_image_scores_the_same(draw_images: DrawImages, tmp_path: Path) -> None:
    texture, exemplar = (draw_images(2, 40, 40) * 255).round().to(torch.uint8)
    picture = tensor_to_pil(exemplar)
    picture.save(tmp_path / "exemplar.png")
    expected = score(texture, exemplar)
    assert score(tensor_to_pil(texture), np.asarray(picture)) == expected
    assert score(texture.float() / 255, tmp_path / "exemplar.png") == expected
    assert score(texture, str(tmp_path / "exemplar.png")) == expected


def test_values_out_of_range_are_measured(draw_images: DrawImages) -> None:
    exemplar = draw_images(1, 32, 32)[0].float()
    assert score(2 * exemplar - 0.5, exemplar).out_of_range_share == pytest.approx(0.5, abs=0.05)
    assert score(exemplar, exemplar).out_of_range_share == 0


def test_errors_say_what_is_wrong(draw_images: DrawImages, tmp_path: Path) -> None:
    image = draw_images(1, 64, 64)[0].float()
    with pytest.raises(PairError, match="textures of 64x31 px, expected at least 32"):
        score(image[:, :31], image)
    with pytest.raises(ValueError, match="exemplars has NaN"):
        score(image, image / 0)
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"broken\.png"):
        score(image, tmp_path / "broken.png")
    with pytest.raises(FileNotFoundError, match=r"absent\.png"):
        score(tmp_path / "absent.png", image)


def test_the_learned_distance_is_skipped_with_a_reason(
    draw_images: DrawImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(textures: Tensor, exemplars: Tensor) -> Tensor:
        raise texsynth.PerceptualError("no weights")

    image = draw_images(1, 32, 32)[0].float()
    assert score(image, image).skipped["perceptual_distance"] == "not asked for"
    monkeypatch.setattr("texsynth.quality.perceptual_distance", fail)
    measures = score(image, image, perceptual=True)
    assert measures.skipped["perceptual_distance"] == "no weights"
    monkeypatch.setattr("texsynth.quality.perceptual_distance", lambda t, e: t.mean((1, 2, 3)))
    measures = score(image, image, perceptual=True)
    assert measures.perceptual_distance == pytest.approx(image.mean().item())


def test_every_measure_is_documented() -> None:
    page = PAGE.read_text()
    for name in names() - {"skipped"}:
        assert f"`{name.removeprefix('exemplar_')}`" in page, name
