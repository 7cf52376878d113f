from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmarks import published_pairs, quality_table
from benchmarks.pair_scores import GOALS, JUDGED, find_better, score_texture
from benchmarks.published_pairs import load_pairs, obtain_texture
from texsynth import QualityMeasures, SynthesisConfig, TextureNetwork, load_network, synthesize
from texsynth.images import LUMINANCE_WEIGHTS, tensor_to_pil

SIDE = 32
CONFIG = SynthesisConfig.preset("default", evaluations=3)


@pytest.fixture(scope="module")
def network() -> TextureNetwork:
    return load_network("random:0")


@pytest.fixture(scope="module")
def judge() -> TextureNetwork:
    return load_network("random:1")


def draw_image(seed: int) -> Tensor:
    """Coloured stripes with some noise, in 8 bits."""
    generator = torch.Generator().manual_seed(seed)
    noise = 0.2 * torch.rand((3, SIDE, SIDE), generator=generator)
    stripes = 0.3 + 0.3 * torch.sin(torch.arange(SIDE) * 0.9 + seed)
    return ((noise + stripes) * 255).round() / 255


def write_pair(directory: Path, name: str, seed: int) -> None:
    tensor_to_pil(draw_image(seed)).save(directory / f"exemplar_{name}.png")
    tensor_to_pil(draw_image(seed + 100)).save(directory / f"synth_{name}.png")


def test_every_measure_has_a_goal() -> None:
    fields = {field.name for field in dataclasses.fields(QualityMeasures)}
    yardsticks = {name for name in fields if name.startswith("exemplar_")}
    others = {"gram_errors", "held_out_tap", "perceptual_distance", "skipped"}
    assert fields - yardsticks - others <= set(GOALS)


@pytest.mark.parametrize(
    ("name", "published", "ours", "own", "better"),
    [
        ("delivered_loss", 3e6, 2e6, None, "ours"),
        ("gram_error pool1 by the judge", 0.1, 0.2, None, "published"),
        ("local_mean_drift", -0.3, 0.1, None, "ours"),
        ("high_frequency_ratio", 0.5, 1.9, None, "ours"),
        ("high_frequency_ratio", 0.5, 2.0, None, "equal"),
        ("high_frequency_ratio", 0.9, 0.0, None, "published"),
        ("chroma_noise", 0.3, 0.0, 0.01, "ours"),
        ("clipped_share", 0.1, 0.0, 0.08, "published"),
        ("displacement_score", 0.86, 0.75, None, "equal"),
        ("displacement_score", 0.3, 0.75, None, "ours"),
        ("layout_correlation", -0.4, 0.45, None, "equal"),
        ("phase_correlation_peak", 0.1, 0.9, None, "published"),
        ("seam_score", 1.0, 5.0, 5.0, ""),
    ],
)
def test_better_is_what_is_nearer_to_good(
    name: str, published: float, ours: float, own: float | None, better: str
) -> None:
    assert find_better(name, published, ours, own) == better
    mirrored = {"ours": "published", "published": "ours"}.get(better, better)
    assert find_better(name, ours, published, own) == mirrored


def test_a_copy_meets_everything_but_what_tells_copies(
    network: TextureNetwork, judge: TextureNetwork
) -> None:
    exemplar = draw_image(0)
    copy = score_texture(exemplar, exemplar, network, judge)
    other = score_texture(torch.rand((3, SIDE, SIDE)), exemplar, network, judge)
    assert copy.values.keys() == other.values.keys()
    for name, value in copy.values.items():
        if name.startswith(("delivered", "gram_error", "held_out", "colour", "spectrum")):
            assert value == pytest.approx(0, abs=1e-5)
            assert other.values[name] > 1e-3, name
    assert "copy" in copy.faults
    assert "copy" not in other.faults
    assert "noisy" in other.faults
    judged = {name: name.removesuffix(JUDGED) for name in copy.values if name.endswith(JUDGED)}
    assert len(judged) == 1 + 2 + 1  # the loss, relu1_1 and pool1, the tap that is held out
    assert all(other.values[name] != other.values[own] for name, own in judged.items())


def test_losses_are_those_that_the_synthesis_reports(network: TextureNetwork) -> None:
    exemplar = draw_image(0)
    (result,) = synthesize(exemplar[None], [0], CONFIG, network)
    texture = result.image_8bit.float() / 255
    values = score_texture(texture, exemplar, network, None).values
    assert values["delivered_loss"] == pytest.approx(result.delivered_loss.total, rel=1e-5)
    grays = [
        np.tensordot(LUMINANCE_WEIGHTS, np.asarray(image.double()), axes=1)
        for image in (texture, exemplar)
    ]
    magnitudes = [np.abs(np.fft.fft2(gray)) for gray in grays]
    spectrum_loss = 1e5 / (2 * SIDE**2) * ((magnitudes[0] - magnitudes[1]) ** 2).sum()
    assert values["spectrum_loss"] == pytest.approx(spectrum_loss, rel=1e-4)


def test_a_kept_texture_is_taken_again_and_for_no_other(
    tmp_path: Path,
    network: TextureNetwork,
    judge: TextureNetwork,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exemplar, path = draw_image(0), tmp_path / "kept" / "synth_a.png"
    made = obtain_texture(path, exemplar, CONFIG, network)
    assert [file.name for file in path.parent.iterdir()] == ["synth_a.png"]
    monkeypatch.setattr(published_pairs, "synthesize", None)  # which would raise if called
    kept = obtain_texture(path, exemplar, CONFIG, network)
    assert torch.equal(made.image, kept.image)
    assert made.effort == kept.effort
    assert torch.equal(kept.image, torch.from_numpy(np.array(Image.open(path))).movedim(2, 0) / 255)
    for asked in (
        (draw_image(1), CONFIG, network),
        (exemplar, dataclasses.replace(CONFIG, evaluations=4.0), network),
        (exemplar, CONFIG, judge),
    ):
        with pytest.raises(SystemExit, match="move it away"):
            obtain_texture(path, *asked)


def test_pairs_are_what_has_both_files_of_one_size(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no exemplar_NAME"):
        load_pairs(tmp_path)
    write_pair(tmp_path, "b", 0)
    write_pair(tmp_path, "a", 1)
    tensor_to_pil(draw_image(2)).save(tmp_path / "exemplar_alone.png")
    assert list(load_pairs(tmp_path)) == ["a", "b"]
    tensor_to_pil(draw_image(2)[:, 1:]).save(tmp_path / "synth_alone.png")
    with pytest.raises(SystemExit, match=r"synth_alone.png: \[31, 32\] px, expected .*\[32, 32\]"):
        load_pairs(tmp_path)


def test_the_command_prints_a_table_per_exemplar_and_one_of_all(
    tmp_path: Path,
    network: TextureNetwork,
    judge: TextureNetwork,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    networks = {"random:0": network, "random:1": judge}
    monkeypatch.setattr(quality_table, "load_network", lambda name, **_: networks[name])
    for number, name in enumerate("ab"):
        write_pair(tmp_path, name, number)
    textures = tmp_path / "ours"
    options = ["--pairs", str(tmp_path), "--weights", "random:0", "--evaluations", "3"]
    options += ["--judge", "random:1", "--textures", str(textures)]
    monkeypatch.setattr("sys.argv", ["quality_table", *options])
    quality_table.main()
    first = capsys.readouterr().out
    assert sorted(path.name for path in textures.iterdir()) == ["synth_a.png", "synth_b.png"]
    titles = [line for line in first.splitlines() if line.startswith("## ")]
    assert titles == ["## a", "## b", "## Published / ours"]
    rows = [line.split(" | ") for line in first.splitlines() if line.startswith("| delivered_loss")]
    own_tables, together = [rows[0], rows[2]], rows[4]  # between them those by the judge
    for row, cell in zip(own_tables, together[1:3], strict=True):
        _, published, ours, good, better = row
        assert (good, better.strip(" |")) in {("0", "ours"), ("0", "published")}
        bold = {"ours": f"{published} / **{ours}**", "published": f"**{published}** / {ours}"}
        assert cell == bold[better.strip(" |")]
    wins = sum(row[-1].startswith("ours") for row in own_tables)
    assert together[-1] == f"{wins} of 2 |"


def test_the_page_has_the_table_of_the_result() -> None:
    root = Path(quality_table.__file__).parents[1]
    result = (root / "benchmarks/results/quality_table_256px.md").read_text()
    table = result.partition("## Published / ours\n\n")[2]
    assert "delivered_loss" in table
    assert table.strip() in (root / "docs/quality.md").read_text()
