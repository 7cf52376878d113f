from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import roofline
from benchmarks.calibrate_hed import load_calibration_images
from benchmarks.lane_memory import measure_peak
from benchmarks.roofline import Pieces, count_flop, make_lane, time_runs
from texsynth import LBFGSConfig, SynthesisConfig, TextureNetwork, TextureObjective, load_network
from texsynth.config import PresetName, Weighting
from texsynth.levels import compute_levels
from texsynth.memory import estimate_lane_bytes

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE, HISTORY, LANES = 32, 5, 2
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network(weights_file: Path) -> TextureNetwork:
    """Two convolutions: taps relu1_1 and pool1."""
    return load_network(weights_file)


def config_of(preset: PresetName = "default", history: int = HISTORY) -> SynthesisConfig:
    config = SynthesisConfig.preset(preset)
    optimizer: LBFGSConfig = dataclasses.replace(config.optimizer, history=history)
    return dataclasses.replace(config, optimizer=optimizer)


@pytest.fixture
def pieces(network: TextureNetwork) -> Pieces:
    exemplar = load_calibration_images(SIDE)[:1]
    lane = make_lane(network, config_of(), exemplar)
    return Pieces(network, config_of(), exemplar, lane, LANES)


@pytest.mark.parametrize("history", [pytest.param(20, marks=pytest.mark.slow), 100])
@pytest.mark.parametrize("preset", ["default", "reference"])
def test_a_lane_takes_the_memory_that_is_estimated(
    network: TextureNetwork, preset: PresetName, history: int
) -> None:
    config, side = dataclasses.replace(config_of(preset, history), levels=2), 64
    exemplar = load_calibration_images(side)[:1]
    peaks = [measure_peak(network, config, exemplar, lanes) for lanes in (1, 3)]
    grown = (peaks[1] - peaks[0]) / 2
    estimate = estimate_lane_bytes(network, config, compute_levels(config, side, side))
    assert grown == pytest.approx(estimate, rel=0.15)


@pytest.mark.slow
def test_it_grows_as_the_area_of_the_texture(network: TextureNetwork) -> None:
    config, exemplar = dataclasses.replace(config_of(), levels=2), load_calibration_images(32)[:1]
    estimates = []
    for size in ((32, 32), (64, 96)):
        peaks = [measure_peak(network, config, exemplar, lanes, size) for lanes in (1, 2)]
        sizes = compute_levels(config, *size, (32, 32))
        estimates.append(estimate_lane_bytes(network, config, sizes, (32, 32)))
        assert peaks[1] - peaks[0] == pytest.approx(estimates[-1], rel=0.15)
    # What is not of pixels, such as Gram matrices, does not grow.
    assert 5 < estimates[1] / estimates[0] < 6


@pytest.mark.slow
def test_an_exemplar_much_larger_than_the_texture_takes_more_than_a_lane(
    network: TextureNetwork,
) -> None:
    config, exemplar = dataclasses.replace(config_of(), levels=1), load_calibration_images(96)[:1]
    peak = measure_peak(network, config, exemplar, 1, (32, 32))
    estimate = estimate_lane_bytes(network, config, [(32, 32)], (96, 96))
    assert peak == pytest.approx(estimate, rel=0.15)
    assert estimate > 2 * estimate_lane_bytes(network, config, [(32, 32)])


@pytest.mark.parametrize("weighting", ["none", "sensitivity"])
def test_so_does_one_whose_gram_matrices_are_large_beside_its_maps(weighting: Weighting) -> None:
    config = dataclasses.replace(config_of(), levels=1, taps=("pool4",), weighting=weighting)
    deep, exemplar = load_network("random:0"), load_calibration_images(32)[:1]
    peaks = [measure_peak(deep, config, exemplar, lanes) for lanes in (1, 3)]
    grown = (peaks[1] - peaks[0]) / 2
    assert grown == pytest.approx(estimate_lane_bytes(deep, config, [(32, 32)]), rel=0.15)


def test_the_history_of_a_tick_is_full_and_its_parts_leave_it_alone(pieces: Pieces) -> None:
    def stored() -> list[int]:
        return pieces.state.history.stored.tolist()

    assert stored() == [HISTORY] * LANES
    before = pieces.state.history.s.clone()
    for name, run in pieces.runs().items():
        if name != "tick":
            run()
    torch.testing.assert_close(pieces.state.history.s, before, rtol=0, atol=0)
    evaluations = pieces.state.evaluations
    pieces.tick()
    torch.testing.assert_close(pieces.state.evaluations, evaluations + 1)
    assert stored() == [HISTORY] * LANES


def test_the_parts_have_the_flop_of_the_whole(pieces: Pieces, network: TextureNetwork) -> None:
    positions = LANES * SIDE**2
    # Forward and the gradient with respect to the input, two FLOP each.
    convolutions = 2 * 2 * 9 * (3 * 64 + 64 * 64) * positions
    assert count_flop(pieces.convolutions) == convolutions
    assert count_flop(pieces.network) == convolutions
    # Forward and the closed gradient, and the products with the basis and its transpose.
    grams = 2 * 2 * 64**2 * (positions + positions // 4) + 2 * 4 * 2 * 64**3 * LANES
    assert count_flop(pieces.gram) == grams
    # The counter refuses `grad` of a leaf that a module was called with.
    objective = TextureObjective(network, torch.rand(LANES, 3, SIDE, SIDE), config_of())
    objective.even_out(pieces.state.point)
    objective.network = network.forward
    assert count_flop(lambda: objective.value_and_gradient(pieces.state.point)) == (
        convolutions + grams
    )


def test_runs_take_turns_and_the_first_round_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, order = [0.0], []
    seconds = {"a": [100.0, 1.0, 2.0, 9.0], "b": [100.0, 5.0, 4.0, 3.0]}

    def run(name: str) -> None:
        order.append(name)
        clock[0] += seconds[name].pop(0)

    monkeypatch.setattr(roofline.time, "perf_counter", lambda: clock[0])
    medians = time_runs({"a": lambda: run("a"), "b": lambda: run("b")}, 0.0, CPU)
    assert medians == {"a": 2.0, "b": 4.0}
    assert order == ["a", "b"] * 4


def test_the_table_has_a_row_for_each_lane_count_that_fits(
    weights_file: Path,
    network: TextureNetwork,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lane = estimate_lane_bytes(network, config_of(), [(SIDE, SIDE)])
    monkeypatch.setattr(roofline, "memory_bytes", lambda device: 5 * lane)
    monkeypatch.setitem(roofline.MATRIX_SIDE, "cpu", 64)
    found = tmp_path / "found.json"
    options = {"size": SIDE, "weights": weights_file, "history": HISTORY, "lanes": "2,1,3,5"}
    options |= {"seconds": 0, "json": found}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["roofline", *words])
    roofline.main()
    out = capsys.readouterr().out
    assert "* device: " in out
    assert "taps: relu1_1, pool1\n" in out
    assert out.endswith("\nSkipped, for want of memory: 5 lanes.\n")
    records = json.loads(found.read_text())["measurements"]
    assert [record["lanes"] for record in records] == [1, 2, 3]
    for record in records:
        columns = record["columns"]
        assert f"| {' | '.join(columns)} |\n" in out
        assert columns["tick, s"] == record["seconds"]["tick"] > 0
        assert 0 < columns["outside the network"] < 1
        assert columns["tick, GFLOP/s"] == pytest.approx(
            columns["GFLOP per evaluation"] * record["lanes"] / columns["tick, s"]
        )
    measured = [record["columns"]["estimated / measured"] for record in records]
    assert measured == [None, pytest.approx(1, abs=0.15), None]
