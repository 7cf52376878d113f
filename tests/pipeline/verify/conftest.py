"""Runs of which every row is right, to be spoilt, and what verify says of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.finalize import finalize
from pipeline.resume import RunRecord, write_run_record, write_tasks
from pipeline.rundir import RunDirectory
from pipeline.schema import row_schema, rows_to_table
from pipeline.shards import commit_rows
from pipeline.tasks import task_seed
from pipeline.verify import Check, verify_run

MakeRow = Callable[..., dict[str, Any]]
IDS = [f"t{number:02d}" for number in range(10)]
RUN_SEED = 7


class Story:
    """A run of ten tasks, each with a source of its own; every row is right."""

    def __init__(self, folder: Path, make_row: MakeRow, ids: Iterable[str] = IDS) -> None:
        self.run = RunDirectory(folder / "a run")
        self.run.create()
        self.root = folder / "sources"
        (self.root / "images").mkdir(parents=True)
        self.ids = list(ids)
        self._make_row = make_row
        identity = {"seed": RUN_SEED, "size": 8}
        self.record = RunRecord(
            config=identity,
            identity=identity,
            versions={},
            weights="random:0",
            weights_sha256="ab" * 32,
            manifest=str(folder / "m.csv"),
            manifest_sha256="00",
            root=str(self.root),
            carried=pa.schema([]),
            created_at="2026-01-02T03:04:05+00:00",
        )
        write_run_record(self.run, self.record)
        write_tasks(self.run, pa.table({"task_id": self.ids}))
        for task_id in self.ids:
            (self.root / f"images/{task_id}.jpg").write_bytes(task_id.encode())

    def row(self, task_id: str, **values: Any) -> dict[str, Any]:
        """A right row, changed."""
        row = self._make_row(task_id, status=values.get("status", "ok"))
        made = row["status"] in ("ok", "timeout")
        if made:
            row |= self._make_row(task_id) | {"status": row["status"], "height": 8, "width": 8}
            row |= {"delivered_loss": 1100.0, "objective_loss": 900.0, "loss_threshold": 1050.0}
        else:
            row |= {"error_type": "ImageError", "error": "broken"}
        row |= {
            "seed": task_seed(RUN_SEED, task_id),
            "config_fingerprint": self.record.fingerprint,
            "weights_sha256": self.record.weights_sha256,
            "exemplar_sha256": hashlib.sha256(task_id.encode()).hexdigest(),
        }
        return row | values

    def table(self, task_ids: Iterable[str], **values: Any) -> pa.Table:
        return rows_to_table([self.row(task, **values) for task in task_ids], row_schema())

    def commit(self, task_ids: Iterable[str], **values: Any) -> Path:
        return commit_rows(self.run, self.table(task_ids, **values))

    def finalize(self, rows_per_file: int = 4) -> tuple[Path, ...]:
        ids = pa.array(self.ids, pa.string())
        return finalize(self.run, ids, rows_per_file=rows_per_file).files


@pytest.fixture
def story(tmp_path: Path, make_row: MakeRow) -> Story:
    return Story(tmp_path, make_row)


@pytest.fixture
def finished(story: Story) -> Story:
    story.commit(story.ids[:4], category="wool")
    story.commit(story.ids[4:8])
    story.commit(story.ids[8:9], status="timeout")
    story.commit(story.ids[9:], status="failed")
    story.finalize()
    return story


def _checks_of(run: RunDirectory, **options: Any) -> dict[str, Check]:
    checks = verify_run(run, **options)
    by_name = {check.name: check for check in checks}
    assert len(by_name) == len(checks)
    for check in checks:
        assert check.ok == (not check.problems)
        assert check.ok == (not check.mend)
    return by_name


def _problems_of(run: RunDirectory, **options: Any) -> dict[str, str]:
    """The problems that were found, by check, as one text."""
    checks = _checks_of(run, **options)
    return {name: "\n".join(check.problems) for name, check in checks.items() if not check.ok}


def _rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(path, partitioning=None)), path)


def _set_column(name: str, value: Any) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        index = table.schema.get_field_index(name)
        field = table.schema.field(index)
        return table.set_column(index, field, pa.array([value] * len(table), field.type))

    return change


@pytest.fixture
def checks_of() -> Callable[..., dict[str, Check]]:
    return _checks_of


@pytest.fixture
def problems_of() -> Callable[..., dict[str, str]]:
    return _problems_of


@pytest.fixture
def rewrite() -> Callable[[Path, Callable[[pa.Table], pa.Table]], None]:
    return _rewrite


@pytest.fixture
def set_column() -> Callable[[str, Any], Callable[[pa.Table], pa.Table]]:
    return _set_column
