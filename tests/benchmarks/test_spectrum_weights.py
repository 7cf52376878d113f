from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks import spectrum_weights
from benchmarks.spectrum_weights import CHANCE, DRIFTS, RATIOS, SETTINGS, table_rows
from texsynth import SynthesisConfig


def test_the_first_setting_is_the_preset_and_no_two_are_the_same() -> None:
    made = [SynthesisConfig.preset("default", **changes) for changes in SETTINGS.values()]
    assert made[0] == SynthesisConfig.preset("default")
    assert len(set(made)) == len(made)


def test_a_row_has_ratios_to_the_first_setting_and_on_how_many_exemplars_it_is_better() -> None:
    def measures(value: float, drift: float) -> dict[str, float]:
        ratios = dict.fromkeys(RATIOS, value)
        return {**ratios, **dict.fromkeys(DRIFTS, drift), "chroma_noise": value}

    first = [measures(1.0, 0.1), measures(2.0, -0.1)]
    other = [measures(0.5, 0.2), measures(16.0, -0.4)]
    rows = table_rows({"a": first, "b": other})
    assert rows[0] == "| a | " + "1.00 (0) | " * len(RATIOS) + "0.100 | 0.100 | 1.41 |"
    # Half and eight times: lower on one exemplar, higher on the other.
    assert rows[1] == "| b | " + "2.00 (1) | " * len(RATIOS) + "0.300 | 0.300 | 2.83 |"


def test_tables_by_kind_of_exemplar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = (255 * torch.rand((32, 32, 3), generator=generator)).byte()
    stripes = (torch.arange(32) // 2 % 2).mul(200).byte().expand(3, 32, 32).permute(2, 1, 0)
    (tmp_path / "exemplars").mkdir()
    for name, image in (("noise", noise), ("stripes", stripes)):
        Image.fromarray(image.numpy()).save(tmp_path / "exemplars" / f"{name}.png")
    arguments = [
        *("--exemplars", str(tmp_path / "exemplars"), "--textures", str(tmp_path / "textures")),
        *("--weights", "random:0", "--judge", "random:1", "--size", "32", "--evaluations", "12"),
        *("--settings", "colour-reference", "none", "--sheet", str(tmp_path / "sheet.png")),
    ]
    monkeypatch.setattr("sys.argv", ["spectrum_weights", *arguments])
    spectrum_weights.main()
    printed = capsys.readouterr().out
    regular, irregular = printed.split("## Regular: stripes\n")[1].split("## Irregular: noise\n")
    for table in (regular, irregular):
        assert table.count("\n| colour-reference | 1.00 (0) | ") == 1
        assert table.count("\n| none | ") == 1
        assert table.count(f"\n| {CHANCE} | ") == 1
        assert f"| {CHANCE} | 1.00 (0) | 1.00 (0) | 1.00 (0) " not in table
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (4 * 32, 2 * 32)
    kept = (tmp_path / "textures" / "noise" / "none.png").read_bytes()
    spectrum_weights.main()
    again = capsys.readouterr().out
    assert again == printed
    assert (tmp_path / "textures" / "noise" / "none.png").read_bytes() == kept
