"""Runs whose textures have another size than their exemplars."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from pipeline.capacity import estimate_actor_bytes
from pipeline.config import RunConfig
from pipeline.config_file import load_config
from pipeline.flags import RULES, evaluate_rules
from pipeline.replay import load_row, replay_row
from pipeline.run import run_manifest
from pipeline.rundir import RunDirectory
from pipeline.schema import row_schema, rows_to_table
from texsynth import ConfigError, load_network

MakeConfig = Callable[..., RunConfig]
MakeManifest = Callable[..., Path]
Call = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("given", "expected"),
    [("48x64", (48, 64)), ("64", (64, 64)), (64, (64, 64)), (None, (32, 32)), ("32", (32, 32))],
)
def test_a_size_is_height_x_width_or_one_side(given: Any, expected: tuple[int, int]) -> None:
    config = RunConfig(size=32, output_size=given)
    assert config.texture_size == expected
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize("given", ["48x", "x48", "48x64x3", "-48", "4.5", "15", "64x8", "true"])
def test_what_is_no_size_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match="output_size is "):
        load_config(RunConfig(), assignments=[f"output_size={given}"])


def test_it_is_part_of_the_identity_where_it_is_another_one(weights_file: Path) -> None:
    network = load_network(weights_file)

    def identity(**values: Any) -> dict[str, Any]:
        config = RunConfig(size=32, weights=str(weights_file), **values)
        return config.identity(network.weights_id, network.weights_sha256)

    assert "output_size" not in identity()
    assert identity(output_size="32x32") == identity()
    assert identity(output_size="32x48")["output_size"] == [32, 48]


def test_tileable_has_two_names_and_is_part_of_the_identity_where_it_is_set() -> None:
    def resolve(*assignments: str, **values: Any) -> RunConfig:
        return load_config(RunConfig(weights="random:0", **values), assignments=assignments)

    for config in (resolve("synthesis.tileable=true"), resolve(tileable=True)):
        assert config.resolve_synthesis().tileable is config.tileable is True
        assert config.identity("random:0", "")["synthesis"]["tileable"] is True
    assert resolve("synthesis.tileable=true", tileable=False).tileable is False
    assert "tileable" not in resolve().identity("random:0", "")["synthesis"]


def test_a_tile_is_made_and_replayed_and_one_with_odd_sides_refused(
    make_manifest: MakeManifest, quick_config: MakeConfig, tmp_path: Path
) -> None:
    run, manifest = RunDirectory(tmp_path / "run"), make_manifest("a")
    quiet = Console(quiet=True)
    odd = quick_config(tileable=True, output_size="32x33")
    with pytest.raises(ValueError, match="tileable texture of 33x32 px, tap 'pool1'"):
        run_manifest(manifest, run.path, odd, quiet)
    run_manifest(manifest, run.path, quick_config(tileable=True, lanes=1), quiet)
    row = load_row(run, "a-c0-v0")
    assert row["layout_correlation"] is not None
    assert replay_row(run, row).verdict == "identical"


def test_memory_of_an_actor_grows_with_the_texture() -> None:
    def estimate(**values: Any) -> int:
        return estimate_actor_bytes(RunConfig(size=128, **values)) - estimate_actor_bytes(
            RunConfig(size=16)
        )

    assert estimate(output_size="512") > 15 * estimate()
    assert estimate(output_size="16") < estimate()


def test_the_copy_flag_does_without_the_layout(make_row: Callable[..., Any]) -> None:
    def is_copy(**values: Any) -> Any:
        thresholds = {"copy_displacement_threshold": 0.5, "copy_layout_threshold": 0.8}
        row = make_row("a-c0-v0", exemplar_kind="stochastic", **(thresholds | values))
        table = rows_to_table([row], row_schema())
        return evaluate_rules(table, RULES)["copy"][0].as_py()

    assert is_copy(displacement_score=0.8, verbatim_share=0.0) is False
    assert is_copy(displacement_score=0.3, verbatim_share=0.0) is True
    assert is_copy(displacement_score=0.8, verbatim_share=0.5) is True
    assert is_copy(displacement_score=0.8, layout_correlation=0.9) is True
    assert is_copy(layout_correlation=0.1) is None


def test_a_size_too_small_for_the_taps_is_refused_before_work_starts(
    make_manifest: MakeManifest, weights_file: Path, tmp_path: Path, call: Call
) -> None:
    options = ["--weights", weights_file, "--size", "32", "--executor", "inline"]
    options += ["--set", "synthesis.taps=[pool1]", "--set", "synthesis.levels=6"]
    out = tmp_path / "run"
    arguments = ["run", make_manifest("a"), "--out", out, "--output-size", "16x64", *options]
    code, _, error = call(*arguments)
    assert code == 2
    assert "levels is 6, too many for 64x16 px of an exemplar of 32x32 px" in error
    assert not (out / "run.json").exists()


def test_a_run_is_made_verified_reported_and_replayed(
    make_manifest: MakeManifest, quick_config: MakeConfig, tmp_path: Path, call: Call
) -> None:
    run, config = RunDirectory(tmp_path / "run"), quick_config(output_size="48x64", lanes=1)
    manifest = make_manifest("ab")
    run_manifest(manifest, run.path, config, Console(quiet=True))
    row = load_row(run, "a-c0-v0")
    assert (row["status"], row["height"], row["width"]) == ("ok", 48, 64)
    assert Image.open(io.BytesIO(row["image"]["bytes"])).size == (64, 48)
    unequal = ("layout_correlation", "layout_correlation_shifted", "phase_correlation_peak")
    assert [row[name] for name in unequal] == [None] * 3
    assert row["copy"] is False
    assert row["seam_score"] is not None
    assert row["verbatim_share"] is not None
    assert row["loss_curve"][-1]["side"] == 48
    found = replay_row(run, row)
    assert (found.verdict, found.reason) == ("identical", "every pixel, loss and count is the same")
    assert call("verify", run.path)[0] == 0
    assert call("report", run.path)[0] == 0
    assert (run.path / "report" / "index.html").is_file()
    with pytest.raises(ValueError, match="output_size"):
        run_manifest(manifest, run.path, quick_config(lanes=1), Console(quiet=True))


def test_one_image_on_the_command_line(
    make_manifest: MakeManifest, weights_file: Path, tmp_path: Path, call: Call
) -> None:
    make_manifest("a")
    image, out = tmp_path / "images" / "a.png", tmp_path / "out"
    options = ["--out", out, "--weights", weights_file, "--size", "32", "--evaluations", "10"]
    assert call("synthesize", image, *options, "--output-size", "32x40")[0] == 0
    with Image.open(out / "synth_a.png") as picture:
        assert picture.size == (40, 32)
    code, _, error = call("synthesize", image, *options, "--output-size", "wide")
    assert code == 2
    assert "output_size is 'wide': expected HEIGHTxWIDTH" in error
