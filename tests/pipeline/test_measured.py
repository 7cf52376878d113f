from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pipeline.planned_device
from pipeline.calibration import compute_evaluations
from pipeline.config import RunConfig
from pipeline.measured import MeasuredError, MeasuredSpeed, load_measured, scale_levels
from pipeline.plan import plan_run
from texsynth import SynthesisConfig

Call = Callable[..., tuple[int, str, str]]
MakeConfig = Callable[..., RunConfig]
MakeManifest = Callable[..., Path]

RESULTS = Path(__file__).parents[2] / "benchmarks/results"
GPU = MeasuredSpeed(
    seconds_by_lanes={1: 0.05, 8: 0.02, 32: 0.01}, side_px=128, device_name="a fast GPU"
)

pytestmark = pytest.mark.usefixtures("one_thread")


def head(command: str, device: str = "NVIDIA A10G") -> list[str]:
    return [f"* device: {device}", f"* command: `python -m benchmarks.roofline {command}`"]


def write(path: Path, command: str, device: str = "NVIDIA A10G") -> Path:
    rows = [{"columns": {"lanes": n, "tick, s": 0.1 * n, "Gram": None}} for n in (1, 4)]
    path.write_text(json.dumps({"environment": head(command, device), "measurements": rows}))
    return path


def test_the_committed_result_of_a_benchmark_is_read() -> None:
    speed = load_measured(RESULTS / "roofline_128px.md")
    assert speed.device_name == "CPU, 2 cores, 1 threads, AMD EPYC"
    assert speed.side_px == 128
    assert speed.seconds_by_lanes == {1: 0.185, 2: 0.318 / 2, 4: 0.727 / 4}


def test_so_is_its_json(tmp_path: Path) -> None:
    speed = load_measured(write(tmp_path / "a.json", "--device cuda --size 512"))
    assert (speed.side_px, speed.device_name) == (512, "NVIDIA A10G")
    assert speed.seconds_by_lanes == {1: 0.1, 4: 0.1}
    assert load_measured(write(tmp_path / "b.json", "--device cuda")).side_px == 256


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.md", "no table", r"no line '\* command"),
        ("a.md", "\n".join(head("--device cuda")), "has no rows of 'lanes' and 'tick, s'"),
        ("a.md", "* command: `x`", r"no line '\* device"),
        ("a.json", "{", "no result of"),
        ("a.json", "[]", "no result of"),
        ("a.md", "\n".join(head("--size 128")), "is of the CPU beside NVIDIA A10G"),
        ("a.md", "\n".join(head("--device cuda --preset reference")), "preset 'reference'"),
    ],
)
def test_something_else_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(MeasuredError, match=message):
        load_measured(path)
    with pytest.raises(MeasuredError, match="cannot be read"):
        load_measured(tmp_path / "absent.md")


@pytest.mark.parametrize(("lanes", "measured"), [(None, 32), (64, 32), (31, 8), (8, 8), (1, 1)])
def test_the_speed_is_that_of_the_nearest_lanes(lanes: int | None, measured: int) -> None:
    assert GPU.at(lanes) == (measured, GPU.seconds_by_lanes[measured])
    fewest = MeasuredSpeed(seconds_by_lanes={4: 0.1}, side_px=64, device_name="")
    assert fewest.at(1) == (4, 0.1)


def test_levels_are_scaled_by_area() -> None:
    config, sizes = SynthesisConfig(evaluations=50), [(64, 128), (128, 256)]
    coarse, fine = scale_levels(GPU, 8, config, sizes)
    assert coarse.device_s_per_evaluation == pytest.approx(0.02 / 2)
    assert fine.device_s_per_evaluation == pytest.approx(0.02 * 2)
    counts = [coarse.evaluations_per_task, fine.evaluations_per_task]
    assert counts == compute_evaluations(config, sizes)
    assert (fine.side_px, fine.measured_at_px) == (128, 128)


def test_a_plan_with_it_times_nothing_here(
    make_manifest: MakeManifest, quick_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **more: Any) -> None:
        raise AssertionError("timed")

    monkeypatch.setattr(pipeline.planned_device, "calibrate", refuse)
    config = quick_config(
        size=128, device="cuda", executor="ray", actors=3, variations=99, lanes="auto"
    )
    plan = plan_run(make_manifest(["a"]), config, elsewhere=GPU)
    assert (plan.device, plan.device_name) == ("elsewhere", "a fast GPU")
    assert (plan.actors, plan.devices) == (3, 3)
    # Of 33 tasks for each actor.
    assert (plan.lanes, plan.lanes_measured) == (32, 32)
    assert plan.device_s_per_full_size_evaluation == 0.01
    assert plan.wall_hours == pytest.approx(plan.device_hours_total / 3)
    assert plan.memory_bytes_of_device is None
    assert plan.lanes_that_fit is None
    assert plan.history_that_fits is None
    few = plan_run(make_manifest(["a"]), config.model_copy(update={"variations": 9}), elsewhere=GPU)
    assert few.lanes_measured == 1


def test_what_fits_the_memory_of_that_device_is_said(
    call: Call, make_manifest: MakeManifest, weights_file: Path
) -> None:
    words = ("plan", str(make_manifest(["a"])), "--weights", str(weights_file), "--size", "32")
    larger = ("--output-size", "1024", "--seconds-per-evaluation", "0.1")

    def say(memory_gib: str) -> str:
        code, out, err = call(*words, *larger, "--device-memory-gib", memory_gib)
        assert (code, err) == (0, "")
        return out

    assert "fit in 80% of the 24 GiB of free memory of the device" in say("24")
    assert "warning" not in say("24")
    short = say("3")
    assert "warning: not one lane fits with a history of 100; with one of " in short
    (pairs,) = {word.rpartition("=")[2] for word in short.split() if "history=" in word}
    again = call(
        *words, *larger, "--device-memory-gib", "3", "--set", f"synthesis.optimizer.history={pairs}"
    )
    assert "warning" not in again[1]
    assert "warning: not one lane fits, with any history" in say("0.1")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--device-memory-gib", "16"), "expected measured or seconds_per_evaluation"),
        (("--measured", "a.md", "--seconds-per-evaluation", "1"), "both given"),
        (("--seconds-per-evaluation", "0"), "Must be > 0"),
    ],
)
def test_what_does_not_go_together_is_refused(
    call: Call, make_manifest: MakeManifest, words: tuple[str, ...], message: str
) -> None:
    code, _, err = call("plan", str(make_manifest(["a"])), *words)
    assert (code, message in err) == (2, True)
