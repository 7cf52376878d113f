"""Damaged files are found, and nothing makes verify fail."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.resume import write_run_record, write_tasks
from pipeline.rundir import RunDirectory

Story = Any
ProblemsOf = Callable[..., dict[str, str]]
FILES = ("run_json", "tasks", "metrics", "success", "pending", "log", "session", "lock")


@pytest.mark.parametrize(
    "column", ["image.bytes", "seconds", "task_id", "loss_curve.list.element.loss"]
)
@pytest.mark.parametrize("compacted", [False, True])
def test_one_flipped_bit_is_found_and_the_tasks_are_done_again(
    story: Story, column: str, compacted: bool, problems_of: ProblemsOf
) -> None:
    path = story.commit(story.ids, seconds=1.5)
    if compacted:
        (path,) = story.finalize(rows_per_file=99)
    flip_bit(path, column)
    problems = problems_of(story.run)
    assert f"{path.parent.name}/{path.name}: " in problems["files"]
    assert "CRC checksum verification failed" in problems["files"]
    assert "task 't00' has no row" in problems["tasks"]
    path.rename(story.run.path / "aside")
    story.commit(story.ids, finished_at=datetime(2026, 1, 3, tzinfo=UTC))
    story.finalize()
    assert problems_of(story.run) == {}


def flip_bit(path: Path, name: str) -> None:
    """Change one bit in the last data page of a column."""
    group = pq.read_metadata(path).row_group(0)
    columns = [group.column(index) for index in range(group.num_columns)]
    (column,) = [column for column in columns if column.path_in_schema == name]
    start = column.dictionary_page_offset or column.data_page_offset
    data = bytearray(path.read_bytes())
    data[start + column.total_compressed_size - 1] ^= 1
    path.write_bytes(data)


def test_a_footer_whose_names_are_no_text_is_a_damaged_file(
    finished: Story, problems_of: ProblemsOf
) -> None:
    path = sorted(finished.run.textures.glob("*.parquet"))[0]
    data = path.read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    name = data.index(b"task_id", footer)
    path.write_bytes(data[:name] + b"\xe9" + data[name + 1 :])
    assert path.name in problems_of(finished.run)["files"]


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255), cut=st.booleans())
def test_no_change_of_a_file_makes_it_fail(
    finished: Story, where: float, flip: int, cut: bool, problems_of: ProblemsOf
) -> None:
    path = sorted(finished.run.textures.glob("*.parquet"))[0]
    good = path.read_bytes()
    changed = bytearray(good)
    index = int(where * len(good))
    changed[index] ^= flip
    path.write_bytes(changed[:index] if cut else changed)
    try:
        problems = problems_of(finished.run)
        assert not cut or "files" in problems
    finally:
        path.write_bytes(good)


def break_folder_as_file(run: RunDirectory) -> None:
    shutil.rmtree(run.textures)
    run.textures.write_text("no folder")


def break_links(run: RunDirectory) -> None:
    (run.shards / "part-link.parquet").symlink_to("nowhere")
    (run.textures / "part-link.parquet").symlink_to("nowhere")


DAMAGES: dict[str, tuple[Callable[[RunDirectory], Any], str]] = {
    "run.json empty": (lambda run: run.run_json.write_bytes(b""), "run.json"),
    "run.json a list": (lambda run: run.run_json.write_text("[1]"), "run.json"),
    "run.json binary": (lambda run: run.run_json.write_bytes(b"\xff\xfe\x00"), "run.json"),
    "run.json gone": (lambda run: run.run_json.unlink(), "run.json"),
    "tasks text": (lambda run: run.tasks.write_text("text"), "tasks.parquet"),
    "tasks gone": (lambda run: run.tasks.unlink(), "tasks.parquet"),
    "tasks foreign": (
        lambda run: pq.write_table(pa.table({"a": [1]}), run.tasks),
        "tasks.parquet",
    ),
    "tasks twice": (
        lambda run: write_tasks(run, pa.table({"task_id": ["a", "a"]})),
        "tasks.parquet",
    ),
    "textures a file": (break_folder_as_file, "folders"),
    "links to nothing": (break_links, "files"),
    "metrics empty": (lambda run: run.metrics.write_bytes(b""), "metrics.parquet"),
    "lock a folder": (lambda run: as_folder(run.lock), ""),
    "session broken": (lambda run: run.session.write_text("{"), ""),
}


def as_folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


@pytest.mark.parametrize("damage", DAMAGES)
def test_no_damage_makes_it_fail(finished: Story, damage: str, problems_of: ProblemsOf) -> None:
    spoil, check = DAMAGES[damage]
    spoil(finished.run)
    problems = problems_of(finished.run)
    assert check in problems if check else problems == {}


@pytest.mark.parametrize("name", FILES)
def test_a_folder_where_a_file_should_be_is_no_failure(
    finished: Story, name: str, problems_of: ProblemsOf
) -> None:
    path: Path = getattr(finished.run, name)
    as_folder(path)
    problems = problems_of(finished.run)
    expected = {"run_json": "run.json", "tasks": "tasks.parquet", "metrics": "metrics.parquet"}
    expected["success"] = "_SUCCESS"
    assert set(problems) == ({expected[name]} if name in expected else set())


def test_a_record_without_what_is_compared_is_named(
    finished: Story, problems_of: ProblemsOf
) -> None:
    record = finished.record
    wrong: list[dict[str, Any]] = [
        {"identity": {"size": 8}},
        {"identity": []},
        {"config": None},
        {"manifest": 3},
        {"weights_sha256": None},
    ]
    for values in wrong:
        write_run_record(finished.run, replace(record, **values))
        assert list(problems_of(finished.run)) == ["run.json"]
