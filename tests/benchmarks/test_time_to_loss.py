from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.comparisons import Comparison, Mark, geometric_mean, load_comparisons, tables
from benchmarks.copies import CopyMeasures, measure_copies
from benchmarks.time_to_loss import (
    Measure,
    run_baseline,
    run_ours,
)
from texsynth import SynthesisConfig, load_network
from texsynth.images import tensor_to_pil

NEW = CopyMeasures(0.8, 0.1, 0.4)
BASELINE = (Mark(400, 40.0, 100.0, 1e4, 20), Mark(1000, 100.0, 10.0, 1e3, 50))
OURS = (Mark(50, 2.0, 200.0), Mark(100, 4.0, 90.0), Mark(200, 8.0, 20.0))


def comparison_of(name: str = "x", copies: CopyMeasures = NEW) -> Comparison:
    return Comparison(name, BASELINE, OURS, Mark(150, 40.0, 50.0, 100.0), 20, (NEW, copies))


def draw(seed: int = 0) -> Tensor:
    return torch.rand((3, 32, 32), generator=torch.Generator().manual_seed(seed))


def test_reached_is_the_first_mark_at_or_below_the_baselines_loss() -> None:
    assert comparison_of().reached(20) == (BASELINE[0], OURS[1], True)
    # Not reached: all that was spent, and a sign that it was not enough.
    assert comparison_of().reached(50) == (BASELINE[1], OURS[2], False)
    assert comparison_of().reached(250) is None


def test_tables_have_ratios_their_means_and_what_was_not_reached() -> None:
    text = "\n".join(tables([comparison_of("x"), comparison_of("y")]))
    assert "| x | 20 | 100 | 400 | 100 | 4.0 | 40 | 4 | 10.0 |" in text
    assert "| x | 50 | 10 | 1,000 | > 200 | < 5.0 | 100 | > 8 | < 12.5 |" in text
    assert "| **geometric mean of 2** | 20 | | | | **4.0** | | | **10.0** |" in text
    assert "| 10.0 | 90.0 | 900.0 |" in text
    assert "| < 12.5 | 36.0 | < 450.0 |" in text
    assert "median 100.0, least 100.0" in text
    assert "0 of our 4 textures" in text


def test_a_baseline_that_diverged_enters_no_mean() -> None:
    nan = float("nan")
    diverged = tuple(dataclasses.replace(mark, loss=nan, delivered=1e9) for mark in BASELINE)
    alone = [dataclasses.replace(comparison_of("z"), baseline=diverged)]
    text = "\n".join(tables([comparison_of("x"), *alone]))
    assert "| z | 20 | diverged |" in text
    assert "| **geometric mean of 1** | 20 | | | | **4.0** | | | **10.0** |" in text
    assert "| z | diverged | 50 | | 100 | " in text
    assert "median 100.0" in text
    assert "mean" not in "\n".join(tables(alone))


def test_copies_are_counted() -> None:
    text = "\n".join(tables([comparison_of(copies=CopyMeasures(0.2, 0.1, 0.1))]))
    assert "1 of our 2 textures" in text


def test_the_exemplar_itself_is_a_copy_and_noise_is_none() -> None:
    exemplars = draw()[None]
    assert measure_copies(exemplars, exemplars)[0].is_copy
    assert not measure_copies(draw(1)[None], exemplars)[0].is_copy


def test_geometric_mean() -> None:
    assert geometric_mean([1.0, 100.0]) == pytest.approx(10.0)


def test_both_are_measured_by_the_same_loss_of_the_same_function(weights_file: Path) -> None:
    network, exemplar = load_network(str(weights_file)), draw()
    measure = Measure(network, exemplar)
    assert measure.taps == ("relu1_1", "pool1")
    baseline = run_baseline(network, exemplar, measure, 20)
    assert [(mark.epoch, mark.evaluations) for mark in baseline] == [(20, 400)]
    config = SynthesisConfig.preset(
        "default",
        evaluations=30,
        spectrum="gray",
        clamp=False,
        range_weight=0.0,
        settle=False,
        weighting="none",
    )
    ours, texture = run_ours(network, exemplar, measure, config)
    assert texture.shape == exemplar.shape
    # Looked at after 1, 10, 20 and 30 evaluations; the last one is the result's.
    assert [mark.evaluations for mark in ours] == pytest.approx([1, 10, 20, 30])
    assert ours[-1].loss < ours[0].loss
    assert [mark.seconds for mark in ours] == sorted(mark.seconds for mark in ours)


def test_lanes_share_the_time_and_the_first_is_the_same(weights_file: Path) -> None:
    network, exemplar = load_network(str(weights_file)), draw()
    measure = Measure(network, exemplar)
    config = SynthesisConfig.preset("default", evaluations=20, weighting="none", settle=False)
    (alone, _), (beside, _) = (
        run_ours(network, exemplar, measure, config, lanes=lanes) for lanes in (1, 3)
    )
    assert [mark.evaluations for mark in beside] == [mark.evaluations for mark in alone]
    for one, other in zip(alone[:2], beside[:2], strict=True):
        assert other.loss == pytest.approx(one.loss, rel=1e-3)
    assert [mark.seconds for mark in beside] == sorted(mark.seconds for mark in beside)


@pytest.mark.slow
def test_the_command_prints_what_it_writes(tmp_path: Path, weights_file: Path) -> None:
    tensor_to_pil(draw()).save(tmp_path / "exemplar_noise.png")
    options = ["--size", "32", "--epochs", "20", "--weights", str(weights_file), "--threads", "1"]
    options += ["--lanes", "2"]
    written = tmp_path / "marks.json"
    paths = ["--exemplars", str(tmp_path), "--pattern", "*.png", "--json", str(written)]
    command = [sys.executable, "-m", "benchmarks.time_to_loss", *paths, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    head = json.loads(written.read_text())["head"]
    comparisons = load_comparisons([written])
    assert [comparison.name for comparison in comparisons] == ["noise"]
    assert "\n".join([*head, "", *tables(comparisons)]) in done.stdout
