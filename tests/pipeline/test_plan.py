from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from rich.console import Console

import pipeline.calibration
import pipeline.planned_device
from pipeline.calibration import compute_evaluations
from pipeline.cli.plan import _describe
from pipeline.config import RunConfig
from pipeline.manifest import ManifestError
from pipeline.plan import plan_run
from pipeline.resume import RunMismatchError
from pipeline.run import run_manifest
from texsynth import ConfigError, SynthesisConfig, WeightsError, load_network, synthesize
from texsynth.config import Weighting
from texsynth.levels import compute_levels
from texsynth.sensitivity import PROBE_COST

MakeConfig = Callable[..., RunConfig]
MakeManifest = Callable[..., Path]

pytestmark = pytest.mark.usefixtures("one_thread")


def do(manifest: Path, out: Path, config: RunConfig) -> None:
    run_manifest(manifest, out, config, Console(file=io.StringIO()))


def listing(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_plan_counts_what_a_run_expands(
    make_manifest: MakeManifest, quick_config: MakeConfig
) -> None:
    config = quick_config(crop="random", crops=2, variations=3, limit=2)
    plan = plan_run(make_manifest(["a", "b", "c"]), config)
    assert (plan.exemplars, plan.categories, plan.crops, plan.variations) == (2, 1, 2, 3)
    assert (plan.tasks, plan.tasks_done, plan.tasks_left) == (12, 0, 12)
    assert (plan.device, plan.actors, plan.devices, plan.lanes) == ("cpu", 1, 1, 4)


def test_totals_are_tasks_times_what_each_takes(
    make_manifest: MakeManifest, quick_config: MakeConfig
) -> None:
    config = quick_config(size=128, evaluations=20, variations=2, lanes=2)
    plan = plan_run(make_manifest(["a", "b"]), config)
    assert (plan.evaluations_per_task, plan.evaluations_total) == (20, 80)
    assert (plan.output_bytes_per_task, plan.output_bytes_total) == (49_152, 196_608)
    levels = [(level.side_px, level.measured_at_px) for level in plan.levels]
    assert levels == [(64, 64), (128, 128)]
    probes = PROBE_COST if config.resolve_synthesis().weighting == "sensitivity" else 0
    seconds = [(x.evaluations_per_task + probes) * x.device_s_per_evaluation for x in plan.levels]
    assert plan.device_s_per_task == pytest.approx(sum(seconds))
    assert plan.device_s_per_full_size_evaluation == plan.levels[-1].device_s_per_evaluation
    assert plan.device_hours_total == pytest.approx(4 * plan.device_s_per_task / 3600)
    assert plan.textures_per_device_hour == pytest.approx(4 / plan.device_hours_total)
    assert plan.lanes_measured == plan.lanes == 2


@pytest.mark.parametrize("weighting", ["none", "sensitivity"])
@pytest.mark.parametrize(("levels", "budget"), [(1, 7), (2, 13.5), (3, 26), (3, 1)])
def test_the_levels_have_the_evaluations_that_a_synthesis_spends(
    weights_file: Path, levels: int, budget: float, weighting: Weighting
) -> None:
    config = SynthesisConfig.preset(
        "default",
        levels=levels,
        evaluations=budget,
        weighting=weighting,
        plateau_tolerance=0.0,
    )
    exemplar = torch.rand((1, 3, 80, 80), generator=torch.Generator().manual_seed(0))
    (result,) = synthesize(exemplar, [0], config, load_network(str(weights_file)))
    assert result.stop_reason == "budget"
    sizes = compute_levels(config, 80, 80)
    spent = {point.side: point.evaluations for point in result.loss_curve}
    before, probes = 0.0, 0.0 if weighting == "none" else PROBE_COST
    for (side, _), count in zip(sizes, compute_evaluations(config, sizes), strict=True):
        assert (spent[side] - before) * (80 / side) ** 2 == pytest.approx(probes + count)
        before = spent[side]


def test_finished_tasks_are_left_out_and_retried_ones_are_not(
    make_manifest: MakeManifest, quick_config: MakeConfig, tmp_path: Path
) -> None:
    manifest, out = make_manifest(["a", "b", "c"], broken=["c"]), tmp_path / "run"
    do(manifest, out, quick_config())

    def count(**values: Any) -> tuple[int, int, int]:
        plan = plan_run(manifest, quick_config(**values), out)
        return plan.tasks, plan.tasks_done, plan.tasks_left

    assert count(variations=2) == (6, 3, 3)
    assert count(variations=2, retry="failed") == (6, 2, 4)
    plan = plan_run(manifest, quick_config(), out)
    assert (plan.tasks_left, plan.evaluations_total, plan.output_bytes_total) == (0, 0, 0)
    assert plan.device_hours_total == plan.wall_hours == 0
    assert plan.textures_per_device_hour > 0


def test_a_plan_writes_nothing(
    make_manifest: MakeManifest, quick_config: MakeConfig, tmp_path: Path
) -> None:
    manifest, out = make_manifest(["a"]), tmp_path / "run"
    do(manifest, out, quick_config())
    before = listing(tmp_path)
    plan_run(manifest, quick_config(variations=2), out)
    plan_run(manifest, quick_config(), tmp_path / "absent")
    with pytest.raises(RunMismatchError, match="seed: 0 -> 1"):
        plan_run(manifest, quick_config(seed=1), out)
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"weights": "absent.safetensors"}, WeightsError, "absent.safetensors"),
        ({"root": "absent"}, ManifestError, "absent"),
        ({"device": "cuda:99"}, ConfigError, "device is 'cuda:99', this machine has"),
        ({"synthesis": {"levels": 9}}, ConfigError, "levels is 9, too many for 32x32 px"),
        ({"synthesis": {"taps": ["pool5"]}}, ValueError, "pool5"),
    ],
)
def test_what_a_run_refuses_a_plan_refuses(
    make_manifest: MakeManifest,
    quick_config: MakeConfig,
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        plan_run(make_manifest(["a"]), quick_config(**changes))


def test_a_manifest_column_that_a_row_needs_is_refused(
    make_manifest: MakeManifest, quick_config: MakeConfig
) -> None:
    manifest = make_manifest(["a"])
    manifest.write_text(manifest.read_text().replace("note", "status", 1))
    with pytest.raises(ManifestError, match="column 'status'"):
        plan_run(manifest, quick_config())


def test_a_level_that_takes_too_long_or_too_much_memory_is_scaled_from_a_smaller_side(
    make_manifest: MakeManifest, quick_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, sides = make_manifest(["a"]), []
    time_evaluations = pipeline.calibration._time_evaluations

    def note_side(*arguments: Any) -> float:
        sides.append(arguments[3])
        return time_evaluations(*arguments)

    monkeypatch.setattr(pipeline.calibration, "_time_evaluations", note_side)
    with monkeypatch.context() as slow:
        slow.setattr(pipeline.calibration, "CALIBRATION_S", 0.0)
        plan = plan_run(manifest, quick_config(size=256, lanes=1))
    assert [level.measured_at_px for level in plan.levels] == [64, 64, 64]
    assert plan.lanes_that_fit > 0
    for module in (pipeline.calibration, pipeline.planned_device):
        monkeypatch.setattr(module, "memory_bytes", lambda device: 30_000_000)
    plan = plan_run(manifest, quick_config(size=1024, lanes=1, synthesis={"levels": 1}))
    assert (plan.levels[0].side_px, plan.levels[0].measured_at_px) == (1024, 64)
    assert plan.lanes_that_fit == 0
    assert set(sides) == {64}


def timed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, SynthesisConfig]]:
    """Sides and settings of what is timed from here on, which takes no time at all."""
    noted: list[tuple[int, SynthesisConfig]] = []

    def note(network: Any, config: SynthesisConfig, lanes: int, side: int, count: int) -> float:
        noted.append((side, config))
        return 1.0 * side**2

    monkeypatch.setattr(pipeline.calibration, "_time_evaluations", note)
    return noted


def test_seamless_textures_are_timed_as_such(
    make_manifest: MakeManifest, quick_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = timed(monkeypatch)
    config = quick_config(size=128, output_size="272x368", tileable=True, lanes=1)
    plan_run(make_manifest(["a"]), config)
    for side, synthesis in noted:
        assert synthesis.tileable
        assert side % 2 ** int(synthesis.taps[-1].removeprefix("pool")) == 0
    # Half of 158 would be odd.
    assert {side for side, _ in noted} == {78}


def test_tiles_are_timed_as_a_run_has_them_or_as_many_smaller_ones(
    make_manifest: MakeManifest, quick_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = quick_config(size=32, output_size=2048, synthesis={"taps": ["relu1_1", "pool1"]})
    noted = timed(monkeypatch)
    (level,) = plan_run(make_manifest(["a"]), config).levels
    assert [(side, x.tile_px) for side, x in noted] == [(256, 128)] * len(noted)
    # Had halos no width, the seconds of this fake would be those of the level itself.
    assert level.measured_at_px == 256
    halo_px = 2
    views = (2 * (1024 + halo_px)) ** 2 / 2048**2, (2 * (128 + halo_px)) ** 2 / 256**2
    assert level.device_s_per_evaluation == pytest.approx(2048**2 * views[0] / views[1])
    monkeypatch.setattr(pipeline.calibration, "CALIBRATION_S", 1e12)
    noted.clear()
    (level,) = plan_run(make_manifest(["a"]), config).levels
    assert (level.measured_at_px, noted[-1][1].tile_px) == (2048, 1024)
    assert level.device_s_per_evaluation == 2048**2


def test_actors_on_a_cpu_share_its_cores_and_its_memory(
    make_manifest: MakeManifest, quick_config: MakeConfig
) -> None:
    manifest = make_manifest(["a", "b", "c"])
    alone = plan_run(manifest, quick_config(executor="ray", actors=1))
    plan = plan_run(manifest, quick_config(executor="ray", actors=3))
    assert (alone.actors, plan.actors, plan.devices) == (1, 3, 1)
    assert plan.lanes_that_fit == pytest.approx(alone.lanes_that_fit / 3, abs=1)
    assert plan.wall_hours == plan.device_hours_total
    assert (alone.lanes_measured, plan.lanes_measured) == (3, 1)


def test_a_plan_has_as_many_actors_on_a_cpu_as_ray_would_have(
    make_manifest: MakeManifest, quick_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.plan.os.cpu_count", lambda: 6)
    monkeypatch.setattr("pipeline.plan.memory_bytes", lambda device: 2**36)
    manifest = make_manifest(["a"])
    assert plan_run(manifest, quick_config(executor="ray", variations=7)).actors == 6
    assert plan_run(manifest, quick_config(executor="ray", variations=2)).actors == 2
    assert plan_run(manifest, quick_config(executor="inline")).actors == 1


def test_a_plan_reckons_with_the_most_actors_of_an_elastic_pool(
    make_manifest: MakeManifest, quick_config: MakeConfig
) -> None:
    manifest = make_manifest(["a", "b", "c"])
    plan = plan_run(manifest, quick_config(executor="ray", actors="1:2"))
    assert (plan.actors_at_least, plan.actors) == (1, 2)
    assert "1 to 2 actors (reckoned with 2) on this machine's" in " ".join(_describe(plan))
    fixed = plan_run(manifest, quick_config(executor="ray", actors=2))
    assert (fixed.actors_at_least, fixed.actors) == (2, 2)
    assert "with 2 actors on this machine's" in " ".join(_describe(fixed))


def test_actors_that_share_a_cpu_share_its_time(
    make_manifest: MakeManifest, quick_config: MakeConfig
) -> None:
    config = quick_config(
        executor="ray", actors=3, variations=6, evaluations=1e6, synthesis={"time_limit_s": 6.0}
    )
    plan = plan_run(make_manifest(["a"]), config)
    # Three actors with two lanes each: six tasks side by side.
    assert plan.lanes_measured == 2
    assert plan.device_s_per_task == pytest.approx(1.0)


def test_a_time_limit_bounds_the_time_of_a_task(
    make_manifest: MakeManifest, quick_config: MakeConfig
) -> None:
    config = quick_config(evaluations=1e6, synthesis={"time_limit_s": 2.0})
    plan = plan_run(make_manifest(["a", "b"]), config)
    assert plan.device_s_per_task == 1.0


def test_the_estimate_is_near_what_a_run_takes(
    make_manifest: MakeManifest, quick_config: MakeConfig, tmp_path: Path
) -> None:
    manifest, out = make_manifest(["a", "b", "c", "d"]), tmp_path / "run"
    config = quick_config(size=64, evaluations=40, synthesis={"plateau_tolerance": 0.0})
    plan = plan_run(manifest, config)
    do(manifest, out, config)
    seconds = pd.read_parquet(out / "metrics.parquet")["seconds"].sum() / plan.lanes
    assert 1 / 4 < seconds / (3600 * plan.device_hours_total) < 4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_actors_on_gpus_have_one_each(
    make_manifest: MakeManifest, quick_config: MakeConfig
) -> None:
    config = quick_config(executor="ray", actors=2, device="cuda", lanes=2)
    plan = plan_run(make_manifest(["a", "b", "c"]), config)
    assert (plan.actors, plan.devices, plan.device) == (2, 2, "cuda:0")
    assert plan.device_name == torch.cuda.get_device_name(0)
    assert plan.wall_hours == pytest.approx(plan.device_hours_total / 2)
    assert 0 < plan.lanes_that_fit * plan.memory_bytes_per_lane < plan.memory_bytes_of_device
