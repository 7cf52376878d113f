from __future__ import annotations

import errno
import os
import re
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.committed import read_committed
from pipeline.rundir import RunDirectory
from pipeline.schema import SchemaError, row_schema
from pipeline.shards import ShardWriter, commit_rows, compute_rows_digest

MakeTable = Callable[..., pa.Table]
MakeRow = Callable[..., dict[str, Any]]


def ids_in(run: RunDirectory) -> list[str]:
    table, problems = read_committed(run, ["task_id"])
    assert problems == []
    ids: list[str] = table["task_id"].to_pylist()
    return sorted(ids)


def wait_for(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.01)


@contextmanager
def full_disk(limit_bytes: int) -> Iterator[None]:
    """No file of this process can grow past the limit: a write in C++ fails, not a stub."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_shard_holds_the_rows_bit_for_bit(run: RunDirectory, make_table: MakeTable) -> None:
    table = make_table(["a", "b", "c"], carried=pa.schema([("note", pa.string())]), note="n")
    path = commit_rows(run, table)
    assert pq.read_table(path).equals(table)
    assert pq.read_schema(path).metadata == table.schema.metadata


def test_only_image_and_layout_are_stored_plain(run: RunDirectory, make_table: MakeTable) -> None:
    metadata = pq.read_metadata(commit_rows(run, make_table([f"t{i}" for i in range(100)])))
    assert [metadata.row_group(index).num_rows for index in range(2)] == [64, 36]
    for index in range(metadata.num_columns):
        column = metadata.row_group(0).column(index)
        plain = column.path_in_schema in ("image.bytes", "image.path", "layout")
        assert column.compression == ("UNCOMPRESSED" if plain else "ZSTD"), column.path_in_schema
        assert not (plain and column.has_dictionary_page)


def test_the_same_rows_are_one_file(run: RunDirectory, make_table: MakeTable) -> None:
    first = commit_rows(run, make_table(["a", "b"]))
    assert commit_rows(run, make_table(["b", "a"])) == first
    assert commit_rows(run, make_table(["a", "b"], attempts=2)) != first
    assert sorted(run.shards.iterdir()) == sorted(run.shards.glob("part-*.parquet"))
    assert ids_in(run) == ["a", "b"]


# What JSON, file systems and shells have meanings for, beside any other text.
strange_ids = st.one_of(
    st.text(max_size=5),
    st.text("a\"'[], \\/.\n\0é\u2028\U0001f600", max_size=4),
    st.sampled_from(["..", "x" * 5000, "é" * 300, "a/b", "C:\\x", "-rf", "$(id)"]),
)
rows_strategy = st.sets(st.tuples(strange_ids, st.integers(0, 3)), max_size=6)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(rows_strategy, rows_strategy, st.randoms())
def test_digests_are_equal_for_equal_sets_only(
    some: set[tuple[str, int]], others: set[tuple[str, int]], random: Any
) -> None:
    shuffled = sorted(some)
    random.shuffle(shuffled)
    assert compute_rows_digest(shuffled) == compute_rows_digest(some)
    assert (compute_rows_digest(some) == compute_rows_digest(others)) == (some == others)


@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(strange_ids, min_size=1, max_size=4, unique=True), st.randoms())
def test_strange_task_ids_are_stored_and_name_no_file(
    run: RunDirectory, make_table: MakeTable, task_ids: list[str], random: Any
) -> None:
    path = commit_rows(run, make_table(task_ids))
    assert re.fullmatch(r"part-[0-9a-f]{16}\.parquet", path.name)
    assert path.parent == run.shards
    assert pq.read_table(path, partitioning=None)["task_id"].to_pylist() == task_ids
    random.shuffle(task_ids)
    assert commit_rows(run, make_table(task_ids)) == path
    path.unlink()
    assert list(run.shards.iterdir()) == []


def test_what_is_no_shard_is_refused(run: RunDirectory, make_table: MakeTable) -> None:
    table = make_table(["a"])
    for wrong in (table.slice(0, 0), pa.concat_tables([table, table]), table.drop(["copy"])):
        with pytest.raises(SchemaError):
            commit_rows(run, wrong)
    assert list(run.shards.iterdir()) == []


def test_a_full_disk_leaves_no_file(run: RunDirectory, make_table: MakeTable) -> None:
    commit_rows(run, make_table(["a"]))
    with full_disk(5000), pytest.raises(OSError, match="File too large"):
        commit_rows(run, make_table([f"b{index}" for index in range(50)]))
    assert len(list(run.shards.iterdir())) == 1
    assert ids_in(run) == ["a"]


def test_a_failing_sync_leaves_no_file(
    run: RunDirectory, make_table: MakeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        commit_rows(run, make_table(["a"]))
    assert list(run.shards.iterdir()) == []


def test_writer_commits_full_shards_and_the_rest_at_the_end(
    run: RunDirectory, make_row: MakeRow
) -> None:
    with ShardWriter(run, row_schema(), rows_per_shard=2, flush_seconds=60) as writer:
        counts = []
        for task_id in "abcde":
            writer.add(make_row(task_id))
            counts.append(len(ids_in(run)))
        assert counts == [0, 2, 2, 4, 4]
    assert ids_in(run) == list("abcde")
    with pytest.raises(ValueError, match="'f': the writer is closed"):
        writer.add(make_row("f"))


def test_writer_commits_in_time_when_nothing_else_happens(
    run: RunDirectory, make_row: MakeRow
) -> None:
    with ShardWriter(run, row_schema(), flush_seconds=0.2) as writer:
        for task_id in ("a", "b"):
            writer.add(make_row(task_id))
            assert task_id not in ids_in(run)
            wait_for(lambda: task_id in ids_in(run))  # noqa: B023


def test_writer_takes_rows_from_many_threads(run: RunDirectory, make_row: MakeRow) -> None:
    with ShardWriter(run, row_schema(), rows_per_shard=3, flush_seconds=0.02) as writer:

        def work(name: str) -> None:
            for number in range(20):
                writer.add(make_row(f"{name}{number:02d}"))

        threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert ids_in(run) == [f"{name}{number:02d}" for name in "abc" for number in range(20)]


def test_writer_refuses_a_bad_row_and_keeps_the_others(
    run: RunDirectory, make_row: MakeRow
) -> None:
    with ShardWriter(run, row_schema()) as writer:
        writer.add(make_row("a"))
        with pytest.raises(SchemaError, match="'b'"):
            writer.add(make_row("b", loss="low"))
    assert ids_in(run) == ["a"]


def test_writer_keeps_its_rows_until_the_disk_has_room(
    run: RunDirectory, make_row: MakeRow
) -> None:
    with ShardWriter(run, row_schema(), rows_per_shard=2, flush_seconds=60) as writer:
        writer.add(make_row("a"))
        with full_disk(1000), pytest.raises(OSError, match="File too large"):
            writer.add(make_row("b"))
        assert ids_in(run) == []
        writer.add(make_row("c"))
        assert ids_in(run) == ["a", "b", "c"]


def test_writer_reports_what_failed_in_its_thread(
    run: RunDirectory, make_row: MakeRow, caplog: pytest.LogCaptureFixture
) -> None:
    with ShardWriter(run, row_schema(), flush_seconds=0.05) as writer:
        with full_disk(1000):
            writer.add(make_row("a"))
            wait_for(lambda: "1 finished rows not committed" in caplog.text)
            with pytest.raises(OSError, match="File too large"):
                writer.add(make_row("b"))
        wait_for(lambda: ids_in(run) == ["a", "b"])
    assert "File too large" in caplog.text


def test_highest_attempt_wins_across_shards(run: RunDirectory, make_table: MakeTable) -> None:
    commit_rows(run, make_table(["a", "b"], status="failed", attempts=1))
    commit_rows(run, make_table(["a"], attempts=3))
    commit_rows(run, make_table(["a"], status="failed", attempts=2))
    table, _ = read_committed(run, ["task_id", "attempts", "status"])
    rows = [(row["task_id"], row["attempts"], row["status"]) for row in table.to_pylist()]
    assert rows == [("a", 3, "ok"), ("b", 1, "failed")]


def test_an_empty_or_missing_directory_has_no_rows(tmp_path: Path) -> None:
    table, problems = read_committed(RunDirectory(tmp_path / "nothing"))
    assert (len(table), problems) == (0, [])
    assert table.schema.field("float_loss").type == pa.float64()


def test_carried_columns_may_be_added_later(run: RunDirectory, make_table: MakeTable) -> None:
    commit_rows(run, make_table(["a"]))
    commit_rows(run, make_table(["b"], carried=pa.schema([("note", pa.string())]), note="n"))
    table, _ = read_committed(run, ["task_id", "note"])
    assert table["note"].to_pylist() == [None, "n"]
    with pytest.raises(KeyError, match="'notes'"):
        read_committed(run, ["notes"])


def spoil(folder: Path, whole: Path) -> dict[str, str]:
    """Put a bad file of each kind into a folder; gives its names and what is said of them."""
    folder.mkdir(exist_ok=True)
    data = whole.read_bytes()
    (folder / "empty.parquet").write_bytes(b"")
    (folder / "truncated.parquet").write_bytes(data[: len(data) // 2])
    (folder / "text.parquet").write_text("not a Parquet file, though long enough to be one")
    pq.write_table(pa.table({"task_id": ["x"]}), folder / "foreign.parquet")
    (folder / "README.txt").write_text("notes")
    (folder / "_tmp-part-0.parquet.1-aa.tmp").write_bytes(data[:100])
    return {
        "empty.parquet": "Parquet file size is 0 bytes",
        "foreign.parquet": "schema version: got None",
        "text.parquet": "Parquet magic bytes not found",
        "truncated.parquet": "Parquet magic bytes not found",
    }


@pytest.mark.parametrize("folder", ["shards", "textures", "_replaced-0"])
def test_bad_files_are_named_and_passed_over(
    run: RunDirectory, make_table: MakeTable, folder: str
) -> None:
    expected = spoil(run.path / folder, commit_rows(run, make_table(["a", "b"])))
    table, problems = read_committed(run)
    assert table["task_id"].to_pylist() == ["a", "b"]
    assert {problem.path.name for problem in problems} == set(expected)
    for problem in problems:
        assert problem.path.parent.name == folder
        assert expected[problem.path.name] in problem.reason


def test_a_file_damaged_inside_is_named_and_passed_over(
    run: RunDirectory, make_table: MakeTable, damage_column: Callable[[Path, str], None]
) -> None:
    commit_rows(run, make_table(["a"]))
    damaged = commit_rows(run, make_table(["b"]))
    damage_column(damaged, "float_loss")
    table, problems = read_committed(run, ["task_id", "float_loss"])
    assert table["task_id"].to_pylist() == ["a"]
    assert [problem.path for problem in problems] == [damaged]


@pytest.mark.parametrize("column", ["image.bytes", "float_loss", "task_id"])
def test_one_flipped_bit_is_an_unreadable_file(
    run: RunDirectory, make_table: MakeTable, column: str
) -> None:
    commit_rows(run, make_table(["a"]))
    path = commit_rows(run, make_table(["b"]))
    group = pq.read_metadata(path).row_group(0)
    columns = [group.column(index) for index in range(group.num_columns)]
    (place,) = [place for place in columns if place.path_in_schema == column]
    data = bytearray(path.read_bytes())
    start = place.dictionary_page_offset or place.data_page_offset
    data[start + place.total_compressed_size - 1] ^= 16
    path.write_bytes(data)
    table, problems = read_committed(run, ["task_id", "float_loss", "image"])
    assert table["task_id"].to_pylist() == ["a"]
    assert [problem.path for problem in problems] == [path]


def test_a_link_to_nothing_is_an_unreadable_file(run: RunDirectory, make_table: MakeTable) -> None:
    commit_rows(run, make_table(["a"]))
    (run.shards / "part-link.parquet").symlink_to("nowhere")
    table, problems = read_committed(run)
    assert table["task_id"].to_pylist() == ["a"]
    assert [problem.path.name for problem in problems] == ["part-link.parquet"]
