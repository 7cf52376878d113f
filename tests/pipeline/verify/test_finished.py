"""What a finalize leaves: textures, metrics, _SUCCESS."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.resume import write_tasks

Story = Any
ProblemsOf = Callable[..., dict[str, str]]
Rewrite = Callable[[Path, Callable[[pa.Table], pa.Table]], None]
SetColumn = Callable[[str, Any], Callable[[pa.Table], pa.Table]]


def test_a_success_that_is_not_true_is_found_and_mended(
    finished: Story, problems_of: ProblemsOf
) -> None:
    run = finished.run
    run.success.write_text('{"tasks": 9}')
    assert "says {'tasks': 9}, there are rows of 10 tasks" in problems_of(run)["_SUCCESS"]
    for text in ("", "[]", "{"):
        run.success.write_text(text)
        assert list(problems_of(run)) == ["_SUCCESS"]
    finished.finalize()
    assert problems_of(run) == {}
    write_tasks(run, pa.table({"task_id": [*finished.ids, "new"]}))
    problems = problems_of(run)
    assert problems["_SUCCESS"] == "1 task of the manifest without a row"
    assert problems["tasks"] == "task 'new' has no row"


def test_textures_that_hold_a_task_twice_or_unsorted_are_found_and_mended(
    finished: Story, problems_of: ProblemsOf
) -> None:
    run = finished.run
    first = min(run.textures.iterdir())
    shutil.copy(first, run.textures / "part-99999-copy.parquet")
    problems = problems_of(run)
    assert "task 't04' has 2 rows in textures/" in problems["textures"]
    assert problems["metrics.parquet"] == "another number of rows than textures/"
    finished.finalize()
    assert problems_of(run) == {}
    min(run.textures.iterdir()).rename(run.textures / "part-99999.parquet")
    assert "not sorted" in problems_of(run)["textures"]
    finished.finalize()
    assert problems_of(run) == {}


def test_metrics_that_are_not_those_of_the_textures_are_found_and_mended(
    finished: Story, problems_of: ProblemsOf, rewrite: Rewrite, set_column: SetColumn
) -> None:
    run = finished.run
    changes: list[tuple[Callable[[pa.Table], pa.Table], str]] = [
        (set_column("float_loss", 3.0), "columns ['float_loss'] differ from textures/"),
        (lambda table: table.slice(1), "another number of rows than textures/"),
        (lambda table: table.drop_columns(["error"]), "columns differ"),
    ]
    for change, text in changes:
        rewrite(run.metrics, change)
        problems = problems_of(run)
        assert list(problems) == ["metrics.parquet"]
        assert text in problems["metrics.parquet"]
        run.metrics.unlink()
        assert list(problems_of(run)) == ["metrics.parquet"]
        finished.finalize()
        assert problems_of(run) == {}


def test_numbers_that_are_not_numbers_are_equal_in_the_metrics(
    story: Story, problems_of: ProblemsOf
) -> None:
    story.commit(story.ids, layout_correlation=math.nan)
    story.finalize()
    assert problems_of(story.run) == {}
