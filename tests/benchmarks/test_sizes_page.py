from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks import sizes_page
from benchmarks.published_pairs import obtain_texture
from benchmarks.sizes_page import describe_seams
from texsynth import SynthesisConfig, load_exemplar, load_network, seam_score

SIDE = 32


def test_a_ramp_has_a_seam_and_a_wave_has_none() -> None:
    at = torch.arange(SIDE) / SIDE
    ramp = at.expand(3, SIDE, SIDE).clone()
    wave = (0.5 + 0.4 * torch.sin(2 * torch.pi * at)).expand(3, SIDE, SIDE).clone()
    tiles = {"": ramp, "-tileable": wave, "-aperiodic": ramp, "-aperiodic-tileable": wave}
    *_, row, means = describe_seams({"a": ramp}, {"a": tiles})
    name, own, *scores = row.strip("| ").split(" | ")
    # Across the seam the columns jump by as much as in 31 steps inside; rows do not change at all.
    assert (name, own, scores[0], scores[2]) == ("a", "31.00", "31.00", "31.00")
    assert float(scores[1]) == float(scores[3]) < 1.6
    assert means == row.replace("| a |", "| mean |")


def test_a_kept_texture_of_another_size_or_partner_is_no_other(tmp_path: Path) -> None:
    network = load_network("random:0")
    config = SynthesisConfig.preset("default", evaluations=2)
    exemplar, partner = torch.rand((2, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0))
    plain, large, blend = (tmp_path / name for name in ("plain.png", "large.png", "blend.png"))
    size = (SIDE, 2 * SIDE)
    made = obtain_texture(large, exemplar, config, network, output_size=size)
    assert made.image.shape[1:] == size
    own = obtain_texture(plain, exemplar, config, network)
    mixed = obtain_texture(blend, exemplar, config, network, partner=partner)
    assert not torch.equal(mixed.image, own.image)
    for path in (large, blend):
        with pytest.raises(SystemExit, match="move it away"):
            obtain_texture(path, exemplar, config, network)


def test_one_command_draws_the_sheet_and_prints_the_seams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = torch.Generator().manual_seed(0)
    (tmp_path / "exemplars").mkdir()
    for name in ("a", "b"):
        noise = (255 * torch.rand((SIDE, SIDE, 3), generator=generator)).byte()
        Image.fromarray(noise.numpy()).save(tmp_path / "exemplars" / f"{name}.png")
    arguments = [
        *("--exemplars", str(tmp_path / "exemplars"), "--textures", str(tmp_path / "textures")),
        *("--weights", "random:0", "--size", str(SIDE), "--evaluations", "4"),
        *("--shown", "a", "--tiled", "b", "--partner", "b"),
        *("--sheet", str(tmp_path / "sheet.jpg")),
    ]
    monkeypatch.setattr("sys.argv", ["sizes_page", *arguments])
    sizes_page.main()
    printed = capsys.readouterr().out
    made = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "textures").iterdir()}
    kinds = ("", "-tileable", "-aperiodic", "-aperiodic-tileable")
    tiles = [f"{name}{kind}.png" for name in ("a", "b") for kind in kinds]
    assert sorted(made) == sorted([*tiles, "a-2.png", "a-4.png", "a-b.png"])
    with Image.open(tmp_path / "textures" / "a-4.png") as image:
        assert image.size == (4 * SIDE, 4 * SIDE)
    for name in ("a", "b"):
        (row,) = (line for line in printed.splitlines() if line.startswith(f"| {name} "))
        kept = [load_exemplar(tmp_path / "textures" / f"{name}{kind}.png") for kind in kinds]
        assert not torch.equal(kept[0], kept[1])
        scores = [f"{float(seam_score(image[None])):.2f}" for image in kept]
        assert row.strip("| ").split(" | ")[2:] == scores
    with Image.open(tmp_path / "sheet.jpg") as sheet:
        assert sheet.width >= 6 * SIDE
        assert sheet.height >= 6 * SIDE
    sizes_page.main()
    assert capsys.readouterr().out == printed
    assert made == {
        path.name: path.stat().st_mtime_ns for path in (tmp_path / "textures").iterdir()
    }
