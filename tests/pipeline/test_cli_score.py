from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.cli.score import GOOD
from texsynth import QualityMeasures

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def images(tmp_path: Path) -> tuple[Path, Path]:
    """An exemplar of 64x48 px, and a texture of 48x40."""
    paths = (tmp_path / "exemplar.png", tmp_path / "texture.png")
    for seed, (path, size) in enumerate(zip(paths, ((48, 64), (40, 48)), strict=True)):
        pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    return paths


def test_a_table_says_what_was_compared_and_what_was_not(
    call: Call, images: tuple[Path, Path]
) -> None:
    exemplar, texture = images
    code, out, err = call("score", exemplar, texture)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"exemplar: {exemplar}, 64x48 px"
    assert lines[1] == f"texture: {texture}, 48x40 px"
    assert lines[2].startswith("the exemplar is stochastic: autocorrelation peak 0.")
    table = {line.split()[0]: line.split() for line in lines[4:]}
    assert float(table["displacement_score"][1]) > 0.7
    assert len(table["chroma_noise"]) > len(table["wavelet_kl"])
    assert "spectrum_error" not in table
    reasons = [line for line in lines if line.startswith("not measured: ")]
    assert any("spectrum_error" in r and r.endswith("expected the same") for r in reasons)
    assert "not measured: gram_errors, held_out_gram_error: no network given" in reasons


def test_json_has_all_measures(call: Call, images: tuple[Path, Path]) -> None:
    exemplar, _ = images
    code, out, err = call("score", exemplar, exemplar, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["texture"] == {"path": str(exemplar), "height": 48, "width": 64}
    assert found["exemplar"]["kind"] == "stochastic"
    assert set(found["measures"]) == {f.name for f in dataclasses.fields(QualityMeasures)}
    assert found["measures"]["displacement_score"] == 0
    assert found["measures"]["spectrum_error"] == pytest.approx(0, abs=1e-5)


def test_weights_add_gram_errors(call: Call, images: tuple[Path, Path], weights_file: Path) -> None:
    exemplar, texture = images
    code, out, err = call("score", exemplar, texture, "--weights", weights_file)
    assert (code, err) == (0, "")
    rows = {tuple(line.split()[:2]) for line in out.splitlines()}
    assert {("gram_error", "relu1_1"), ("held_out_gram_error", "relu1_2")} <= rows


def test_errors_name_the_file(call: Call, images: tuple[Path, Path], tmp_path: Path) -> None:
    exemplar, _ = images
    small, broken = tmp_path / "small.png", tmp_path / "broken\x1b.png"
    Image.new("RGB", (40, 31)).save(small)
    broken.write_bytes(b"no image")
    cases = {
        small: "40x31 px, expected at least 32",
        broken: r"broken\x1b.png",
        tmp_path / "absent.png": "No such file",
    }
    for path, words in cases.items():
        for pair in ((exemplar, path), (path, exemplar)):
            code, out, err = call("score", *pair)
            assert (code, out) == (2, "")
            assert words in err
            assert path.name.split("\x1b")[0].removesuffix(".png") in err
    code, _, err = call("score", exemplar, exemplar, "--weights", tmp_path / "absent.pth")
    assert code == 2
    assert "absent.pth" in err
    assert call("score", exemplar)[0] == 2


def test_help(call: Call) -> None:
    code, out, _ = call("score", "--help")
    assert code == 0
    for word in ("Usage: texsynth score", "--weights", "--perceptual", "--json"):
        assert word in out


def test_every_measure_has_a_row() -> None:
    names = {f.name for f in dataclasses.fields(QualityMeasures)}
    own = {f"exemplar_{name}" for name in GOOD}
    assert names - own == set(GOOD) | {"gram_errors", "held_out_tap", "skipped"}
