from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.finalize import finalize
from pipeline.rundir import NotARunError, RunDirectory
from pipeline.schema import row_schema, rows_to_table
from pipeline.selection import LOCATED, Selection, SelectionError, locate_rows, read_images
from pipeline.shards import commit_rows

Row = dict[str, Any]
SPLITS = ("train", "val", "test")
CARRIED = pa.schema([("split_1", pa.string()), ("split_2", pa.string())])
EVERYTHING = Selection(accepted_only=False)
SELECTIONS = (
    Selection(),
    EVERYTHING,
    Selection(split="test"),
    Selection(partition=2, split="val"),
    Selection(partition=2, accepted_only=False),
    Selection(partition=1, split="train", categories=("c0", "c3")),
)


@pytest.fixture
def rows(make_row: Callable[..., Row]) -> list[Row]:
    """150 tasks: 50 exemplars of 5 categories, three variations; every 7th failed, 5th a copy."""
    made = []
    for number in range(150):
        exemplar = number // 3
        values: Row = {
            "exemplar_id": f"x{exemplar:02d}",
            "exemplar_sha256": f"{exemplar:064d}",
            "category": f"c{exemplar % 5}",
            "split": SPLITS[exemplar % 3],
            "split_1": SPLITS[exemplar % 3],
            "split_2": SPLITS[(exemplar + 1) % 3] if exemplar % 4 else None,
            "variation": number % 3,
            "seed": number,
            "height": 8,
            "width": 8,
            "exemplar_kind": "flat" if number % 5 == 0 else "stochastic",
        }
        if number % 7 == 0:
            values |= {"status": "failed", "height": None, "width": None}
        made.append(make_row(f"x{exemplar:02d}-c0-v{number % 3}", **values))
    return made


@pytest.fixture
def commit(run: RunDirectory) -> Callable[[list[Row]], None]:
    def commit_all(rows: list[Row]) -> None:
        for start in range(0, len(rows), 70):
            table = rows_to_table(rows[start : start + 70], row_schema(CARRIED))
            commit_rows(run, table)

    return commit_all


def expected_ids(rows: list[Row], selection: Selection) -> set[str]:
    """The selection, one row at a time."""
    chosen = set()
    for row in rows:
        accepted = row["exemplar_kind"] != "flat" or not selection.accepted_only
        in_split = selection.split in (None, row[selection.split_column])
        of_category = selection.categories is None or row["category"] in selection.categories
        if "image" in row and accepted and in_split and of_category:
            chosen.add(row["task_id"])
    return chosen


@pytest.mark.parametrize("finished", [False, True])
def test_every_selected_task_is_located_once_with_its_image(
    run: RunDirectory, rows: list[Row], commit: Callable[[list[Row]], None], finished: bool
) -> None:
    commit(rows)
    if finished:
        finalize(run, pa.array([row["task_id"] for row in rows]), rows_per_file=100)
    of_id = {row["task_id"]: row for row in rows}
    for selection in SELECTIONS:
        located = locate_rows(run, selection)
        assert located.schema == LOCATED
        ids = located["task_id"].to_pylist()
        assert len(ids) == len(set(ids))
        assert set(ids) == expected_ids(rows, selection)
        read = list(read_images(run, located))
        assert [row for row, _ in read] == located.to_pylist()
        for row, png in read:
            written = of_id[row["task_id"]]
            assert png == written["image"]["bytes"]
            assert row["split"] == written[selection.split_column]
            for name in ("exemplar_id", "exemplar_sha256", "category", "seed", "height"):
                assert row[name] == written[name]


def test_the_order_is_that_of_storage_and_each_row_group_is_read_once(
    run: RunDirectory,
    rows: list[Row],
    commit: Callable[[list[Row]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commit(rows)
    finalize(run, pa.array([row["task_id"] for row in rows]))
    located = locate_rows(run, EVERYTHING)
    keys = [("category", "ascending"), ("task_id", "ascending")]
    assert located.equals(located.sort_by(keys))
    groups = []
    real = pq.ParquetFile.read_row_group

    def counted(self: Any, group: int, *args: Any, **kwargs: Any) -> pa.Table:
        groups.append(group)
        return real(self, group, *args, **kwargs)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    part = located.take(np.arange(0, len(located), 3))
    assert [row["task_id"] for row, _ in read_images(run, part)] == part["task_id"].to_pylist()
    assert groups == sorted(set(groups))
    assert len(groups) == 3


def test_of_several_rows_of_a_task_the_one_that_counts_is_located(
    run: RunDirectory, rows: list[Row], commit: Callable[[list[Row]], None]
) -> None:
    commit(rows[1:3])
    commit([rows[1] | {"attempts": 2, "seed": 77}])
    located = locate_rows(run, EVERYTHING)
    assert sorted(located["seed"].to_pylist()) == [2, 77]


def test_a_selection_of_nothing_says_what_there_is(
    run: RunDirectory, rows: list[Row], commit: Callable[[list[Row]], None]
) -> None:
    commit(rows)
    with pytest.raises(SelectionError, match=r"no column 'split_3', expected one of \['split', "):
        locate_rows(run, Selection(partition=3))
    with pytest.raises(
        SelectionError, match=r"'dev'.*: there are 128 textures, 103 accepted; split"
    ):
        locate_rows(run, Selection(split="dev"))
    with pytest.raises(SelectionError, match=r"categories \['c9'\]: .*c0: 26, c1: 26"):
        locate_rows(run, Selection(categories=("c0", "c9")))


def test_damaged_files_are_named_and_refused(
    run: RunDirectory,
    rows: list[Row],
    commit: Callable[[list[Row]], None],
    damage_column: Callable[[Any, str], None],
) -> None:
    commit(rows)
    located = locate_rows(run, EVERYTHING)
    first = run.path / located["file"][0].as_py()
    damage_column(first, "seed")
    with pytest.raises(SelectionError, match=rf"cannot be read.*{first.name}"):
        locate_rows(run, EVERYTHING)


def test_rows_that_a_finalize_moved_are_not_taken_for_others(
    run: RunDirectory, rows: list[Row], commit: Callable[[list[Row]], None]
) -> None:
    commit(rows)
    located = locate_rows(run, EVERYTHING)
    finalize(run, pa.array([row["task_id"] for row in rows]))
    with pytest.raises(SelectionError, match="its rows were moved"):
        list(read_images(run, located))
    located = locate_rows(run, EVERYTHING)
    renamed = located["task_id"].take(np.arange(len(located))[::-1])
    other = located.set_column(0, "task_id", renamed)
    with pytest.raises(SelectionError, match="its rows were moved"):
        list(read_images(run, other))


@pytest.mark.parametrize("values", [{"partition": 0}, {"partition": 11}, {"categories": "bark"}])
def test_an_impossible_selection_is_refused(values: Row) -> None:
    with pytest.raises(ValueError, match="expected"):
        Selection(**values)


def test_what_is_no_run_is_refused(run: RunDirectory) -> None:
    with pytest.raises(NotARunError):
        locate_rows(RunDirectory(run.path / "absent"), EVERYTHING)
