from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median

import pyarrow as pa
import pytest

from pipeline.committed import read_committed
from pipeline.finalize import finalize
from pipeline.named_queries import QUERIES, NamedQuery, find_query
from pipeline.queries_page import queries_markdown
from pipeline.rundir import RunDirectory
from pipeline.schema import row_schema, rows_to_table
from pipeline.shards import commit_rows
from pipeline.sql import QueryError, open_metrics

Row = dict[str, object]
MakeRow = Callable[..., Row]


def answer(name: str, run: RunDirectory) -> list[Row]:
    with open_metrics([run]) as database:
        rows: list[Row] = database.select(find_query(name).sql).table().to_pylist()
    return rows


def stored(run: RunDirectory, category: str | None = None) -> list[Row]:
    """The committed rows themselves, of one category or of all."""
    table, _ = read_committed(run)
    return [row for row in table.to_pylist() if category in (None, row["category"])]


def column(rows: list[Row], name: str) -> list[object]:
    return [row[name] for row in rows]


@pytest.fixture
def rows(make_row: MakeRow) -> list[Row]:
    """Three exemplars of two categories, some copies, some failures; losses by hand."""
    common = {"loss_threshold": 150.0, "height": 64, "width": 64, "taps": ["pool1"], "seconds": 2.0}
    common |= {"evaluations": 10.0, "iterations": 9, "stop_reason": "budget"}
    copies = {"copy_displacement_threshold": 0.5, "copy_layout_threshold": 0.9}
    found = []
    for exemplar, category, losses in (
        ("e1", "bark", (100.0, 200.0, 400.0)),
        ("e2", "bark", (50.0, 60.0)),
        ("e3", "sand", (1000.0,)),
    ):
        for variation, loss in enumerate(losses):
            values = {"exemplar_id": exemplar, "category": category, "variation": variation}
            values |= {"delivered_loss": loss, "float_loss": loss / 2, "seed": int(loss)}
            values |= {"displacement_score": 0.8, "layout_correlation": 0.0}
            found.append(make_row(f"{exemplar}-v{variation}", **common, **copies, **values))
    found[4] |= {"displacement_score": 0.1}
    found[5] |= {"seconds": 9.0, "stop_reason": "plateau"}
    for number, error in enumerate(("no\nwhere", " \nno\n", "other")):
        values = {"status": "failed", "error_type": "ImageError", "error": error}
        found.append(make_row(f"f{number}", category="sand", **values))
    return found


@pytest.fixture
def asked(run: RunDirectory, rows: list[Row]) -> RunDirectory:
    commit_rows(run, rows_to_table(rows, row_schema()))
    return run


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.name)
def test_every_query_works_on_runs_empty_at_work_and_finished(
    run: RunDirectory, rows: list[Row], query: NamedQuery
) -> None:
    flagwise = query.name == "flags"
    assert answer(query.name, run) == []
    table = rows_to_table(rows, row_schema())
    commit_rows(run, table)
    during = answer(query.name, run)
    assert len(during) >= (3 if flagwise else 1)
    finalize(run, table["task_id"])
    assert answer(query.name, run) == during


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.name)
def test_every_query_answers_each_run_by_itself(
    tmp_path: Path, asked: RunDirectory, rows: list[Row], query: NamedQuery
) -> None:
    other = RunDirectory(tmp_path / "other")
    other.create()
    commit_rows(other, rows_to_table(rows, row_schema()))
    with open_metrics([asked, other]) as database:
        both = database.select(query.sql).table().to_pylist()
    alone = answer(query.name, asked)
    assert [row for row in both if row["run"] == "run"] == alone
    assert len(both) == 2 * len(alone)


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.name)
def test_every_query_works_on_a_finished_run_without_rows(
    run: RunDirectory, query: NamedQuery
) -> None:
    finalize(run, pa.array([], pa.string()))
    assert run.metrics.exists()
    assert answer(query.name, run) == []


def test_runs(asked: RunDirectory) -> None:
    (row,) = answer("runs", asked)
    assert (row["row_count"], row["textures"], row["height"]) == (9, 6, 64)
    assert (row["weights"], row["taps"]) == ("random:0", "pool1")
    assert row["median_delivered_loss"] == median([100, 200, 400, 50, 60, 1000])


def test_worst_categories(asked: RunDirectory) -> None:
    sand, bark = answer("worst-categories", asked)
    assert (sand["category"], sand["median_delivered_loss"], sand["without_texture"]) == (
        "sand",
        1000.0,
        3,
    )
    known = [row["copy"] for row in stored(asked, "bark") if row["copy"] is not None]
    assert True in known
    assert (bark["copy_share"], bark["below_threshold_share"]) == (mean(known), 3 / 5)
    accepted = [row["accepted"] for row in stored(asked, "bark")]
    assert bark["accepted_share"] == mean(accepted)


def test_worst_textures_are_the_first_twenty(run: RunDirectory, make_row: MakeRow) -> None:
    rows = [make_row(f"t{n:02d}", delivered_loss=float(n % 25)) for n in range(25)]
    commit_rows(run, rows_to_table([*rows, make_row("none")], row_schema()))
    found = answer("worst-textures", run)
    assert column(found, "task_id") == [f"t{n:02d}" for n in range(24, 4, -1)]


def test_copies(asked: RunDirectory) -> None:
    assert column(answer("copies", asked), "task_id") == ["e2-v1"]


def test_failures_are_grouped_by_the_first_line_that_is_not_blank(asked: RunDirectory) -> None:
    found = answer("failures", asked)
    assert [(row["message"], row["row_count"], row["example"]) for row in found] == [
        ("no", 2, "f0"),
        ("other", 1, "f2"),
    ]


def test_losses_by_category(asked: RunDirectory) -> None:
    bark, sand = answer("losses-by-category", asked)
    assert [bark[k] for k in ("least", "quarter", "median", "three_quarters", "greatest")] == [
        *(50.0, 60.0, 100.0, 200.0, 400.0)
    ]
    assert bark["delivered_over_float"] == 2.0
    assert sand["textures"] == 1


def test_siblings(asked: RunDirectory) -> None:
    found = answer("siblings", asked)
    assert [(row["exemplar_id"], row["spread"], row["copies"]) for row in found] == [
        ("e1", 4.0, 0),
        ("e2", 1.2, 1),
    ]


def test_best_seeds_leave_out_copies(asked: RunDirectory) -> None:
    (found,) = answer("best-seeds", asked)
    assert (found["best"], found["seed"], found["share_of_median"]) == ("e1-v0", 100, 0.5)


def test_slowest_and_effort(asked: RunDirectory) -> None:
    assert column(answer("slowest", asked), "task_id")[0] == "e3-v0"
    budget, plateau = answer("effort", asked)
    assert (budget["stop_reason"], budget["textures"], budget["median_seconds"]) == ("budget", 5, 2)
    assert (plateau["stop_reason"], plateau["median_delivered_loss"]) == ("plateau", 1000.0)


def test_flags(asked: RunDirectory) -> None:
    found = {row["flag"]: row for row in answer("flags", asked)}
    for flag in ("copy", "below_threshold"):
        values = [row[flag] for row in stored(asked)]
        counts = tuple(values.count(value) for value in (True, False, None))
        row = found[flag]
        assert (row["true_count"], row["false_count"], row["unknown"]) == counts
        assert row["true_share"] == counts[0] / (counts[0] + counts[1])
    assert found["below_threshold"]["true_share"] == 4 / 6


def test_measures_leave_out_nan(run: RunDirectory, make_row: MakeRow) -> None:
    values = [*map(float, range(101)), float("nan")]
    rows = [make_row(f"t{n}", chroma_noise=value) for n, value in enumerate(values)]
    commit_rows(run, rows_to_table(rows, row_schema()))
    (found,) = [row for row in answer("measures", run) if row["measure"] == "chroma_noise"]
    assert [found[k] for k in ("value_count", "least", "p05", "median", "p95", "greatest")] == [
        *(101, 0.0, 5.0, 50.0, 95.0, 100.0)
    ]


def test_names_are_unique_few_and_described() -> None:
    names = [query.name for query in QUERIES]
    assert len(set(names)) == len(names) <= 12
    assert all(query.question for query in QUERIES)
    with pytest.raises(QueryError, match="got 'copy', expected one of runs, worst-categories"):
        find_query("copy")


def test_the_page_is_that_of_the_queries() -> None:
    page = Path(__file__).parents[2] / "docs" / "queries.md"
    message = "run python -m pipeline.queries_page > docs/queries.md"
    assert page.read_text(encoding="utf-8") == queries_markdown(), message


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.name)
def test_examples_are_commands_that_work(
    tmp_path: Path,
    asked: RunDirectory,
    call: Callable[..., tuple[int, str, str]],
    query: NamedQuery,
) -> None:
    words = shlex.split(query.example)
    assert words[words.index("--named") + 1] == query.name
    made = [tmp_path / word if word.endswith((".csv", ".parquet")) else word for word in words]
    arguments = [asked.path if str(word).startswith("runs/") else word for word in made]
    if arguments.count(asked.path) > 1:
        arguments.remove(asked.path)
    assert call("query", *arguments)[0] == 0
