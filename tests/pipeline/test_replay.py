from __future__ import annotations

import dataclasses
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from pipeline.config import RunConfig
from pipeline.lane_checkpoints import save_checkpoint
from pipeline.replay import Replay, ReplayError, load_row, replay_row
from pipeline.resume import load_run_record
from pipeline.row_comparison import ROUNDING_LOSS, ROUNDING_STEPS, compare_pngs, compare_rows
from pipeline.run import run_manifest
from pipeline.rundir import RunDirectory
from pipeline.schema import row_schema, rows_to_table
from pipeline.shards import commit_rows
from texsynth import ConfigError, TextureObjective, load_network
from texsynth.images import image_to_tensor
from texsynth.lane import Lane
from texsynth.synthesis import prepare_synthesis

MakeConfig = Callable[..., RunConfig]
MakeManifest = Callable[..., Path]
MakeRun = Callable[..., RunDirectory]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def make_run(make_manifest: MakeManifest, quick_config: MakeConfig, tmp_path: Path) -> MakeRun:
    """A finished run of noise images, made in this process."""

    def make(ids: str = "abc", broken: str = "", **values: Any) -> RunDirectory:
        run = RunDirectory(tmp_path / "run")
        config = quick_config(**values)
        run_manifest(make_manifest(ids, broken=broken), run.path, config, Console(quiet=True))
        return run

    return make


def replay(run: RunDirectory, task_id: str = "a-c0-v0", **settings: Any) -> Replay:
    return replay_row(run, load_row(run, task_id), **settings)


def change(run: RunDirectory, task_id: str = "a-c0-v0", **values: Any) -> None:
    """Commit a row once more, with other values."""
    row = load_row(run, task_id)
    record = load_run_record(run)
    assert record is not None
    row |= values | {"attempts": row["attempts"] + 1}
    commit_rows(run, rows_to_table([row], row_schema(record.carried)))


def png_of(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(file, "PNG")
    return file.getvalue()


# Rows with textures


def test_a_row_made_alone_is_identical_finalized_or_not(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(lanes=1)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    out = tmp_path / "pictures"
    found = replay(run, out=out)
    assert (found.verdict, found.status, found.circumstances) == ("identical", "ok", ())
    assert found.comparison is not None
    assert found.comparison.pixels is not None
    assert found.comparison.pixels.largest == 0
    for name, loss in found.comparison.losses.items():
        assert loss.stored == loss.replayed == load_row(run, "a-c0-v0")[name]
    assert found.comparison.measured_loss == load_row(run, "a-c0-v0")["delivered_loss"]
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in out.iterdir()) == [
        *("exemplar.png", "replayed.png", "stored.png")
    ]
    stored = load_row(run, "a-c0-v0")["image"]["bytes"]
    for name in ("stored", "replayed"):
        assert compare_pngs(stored, (out / f"{name}.png").read_bytes()).share == 0  # type: ignore[union-attr]
    source = np.asarray(
        Image.open(tmp_path / "images" / "a.png")
        .crop((4, 0, 44, 40))
        .resize((32, 32), Image.Resampling.LANCZOS)
    )
    np.testing.assert_array_equal(np.asarray(Image.open(out / "exemplar.png")), source)
    change(run, finished_at=load_row(run, "a-c0-v0")["finished_at"])
    assert list(run.shards.iterdir())
    assert replay(run).verdict == "identical"


@pytest.mark.parametrize("crop", ["random", "reference"])
def test_every_crop_is_cut_where_it_was(make_run: MakeRun, crop: str) -> None:
    run = make_run(ids="a", crop=crop, crops=2 if crop == "random" else 1, variations=2, lanes=1)
    last = "a-c1-v1" if crop == "random" else "a-c0-v1"
    assert replay(run, last).verdict in ("identical", "the same up to rounding")


def test_a_row_made_beside_others_is_the_same_up_to_rounding(make_run: MakeRun) -> None:
    run = make_run(lanes=3, evaluations=10)
    for task_id in ("a-c0-v0", "b-c0-v0", "c-c0-v0"):
        found = replay(run, task_id)
        assert found.verdict in ("identical", "the same up to rounding")


def test_a_row_that_went_on_from_a_checkpoint_is_interrupted_there_again(
    make_run: MakeRun, make_manifest: MakeManifest, quick_config: MakeConfig, tmp_path: Path
) -> None:
    settings = {"ids": "a", "evaluations": 25, "lanes": 1}
    whole = load_row(make_run(**settings), "a-c0-v0")
    path = tmp_path / "images" / "a.png"
    square = Image.open(path).crop((4, 0, 44, 40)).resize((32, 32), Image.Resampling.LANCZOS)
    config = quick_config(evaluations=25)
    work = prepare_synthesis(
        image_to_tensor(square).contiguous()[None],
        [whole["seed"]],
        config.resolve_synthesis(),
        load_network(config.weights),
    )
    # Between two looks at the loss: after eight evaluations and the measuring.
    work.advance()
    work.advance(lambda: work.checkpoints()[0].spent == 12.5)
    (checkpoint,) = work.checkpoints()
    (tmp_path / "run").rename(tmp_path / "uninterrupted")
    run = RunDirectory(tmp_path / "run")
    run.create()
    save_checkpoint(run, whole, checkpoint)
    make_run(**settings)
    assert load_row(run, "a-c0-v0")["resumed_at"] == [12.5]
    assert load_row(run, "a-c0-v0")["image"] != whole["image"]
    found = replay(run)
    assert found.verdict == "identical"
    (circumstance,) = found.circumstances
    assert (
        "went on from a checkpoint at 12.5 evaluations, without the L-BFGS history" in circumstance
    )
    # Where a row says what cannot have been.
    change(run, resumed_at=[99.0])
    (circumstance,) = replay(run).circumstances
    assert circumstance.endswith("the replay at none: it cannot be expected to be the same")


def test_a_row_whose_time_was_up_is_stopped_at_as_many_evaluations(make_run: MakeRun) -> None:
    run = make_run(evaluations=1000, task_timeout=1e-6, lanes=1)
    assert load_row(run, "a-c0-v0")["status"] == "timeout"
    found = replay(run)
    assert (found.verdict, found.status) == ("identical", "timeout")
    assert "its time was up" in found.circumstances[0]


@pytest.mark.parametrize("spent", [105, 115, 121, 125, 135])
def test_a_row_whose_time_was_up_as_its_pixels_settled_is_made_again(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, spent: int
) -> None:
    monkeypatch.setattr("texsynth.lanes.TOLERANCE", -1.0)
    account = Lane.account

    def late(self: Lane, reading: Any, seconds: float) -> None:
        account(self, reading, seconds)
        self.task.seconds = 1e6 if self.task.spent >= spent else 0.0

    with monkeypatch.context() as clock:
        clock.setattr(Lane, "account", late)
        run = make_run("a", evaluations=150, task_timeout=1e3, lanes=1)
    row = load_row(run, "a-c0-v0")
    assert (row["status"], row["stop_reason"]) == ("timeout", "time_limit")
    assert spent <= row["evaluations"] < spent + 10
    found = replay(run)
    assert (found.verdict, found.status) == ("identical", "timeout")


def test_a_row_whose_time_was_up_as_it_fell_slowly_is_made_again(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("texsynth.lane.SLOW_FALL", 1e6)
    account = Lane.account

    def late(self: Lane, reading: Any, seconds: float) -> None:
        account(self, reading, seconds)
        self.task.seconds = 1e6 if self.task.spent >= 24 else 0.0

    # The first reading at which its fall is slow is the one at which its time is up.
    synthesis = {"plateau_evaluations": 19, "plateau_tolerance": 0.0}
    with monkeypatch.context() as clock:
        clock.setattr(Lane, "account", late)
        run = make_run("a", evaluations=150, task_timeout=1e3, lanes=1, synthesis=synthesis)
    row = load_row(run, "a-c0-v0")
    assert (row["stop_reason"], row["evaluations"]) == ("time_limit", 24.5)
    assert replay(run).verdict == "identical"


def test_what_was_tampered_with_is_different(make_run: MakeRun) -> None:
    run = make_run(lanes=1)
    row = load_row(run, "a-c0-v0")
    other = load_row(run, "b-c0-v0")["image"]
    bytes_of = {
        "other": other["bytes"],
        "small": png_of(np.zeros((16, 16, 3))),
        "damaged": row["image"]["bytes"][:100],
    }
    for changes, reason in (
        ({"image": other}, "the stored image has delivered loss"),
        ({"delivered_loss": 1.5 * row["delivered_loss"]}, "its row says"),
        ({"float_loss": 1.1 * row["float_loss"]}, "the losses are not: float_loss"),
        ({"image": {"bytes": bytes_of["small"], "path": "a.png"}}, "of another size"),
        ({"image": {"bytes": bytes_of["damaged"], "path": "a.png"}}, "cannot be measured"),
        ({"seed": 7}, "made again"),
    ):
        change(run, **(row | changes))
        found = replay(run)
        assert (found.verdict, reason in found.reason) == ("different", True), found.reason


# Rows without textures


def test_a_broken_image_gives_its_error_again_and_none_once_mended(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run(broken="b")
    found = replay(run, "b-c0-v0")
    assert (found.verdict, found.status, found.comparison) == ("the same error", "failed", None)
    assert found.error == found.stored_error
    assert "ImageError: image 'images/b.png'" in str(found.error)
    (tmp_path / "images" / "b.png").write_bytes((tmp_path / "images" / "a.png").read_bytes())
    found = replay(run, "b-c0-v0", out=tmp_path / "pictures")
    assert (found.verdict, found.reason) == ("different", "it gives a texture here")
    assert (tmp_path / "pictures" / "replayed.png").exists()


def test_an_error_of_the_synthesis_is_shown_with_its_traceback(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(self: TextureObjective, images: Any) -> Any:
        raise RuntimeError("nobody expects this")

    with monkeypatch.context() as patch:
        patch.setattr(TextureObjective, "value_and_gradient", fail)
        run = make_run()
        found = replay(run)
        assert found.verdict == "the same error"
        assert "Traceback" in str(found.error)
        assert "in fail" in str(found.error)
        assert "nobody expects this" in str(found.stored_error)
    monkeypatch.setattr(TextureObjective, "value_and_gradient", lambda self, images: 1 / 0)
    found = replay(run)
    assert (found.verdict, found.error is not None) == ("different", True)
    assert "ZeroDivisionError here, with RuntimeError in the run" in found.reason
    monkeypatch.undo()
    (tmp_path / "images" / "a.png").write_bytes((tmp_path / "images" / "b.png").read_bytes())
    with pytest.raises(ReplayError, match=r"image 'images/a\.png': sha256 is .*, expected"):
        replay(run)


def test_a_loss_that_is_not_finite_is_the_same_error(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = TextureObjective.value_and_gradient

    def diverge(self: TextureObjective, images: Any) -> Any:
        value, gradient = evaluate(self, images)
        return value * math.nan, gradient

    run = make_run(ids="a")
    monkeypatch.setattr("texsynth.results.ReferenceLoss.total", math.nan)
    found = replay(run)
    assert (found.verdict, found.reason) == ("different", "it fails here")
    assert found.error == "NonFiniteLossError: the loss is nan"
    change(run, status="failed", image=None, error_type="NonFiniteLossError", error="nan")
    assert replay(run).verdict == "the same error"


# What is refused


def test_an_unknown_task_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(ids="a")
    with pytest.raises(ReplayError, match="no committed row of task 'z', expected one of 1 tasks"):
        load_row(run, "z")
    with pytest.raises(ReplayError, match="expected one of 0 tasks"):
        load_row(RunDirectory(tmp_path / "nothing"), "a-c0-v0")
    row = load_row(run, "a-c0-v0")
    with pytest.raises(ReplayError, match=r"no run directory: it has no run\.json"):
        replay_row(RunDirectory(tmp_path / "nothing"), row)


def test_a_changed_or_missing_source_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    source = tmp_path / "images" / "a.png"
    source.write_bytes((tmp_path / "images" / "b.png").read_bytes())
    with pytest.raises(ReplayError, match=r"task 'a-c0-v0', image 'images/a\.png': .*changed"):
        replay(run)
    source.unlink()
    with pytest.raises(ReplayError, match="cannot be read"):
        replay(run)
    outside = tmp_path / "outside.png"
    outside.write_bytes((tmp_path / "images" / "b.png").read_bytes())
    change(run, path=str(outside))
    with pytest.raises(ReplayError, match="--allow-outside-root"):
        replay(run)


def test_other_weights_settings_and_devices_are_refused(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(ids="a")
    with pytest.raises(ConfigError, match="expected cpu, cuda or cuda:N"):
        replay(run, device="tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="has 0 CUDA devices"):
        replay(run, device="cuda")
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.replay.ALGORITHM_VERSION", -1)
        with pytest.raises(ReplayError, match="has algorithm -1, expected"):
            replay(run)
    change(run, weights_sha256="ab" * 32)
    with pytest.raises(ReplayError, match="here, expected abab"):
        replay(run)
    change(run, config_fingerprint="0123456789abcdef")
    with pytest.raises(ReplayError, match="expected 0123456789abcdef"):
        replay(run)


# The verdict


def row_with(pixels: Any, loss: float, **values: Any) -> dict[str, Any]:
    losses = dict.fromkeys(("float_loss", "delivered_loss", "objective_loss"), loss)
    efforts = {"evaluations": 5.0, "iterations": 4, "stop_reason": "budget"}
    return {"image": {"bytes": png_of(pixels), "path": "a.png"}, **losses, **efforts, **values}


@pytest.mark.parametrize(
    ("step", "loss", "verdict"),
    [
        (0, 100.0, "identical"),
        (0, 100.0 * (1 + ROUNDING_LOSS / 2), "the same up to rounding"),
        (ROUNDING_STEPS, 100.0, "the same up to rounding"),
        (ROUNDING_STEPS, 100.0 * (1 + 2 * ROUNDING_LOSS), "different"),
        (ROUNDING_STEPS + 1, 100.0, "another texture of like loss"),
        (200, 140.0, "another texture of like loss"),
        (200, 70.0, "another texture of like loss"),
        (200, 160.0, "different"),
        (200, 60.0, "different"),
        (200, 0.0, "different"),
        (200, math.nan, "different"),
    ],
)
def test_verdicts_by_how_far_images_and_losses_are_apart(
    step: int, loss: float, verdict: str
) -> None:
    pixels = np.zeros((4, 4, 3))
    stored = row_with(pixels, 100.0)
    pixels[1, 2, 0] = step
    found = compare_rows(stored, row_with(pixels, loss), 100.0)
    assert found.verdict == verdict
    assert found.pixels is not None
    assert (found.pixels.largest, found.pixels.mean) == (step, step / 48)
    assert found.pixels.share == (1 / 16 if step else 0)
    for count in ({"iterations": 5}, {"stop_reason": "plateau"}):
        other = compare_rows(stored, row_with(pixels, loss, **count), 100.0).verdict
        assert other == ("the same up to rounding" if verdict == "identical" else verdict)
    assert compare_rows(stored, row_with(np.zeros((4, 5, 3)), loss), 100.0).verdict == "different"


def test_a_stored_image_that_has_not_its_loss_is_different_even_if_made_again() -> None:
    row = row_with(np.zeros((4, 4, 3)), 100.0)
    assert compare_rows(row, row, 101.0).verdict == "different"
    assert compare_rows(row | {"delivered_loss": None}, row, 100.0).verdict == "different"


def test_a_replay_is_plain_json(make_run: MakeRun) -> None:
    values = dataclasses.asdict(replay(make_run(ids="a")))
    assert json.loads(json.dumps(values, allow_nan=False))["verdict"] == "identical"
