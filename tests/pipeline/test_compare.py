from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from pipeline.compare import (
    MEASURES,
    CompareError,
    Comparison,
    Summary,
    compare_runs,
    compute_interval,
)
from pipeline.resume import RunRecord, write_run_record
from pipeline.rundir import RunDirectory
from pipeline.schema import row_schema, rows_to_table
from pipeline.shards import commit_rows
from pipeline.sql import QueryError

Row = dict[str, Any]
MakeRun = Callable[[str, list[Row]], RunDirectory]
SAME = {"height": 64, "width": 64, "weights_sha256": "w", "taps": ["pool1"], "device": "cpu"}
SAME |= {"exemplar_sha256": "s", "crop_left": 0, "crop_top": 0, "crop_side": 64}


@pytest.fixture
def make_run(tmp_path: Path, make_row: Callable[..., Row]) -> MakeRun:
    """A run at work; rows by exemplar, variation and what differs from the others."""

    def make(name: str, rows: list[Row]) -> RunDirectory:
        run = RunDirectory(tmp_path / name)
        run.create()
        made = [
            make_row(f"{row['exemplar_id']}-v{row.get('variation', 0)}", **(SAME | row))
            for row in rows
        ]
        commit_rows(run, rows_to_table(made, row_schema()))
        return run

    return make


def rows_of(losses: dict[str, list[float]], **values: Any) -> list[Row]:
    return [
        {"exemplar_id": name, "variation": number, "delivered_loss": loss} | values
        for name, of_exemplar in losses.items()
        for number, loss in enumerate(of_exemplar)
    ]


def summary_of(found: Comparison, measure: str) -> Summary:
    (summary,) = [one for one in found.summaries if one.measure == measure]
    return summary


def test_ratio_and_interval_against_their_definitions(make_run: MakeRun) -> None:
    """The obvious second implementation, in plain Python, with scipy's interval."""
    generator = np.random.default_rng(0)
    a = {f"e{n}": list(generator.lognormal(5, 1, 1 + n % 3)) for n in range(8)}
    b = {name: [x * generator.lognormal(-0.2, 0.3) for x in xs] for name, xs in a.items()}
    found = compare_runs(make_run("a", rows_of(a)), make_run("b", rows_of(b)))
    means = []
    for name in a:
        logs = [math.log(y / x) for x, y in zip(a[name], b[name], strict=True)]
        means.append(statistics.mean(logs))
    interval = stats.ttest_1samp(means, 0).confidence_interval(0.95)
    loss = summary_of(found, "delivered_loss")
    assert (loss.pairs, loss.exemplars, found.pairs) == (sum(map(len, a.values())), 8, loss.pairs)
    assert loss.value == pytest.approx(math.exp(statistics.mean(means)))
    assert (loss.low, loss.high) == pytest.approx((math.exp(interval.low), math.exp(interval.high)))
    wins = [y < x for name in a for x, y in zip(a[name], b[name], strict=True)]
    assert (loss.b_wins, loss.ties) == (sum(wins), 0)


def test_a_score_is_compared_by_its_difference_and_higher_is_better(make_run: MakeRun) -> None:
    ids = [f"e{n}" for n in range(5)]
    scores = ([0.5, 0.6, 0.7, 0.8, 0.9], [0.6, 0.65, 0.7, 0.9, 0.8])
    runs = [
        make_run(
            run,
            [
                {"exemplar_id": name, "delivered_loss": 1.0, "displacement_score": score}
                for name, score in zip(ids, values, strict=True)
            ],
        )
        for run, values in zip("ab", scores, strict=True)
    ]
    score = summary_of(compare_runs(*runs), "displacement_score")
    paired = stats.ttest_rel(scores[1], scores[0]).confidence_interval(0.95)
    assert (score.kind, score.b_wins, score.ties) == ("difference", 3, 1)
    assert score.value == pytest.approx(0.03)
    assert (score.low, score.high) == pytest.approx((paired.low, paired.high))


def test_the_other_way_round_is_the_reciprocal(make_run: MakeRun) -> None:
    generator = np.random.default_rng(1)
    losses = [{f"e{n}": list(generator.lognormal(5, 1, 2)) for n in range(6)} for _ in range(2)]
    a, b = (make_run(name, rows_of(one)) for name, one in zip("ab", losses, strict=True))
    there = summary_of(compare_runs(a, b), "delivered_loss")
    back = summary_of(compare_runs(b, a), "delivered_loss")
    assert (there.value, there.low, there.high) == pytest.approx(
        (1 / back.value, 1 / back.high, 1 / back.low)  # type: ignore[operator]
    )
    assert there.b_wins + back.b_wins == there.pairs


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """Of 2,000 samples of 6 exemplars, 95 % within four standard errors."""
    generator = np.random.default_rng(2)
    covered = 0
    for _ in range(2000):
        interval = compute_interval(generator.normal(0.3, 1.0, 6))
        assert interval is not None
        covered += interval[0] <= 0.3 <= interval[1]
    assert abs(covered / 2000 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000)


def test_variations_of_one_exemplar_are_no_independent_evidence(make_run: MakeRun) -> None:
    a, b = {"e1": [100.0] * 50}, {"e1": [90.0] * 50}
    loss = summary_of(
        compare_runs(make_run("a", rows_of(a)), make_run("b", rows_of(b))), "delivered_loss"
    )
    assert (loss.pairs, loss.b_wins, loss.low, loss.high) == (50, 50, None, None)
    assert loss.value == pytest.approx(0.9)


def test_only_textures_of_both_are_paired(make_run: MakeRun) -> None:
    a = make_run("a", rows_of({"e1": [1.0, 2.0], "e2": [3.0]}))
    b_rows = rows_of({"e1": [1.0], "e3": [5.0]})
    failed = {"exemplar_id": "e2", "status": "failed", "error_type": "ImageError"}
    found = compare_runs(a, make_run("b", [*b_rows, failed]))
    assert (found.textures, found.pairs) == ((3, 2), 1)
    assert summary_of(found, "delivered_loss").ties == 1


@pytest.mark.parametrize(
    ("change", "compared"),
    [
        ({"weights_sha256": "v"}, {"displacement_score", "chroma_noise", "evaluations", "seconds"}),
        ({"taps": ["pool2"]}, {"displacement_score", "chroma_noise", "evaluations", "seconds"}),
        ({"height": 128}, set()),
        ({"width": 128}, set()),
        ({"device": "NVIDIA"}, {one.name for one in MEASURES} - {"seconds"}),
        ({}, {one.name for one in MEASURES}),
    ],
)
def test_what_is_not_comparable_is_left_out_with_a_warning(
    make_run: MakeRun, change: Row, compared: set[str]
) -> None:
    numbers: Row = {one.name: 0.5 for one in MEASURES}
    rows = [{"exemplar_id": name} | numbers for name in ("e1", "e2")]
    a, b = make_run("a", rows), make_run("b", [row | change for row in rows])
    found = compare_runs(a, b)
    assert {one.measure for one in found.summaries if one.pairs} == compared
    assert {one.measure for one in found.by_category if one.pairs} == compared
    assert len(found.warnings) == len(change)
    for name, warning in zip(change, found.warnings, strict=True):
        assert warning.startswith(f"{name} differs in 2 of 2 pairs, as ")


def test_another_normalisation_makes_other_losses(make_run: MakeRun) -> None:
    rows = rows_of({"e1": [1.0], "e2": [2.0]}, chroma_noise=0.1)
    runs = [make_run(name, rows) for name in "ab"]
    for run, normalisation in zip(runs, ("none", "imagenet"), strict=True):
        write_record(run, normalisation)
    found = compare_runs(*runs)
    assert (summary_of(found, "delivered_loss").pairs, len(found.warnings)) == (0, 1)
    assert summary_of(found, "chroma_noise").pairs == 2
    write_record(runs[1], None)
    assert compare_runs(*runs).warnings == ()


def write_record(run: RunDirectory, normalisation: str | None) -> None:
    names = {field.name: "" for field in dataclasses.fields(RunRecord)}
    values: Row = names | {"config": {"normalisation": normalisation}, "identity": {}}
    values |= {"versions": {}, "carried": row_schema().empty_table().select([]).schema}
    values = {key: value for key, value in values.items() if key in names}
    write_run_record(run, RunRecord(**values))


def test_pairs_of_another_source_are_compared_in_nothing(make_run: MakeRun) -> None:
    rows = rows_of({"e1": [1.0], "e2": [2.0]})
    a = make_run("a", rows)
    found = compare_runs(a, make_run("b", [rows[0], rows[1] | {"crop_left": 5}]))
    assert found.pairs == 1
    assert found.warnings == (
        "crop_left differs in 1 of 2 pairs, as 0 and 5: their pairs are not compared",
    )
    with pytest.raises(CompareError, match="no texture in common; exemplar_sha256 differs in 2"):
        compare_runs(a, make_run("c", [row | {"exemplar_sha256": "t"} for row in rows]))


def test_zeros_have_no_ratio_but_win(make_run: MakeRun) -> None:
    names = ("e1", "e2", "e3", "e4")
    noise = ([0.0, 0.2, 0.0, 0.4], [0.0, 0.0, 0.1, 0.2])
    runs = [
        make_run(
            run,
            [
                {"exemplar_id": name, "delivered_loss": 1.0, "chroma_noise": value}
                for name, value in zip(names, values, strict=True)
            ],
        )
        for run, values in zip("ab", noise, strict=True)
    ]
    found = summary_of(compare_runs(*runs), "chroma_noise")
    assert (found.pairs, found.b_wins, found.ties, found.left_out) == (4, 2, 1, 3)
    assert found.value == pytest.approx(0.5)


def test_nan_and_null_are_no_pairs(make_run: MakeRun) -> None:
    rows = rows_of({name: [1.0] for name in ("e1", "e2", "e3")})
    for row, value in zip(rows, (math.nan, None, 0.5), strict=True):
        row["displacement_score"] = value
    found = compare_runs(make_run("a", rows), make_run("b", rows))
    score = summary_of(found, "displacement_score")
    assert (score.pairs, score.value, score.low) == (1, 0.0, None)
    assert summary_of(found, "float_loss").pairs == 3


def test_by_category(make_run: MakeRun) -> None:
    rows = [
        row | {"category": "bark" if row["exemplar_id"] < "e3" else "sand"}
        for row in rows_of({f"e{n}": [100.0] for n in range(1, 6)})
    ]
    better = [row | {"delivered_loss": 50.0} for row in rows[:2]] + rows[2:]
    found = compare_runs(make_run("a", rows), make_run("b", better))
    losses = {one.category: one for one in found.by_category if one.measure == "delivered_loss"}
    assert (losses["bark"].pairs, losses["bark"].b_wins) == (2, 2)
    assert losses["bark"].value == pytest.approx(0.5)
    assert (losses["sand"].pairs, losses["sand"].ties, losses["sand"].value) == (3, 3, 1.0)


def test_without_categories_and_as_json(make_run: MakeRun) -> None:
    rows = rows_of({"e1": [1.0], "e2": [3.0]}, category=None)
    found = compare_runs(make_run("a", rows), make_run("b", rows))
    assert found.by_category == ()
    json.dumps(dataclasses.asdict(found), allow_nan=False)


def test_a_run_is_not_compared_with_itself(make_run: MakeRun) -> None:
    run = make_run("a", rows_of({"e1": [1.0]}))
    with pytest.raises(QueryError, match="given twice"):
        compare_runs(run, run)
