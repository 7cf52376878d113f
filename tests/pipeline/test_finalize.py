from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.committed import list_files, open_parquet, read_committed
from pipeline.compaction import FinalizeError, choose_parts_at_once
from pipeline.finalize import Finalized, finalize
from pipeline.resume import RunRecord, write_run_record, write_tasks
from pipeline.rundir import RunDirectory
from pipeline.schema import PICTURES, row_schema, rows_to_table
from pipeline.shards import commit_rows
from pipeline.tasks import task_seed
from pipeline.verify import verify_run

MakeTable = Callable[..., pa.Table]
FOLDERS = {"shards", "attempts", "checkpoints"}
IDS = [f"t{number:02d}" for number in range(10)]


def finalized(run: RunDirectory, ids: Iterable[str] = IDS, rows_per_file: int = 4) -> Finalized:
    return finalize(run, pa.array(ids, pa.string()), rows_per_file=rows_per_file)


def attempts(run: RunDirectory, *, damaged: bool = False) -> dict[str, int]:
    """Attempt by task, as a reader of the whole run sees them; each task once."""
    table, problems = read_committed(run, ["task_id", "attempts"])
    assert damaged or problems == []
    rows = table.to_pylist()
    result = {row["task_id"]: row["attempts"] for row in rows}
    assert len(result) == len(rows)
    return result


def commit_story(run: RunDirectory, make_table: MakeTable) -> None:
    """Ten tasks over three shards, of which two rows are superseded."""
    commit_rows(run, make_table(IDS[:4], category="wool"))
    commit_rows(run, make_table(IDS[4:], category="bark"))
    commit_rows(run, make_table(IDS[2:6], attempts=2, category="moss"))


def assert_finished(run: RunDirectory, expected: dict[str, int]) -> None:
    """What a reader who knows nothing of the protocol sees is the whole run."""
    textures = pq.read_table(run.textures)
    found = dict(
        zip(textures["task_id"].to_pylist(), textures["attempts"].to_pylist(), strict=True)
    )
    assert found == expected
    assert len(textures) == len(expected)
    assert pq.read_table(run.metrics).equals(textures.drop_columns([*PICTURES]))
    assert run.success.exists()
    names = {path.name for path in run.path.iterdir()}
    assert names == {*FOLDERS, "textures", "metrics.parquet", "_SUCCESS"}
    assert list(run.shards.iterdir()) == []


def test_a_run_becomes_sorted_textures(
    run: RunDirectory, make_table: MakeTable, make_png: Callable[[str], bytes]
) -> None:
    commit_story(run, make_table)
    result = finalized(run)
    assert (result.rows, result.missing, result.problems) == (10, (), ())
    assert [pq.read_metadata(path).num_rows for path in result.files] == [4, 4, 2]
    assert_finished(run, {task: 1 + int(task in IDS[2:6]) for task in IDS})
    textures = pa.concat_tables([pq.read_table(path) for path in result.files])
    keys = list(zip(*(textures[name].to_pylist() for name in ("category", "task_id")), strict=True))
    assert keys == sorted(keys)
    for row in textures.to_pylist():
        assert row["image"]["bytes"] == make_png(row["task_id"])
    assert json.loads(run.success.read_text()) == {"tasks": 10}


def test_a_second_finalize_writes_nothing(run: RunDirectory, make_table: MakeTable) -> None:
    commit_story(run, make_table)
    finalized(run)
    before = written(run)
    finalized(run)
    assert written(run) == before


def written(run: RunDirectory) -> dict[Path, tuple[int, int]]:
    """When each file and folder was written, and which it is."""
    stats = {path: path.stat() for path in run.path.rglob("*")}
    return {path: (stat.st_mtime_ns, stat.st_ino) for path, stat in stats.items()}


def test_success_waits_for_the_last_task(run: RunDirectory, make_table: MakeTable) -> None:
    commit_rows(run, make_table(IDS[:9]))
    assert finalized(run).missing == (IDS[9],)
    assert not run.success.exists()
    commit_rows(run, make_table(IDS[9:], status="failed"))
    assert finalized(run).missing == ()
    assert run.success.exists()
    assert finalized(run, [*IDS, "new"]).missing == ("new",)
    assert not run.success.exists()


def test_a_retry_replaces_its_row(run: RunDirectory, make_table: MakeTable) -> None:
    commit_rows(run, make_table(IDS[:9]))
    commit_rows(run, make_table(IDS[9:], status="failed", error="disk"))
    finalized(run)
    commit_rows(run, make_table(IDS[9:], attempts=2))
    finalized(run)
    assert_finished(run, {task: 1 + int(task == IDS[9]) for task in IDS})
    assert pq.read_table(run.metrics)["error"].null_count == 10


def test_a_run_without_rows_can_be_finalized(run: RunDirectory) -> None:
    assert finalized(run).missing == tuple(IDS)
    assert len(pd.read_parquet(run.textures)) == 0


def test_carried_columns_of_later_shards(run: RunDirectory, make_table: MakeTable) -> None:
    commit_rows(run, make_table(IDS[:5]))
    carried = pa.schema([("note", pa.string())])
    commit_rows(run, make_table(IDS[5:], carried=carried, note="late"))
    alone, _ = read_committed(run, ["note"])
    assert alone["note"].to_pylist() == [None] * 5 + ["late"] * 5
    finalized(run)
    assert pq.read_table(run.metrics)["note"].to_pylist() == [None] * 5 + ["late"] * 5


def test_of_large_pictures_fewer_files_are_written_at_once(
    run: RunDirectory, make_table: MakeTable
) -> None:
    def choose(name: str, size: int) -> int:
        directory = RunDirectory(run.path / name)
        directory.create()
        for task in IDS[:4]:
            image = {"bytes": os.urandom(size), "path": "a.png"}
            commit_rows(directory, make_table([task], image=image))
        return choose_parts_at_once(list_files(directory))

    # As of 256, 512 and 1024 px.
    assert [choose(f"{size}", size) for size in (130_000, 500_000, 2_200_000)] == [8, 4, 1]
    assert choose_parts_at_once([]) == 8


def test_pandas_duckdb_and_datasets_read_the_folder(
    run: RunDirectory, make_table: MakeTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_story(run, make_table)
    finalized(run)
    frame = pd.read_parquet(run.textures)
    assert sorted(frame["task_id"]) == IDS
    query = "select task_id, octet_length(image.bytes) from read_parquet(?)"
    rows = duckdb.execute(query, [str(run.textures / "*.parquet")]).fetchall()
    assert sorted(task for task, size in rows if size > 0) == IDS
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets: Any = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(
        "parquet", data_dir=str(run.textures), cache_dir=str(tmp_path / "cache"), split="train"
    )
    assert sorted(loaded["task_id"]) == IDS
    assert {image.size for image in loaded["image"]} == {(8, 8)}


class CrashError(BaseException):
    """The process ends here; not an error that anything catches."""


def crash_at(monkeypatch: pytest.MonkeyPatch, number: int) -> Callable[[], int]:
    """Let the n-th call that changes the directory, and all later ones, raise; counts calls."""
    count = 0
    for name in ("replace", "rename", "unlink", "rmdir", "mkdir", "fsync"):
        real = getattr(os, name)

        def call(*args: Any, real: Callable[..., Any] = real, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count >= number:
                raise CrashError
            return real(*args, **kwargs)

        monkeypatch.setattr(os, name, call)
    return lambda: count


def crashes(run: RunDirectory, number: int) -> bool:
    with pytest.MonkeyPatch.context() as patch:
        crash_at(patch, number)
        try:
            finalized(run, rows_per_file=8)
        except CrashError:
            return True
    return False


@pytest.mark.faults
@pytest.mark.parametrize("extended", [False, True], ids=["first", "again"])
def test_a_crash_at_any_point_loses_nothing(
    tmp_path: Path, make_table: MakeTable, extended: bool
) -> None:
    original = RunDirectory(tmp_path / "original")
    original.create()
    if extended:
        commit_rows(original, make_table(IDS[:5], category="wool"))
        finalized(original)
    commit_story(original, make_table)
    expected = {task: 1 + int(task in IDS[2:6]) for task in IDS}
    assert attempts(original) == expected
    number, crashed = 0, True
    while crashed:
        number += 1
        run = RunDirectory(tmp_path / f"crash-{number}")
        shutil.copytree(original.path, run.path)
        crashed = crashes(run, number)
        assert attempts(run) == expected
        if run.textures.exists():
            ids = pq.read_table(run.textures)["task_id"].to_pylist()
            assert len(set(ids)) == len(ids)
        if run.success.exists():
            assert_finished(run, expected)
        if number % 4 == 0:
            crashes(run, number // 2)
            assert attempts(run) == expected
        finalized(run)
        assert_finished(run, expected)
    assert number > 15


def test_a_full_disk_leaves_the_shards(
    run: RunDirectory, make_table: MakeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_story(run, make_table)
    before = sorted(run.path.rglob("*"))
    calls = iter(range(100))
    real = pq.ParquetWriter.write_table

    def fail(self: Any, *args: Any, **kwargs: Any) -> None:
        if next(calls) == 1:
            raise OSError(28, "No space left on device")
        real(self, *args, **kwargs)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", fail)
    with pytest.raises(OSError, match="No space left"):
        finalized(run)
    assert sorted(run.path.rglob("*")) == before
    finalized(run)
    assert_finished(run, {task: 1 + int(task in IDS[2:6]) for task in IDS})


def test_unreadable_files_are_kept_and_named(run: RunDirectory, make_table: MakeTable) -> None:
    commit_rows(run, make_table(IDS[:5]))
    finalized(run)
    (run.textures / "part-foreign.parquet").write_bytes(b"")
    finalized(run)
    assert sorted(pd.read_parquet(run.textures)["task_id"]) == IDS[:5]
    (run.shards / "part-cut.parquet").write_bytes(b"PAR1")
    commit_rows(run, make_table(IDS[5:]))
    result = finalized(run)
    assert (result.rows, result.missing) == (10, ())
    found = {str(problem.path.relative_to(run.path)) for problem in result.problems}
    assert found == {"shards/part-cut.parquet", "_replaced-0/part-foreign.parquet"}
    assert all(problem.path.exists() for problem in result.problems)
    assert sorted(pd.read_parquet(run.textures)["task_id"]) == IDS
    assert finalized(run) == result


@pytest.mark.parametrize("compacted", [False, True])
def test_a_file_damaged_inside_is_put_aside(
    run: RunDirectory,
    make_table: MakeTable,
    damage_column: Callable[[Path, str], None],
    compacted: bool,
) -> None:
    damaged = commit_rows(run, make_table(IDS[5:]))
    if compacted:
        (damaged,) = finalized(run, rows_per_file=9).files
    damage_column(damaged, "float_loss")
    commit_rows(run, make_table(IDS[:5]))
    result = finalized(run)
    assert (result.rows, result.missing) == (5, tuple(IDS[5:]))
    aside = run.path / f"{damaged.name}.damaged"
    assert [problem.path for problem in result.problems] == [aside]
    assert aside.exists()
    assert list(pd.read_parquet(run.textures)["task_id"]) == IDS[:5]
    commit_rows(run, make_table(IDS[5:]))
    assert finalized(run).missing == ()


def test_what_was_built_wrong_is_not_put_in_place(
    run: RunDirectory, make_table: MakeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_story(run, make_table)
    real = pq.ParquetWriter.write_table

    def write_less(self: Any, table: pa.Table, *args: Any, **kwargs: Any) -> None:
        real(self, table.slice(1), *args, **kwargs)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", write_less)
    with pytest.raises(FinalizeError, match="got 7 rows of 7 tasks, expected 10"):
        finalized(run)
    assert len(attempts(run)) == 10
    assert not run.textures.exists()


def test_what_a_killed_writer_left_is_removed(run: RunDirectory, make_table: MakeTable) -> None:
    commit_rows(run, make_table(IDS))
    (run.shards / "_tmp-part-0.parquet.1-aa.tmp").write_bytes(b"PAR1")
    finalized(run)
    assert_finished(run, dict.fromkeys(IDS, 1))


def test_a_reader_sees_each_row_while_finalize_goes_on(
    run: RunDirectory, make_table: MakeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_story(run, make_table)
    seen = []
    for name in ("replace", "unlink"):
        real = getattr(os, name)

        def call(*args: Any, real: Callable[..., Any] = real, **kwargs: Any) -> Any:
            result = real(*args, **kwargs)
            seen.append(attempts(run))
            return result

        monkeypatch.setattr(os, name, call)
    finalized(run)
    assert len(seen) > 5
    assert all(found == seen[0] and len(found) == 10 for found in seen)


def test_a_reader_that_finalize_overtakes_starts_again(
    run: RunDirectory, make_table: MakeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_story(run, make_table)
    calls = []

    def overtaken(path: Path) -> Any:
        calls.append(path)
        if len(calls) == 3:
            monkeypatch.undo()
            finalized(run)
        return open_parquet(path)

    monkeypatch.setattr("pipeline.committed.open_parquet", overtaken)
    assert len(attempts(run)) == 10


def test_a_reader_that_a_swap_overtakes_lists_again(
    run: RunDirectory, make_table: MakeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_story(run, make_table)
    finalized(run)
    aside = run.textures.rename(run.path / "_replaced-0")
    real = RunDirectory.replaced

    def replaced(self: RunDirectory) -> list[Path]:
        if aside.exists():
            aside.rename(self.textures)
        return real(self)

    monkeypatch.setattr(RunDirectory, "replaced", replaced)
    assert len(attempts(run)) == 10


def test_between_equal_attempts_the_compacted_row_counts(
    run: RunDirectory, make_table: MakeTable
) -> None:
    commit_rows(run, make_table(IDS, float_loss=1.0))
    finalized(run)
    commit_rows(run, make_table(IDS, float_loss=2.0))
    table, _ = read_committed(run, ["float_loss"])
    assert table["float_loss"].to_pylist() == [1.0] * 10
    finalized(run)
    assert_finished(run, dict.fromkeys(IDS, 1))


batches = st.lists(
    st.tuples(st.sets(st.sampled_from(IDS), min_size=1), st.integers(0, 2), st.booleans()),
    max_size=5,
)


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(batches=batches, rows_per_file=st.integers(1, 12))
def test_finalize_keeps_the_highest_attempts(
    tmp_path_factory: pytest.TempPathFactory,
    make_table: MakeTable,
    batches: list[tuple[set[str], int, bool]],
    rows_per_file: int,
) -> None:
    run = RunDirectory(tmp_path_factory.mktemp("run"))
    run.create()
    expected: dict[str, int] = {}
    for tasks, attempt, finalizes in batches:
        commit_rows(run, make_table(sorted(tasks), attempts=attempt))
        expected |= {task: max(attempt, expected.get(task, 0)) for task in tasks}
        if finalizes:
            finalized(run, rows_per_file=rows_per_file)
        assert attempts(run) == expected
    result = finalized(run, expected, rows_per_file=rows_per_file)
    assert_finished(run, expected)
    assert all(pq.read_metadata(path).num_rows <= rows_per_file for path in result.files)


class Model:
    """A run beside a dictionary of what must come out of it; a row follows from task and attempt.

    Attributes:
        run: The run directory.
        rows: Attempts by task, of the rows that are whole on the disk.
    """

    def __init__(self, folder: Path, make_row: Callable[..., dict[str, Any]]) -> None:
        self.run = RunDirectory(folder)
        self.run.create()
        self.rows: dict[str, int] = {}
        self._make_row = make_row
        identity = {"seed": 0}
        record = RunRecord(
            config=identity,
            identity=identity,
            versions={},
            weights="random:0",
            weights_sha256="00",
            manifest="m.csv",
            manifest_sha256="11",
            root="images",
            carried=pa.schema([]),
            created_at="2026-01-02T03:04:05+00:00",
        )
        self._fingerprint = record.fingerprint
        write_run_record(self.run, record)
        write_tasks(self.run, pa.table({"task_id": IDS}))

    def table(self, tasks: Iterable[str], attempts: int) -> pa.Table:
        rows = []
        for task in sorted(tasks):
            values = {"seed": task_seed(0, task), "height": 8, "width": 8, "weights_sha256": "00"}
            values |= {"config_fingerprint": self._fingerprint, "attempts": attempts}
            values |= {"delivered_loss": 2.0, "objective_loss": 3.0, "float_loss": float(attempts)}
            rows.append(self._make_row(task, **values))
        return rows_to_table(rows, row_schema())

    def commit(self, tasks: set[str], attempts: int, crash: int) -> None:
        """Commit rows; killed at the n-th change of the directory, they are there or are not."""
        table = self.table(tasks, attempts)
        if crash_in(lambda: commit_rows(self.run, table), crash):
            before, after = self.rows, self._with(tasks, attempts)
            self.rows = self.whole_rows()
            assert self.rows in (before, after)
        else:
            self.rows = self._with(tasks, attempts)

    def finalize(self, rows_per_file: int, crash: int) -> None:
        if not crash_in(lambda: finalized(self.run, rows_per_file=rows_per_file), crash):
            assert attempts(self.run, damaged=True) == self.rows
        assert self.whole_rows() == self.rows

    def damage(self, number: int, how: str) -> None:
        """Damage a file; what only it had is no longer expected."""
        files = sorted(self.run.path.glob("*/*.parquet"))
        if not files:
            return
        path = files[number % len(files)]
        data = bytearray(path.read_bytes())
        if how == "cut":
            data = data[: len(data) // 2]
        elif how == "footer":
            data[-8:-4] = b"\xff" * 4
        elif b"IDAT" in data:
            data[data.index(b"IDAT") + 9] ^= 1
        path.write_bytes(data)
        self.rows = self.whole_rows()

    def whole_rows(self) -> dict[str, int]:
        """The highest attempt of each task in all files that can be read to their ends."""
        rows: dict[str, int] = {}
        for path in self.run.path.glob("*/*.parquet"):
            if path.parent.name.startswith("_tmp"):
                continue
            try:
                table = pq.ParquetFile(path, page_checksum_verification=True).read()
            except (OSError, pa.ArrowException):
                continue
            for row in table.select(["task_id", "attempts"]).to_pylist():
                rows[row["task_id"]] = max(row["attempts"], rows.get(row["task_id"], 0))
        return rows

    def _with(self, tasks: set[str], attempts: int) -> dict[str, int]:
        return self.rows | {task: max(attempts, self.rows.get(task, 0)) for task in tasks}


def crash_in(action: Callable[[], object], number: int) -> bool:
    """Let an action end at the n-th change of the directory; whether it came that far."""
    with pytest.MonkeyPatch.context() as patch:
        crash_at(patch, number)
        try:
            action()
        except CrashError:
            return True
    return False


steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("commit"),
            st.sets(st.sampled_from(IDS), min_size=1),
            st.integers(1, 3),
            st.integers(1, 12),
        ),
        st.tuples(st.just("finalize"), st.integers(1, 12), st.integers(1, 60)),
        st.tuples(
            st.just("damage"), st.integers(0, 9), st.sampled_from(["cut", "footer", "image"])
        ),
    ),
    max_size=8,
)


@pytest.mark.faults
@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(steps=steps)
def test_any_story_ends_as_a_dictionary_says(
    tmp_path_factory: pytest.TempPathFactory,
    make_row: Callable[..., dict[str, Any]],
    steps: list[tuple[Any, ...]],
) -> None:
    model = Model(tmp_path_factory.mktemp("run"), make_row)
    run = model.run
    for name, *arguments in steps:
        getattr(model, name)(*arguments)
    result = finalized(run)
    assert result.rows == len(model.rows)
    assert result.missing == tuple(task for task in IDS if task not in model.rows)
    for problem in result.problems:
        problem.path.rename(problem.path.with_suffix(".aside"))
    if result.missing:
        model.commit(set(result.missing), 1, crash=10**6)
    finalized(run)
    assert attempts(run) == model.rows
    assert pd.read_parquet(run.textures)["float_loss"].tolist() == [
        float(model.rows[task]) for task in IDS
    ]
    assert [check for check in verify_run(run) if not check.ok] == []


def test_readers_see_whole_rows_once_while_rows_come_and_are_compacted(
    tmp_path: Path, make_row: Callable[..., dict[str, Any]]
) -> None:
    model = Model(tmp_path / "run", make_row)
    run = model.run
    model.commit(set(IDS), 1, crash=10**6)
    finalized(run)
    ended = threading.Event()
    reads: Counter[str] = Counter()
    wrong: list[object] = []
    latest: dict[str, int] = {}

    def read_all() -> None:
        table, problems = read_committed(run)
        rows = require_whole(table)
        assert (problems, sorted(rows)) == ([], IDS)
        assert all(rows[task] >= latest.get(task, 0) for task in IDS)
        latest.update(rows)

    def read_textures() -> None:
        assert sorted(require_whole(pa.Table.from_pandas(pd.read_parquet(run.textures)))) == IDS

    def read_shards() -> None:
        for path in run.shards.glob("part-*"):
            require_whole(pq.ParquetFile(path, page_checksum_verification=True).read())

    def work(read: Callable[[], None]) -> None:
        while not ended.is_set() and not wrong:
            try:
                read()
                reads[read.__name__] += 1
            except FileNotFoundError:
                # A finalize moves files on; read_committed alone must not mind.
                if read is read_all:
                    wrong.append("read_committed found no file")
            except BaseException as error:
                wrong.append(error)

    readers = (read_all, read_textures, read_shards)
    threads = [threading.Thread(target=work, args=(read,)) for read in readers]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 60
    number = 1
    while not wrong and (number < 6 or min(reads[read.__name__] for read in readers) < 6):
        assert time.monotonic() < end, reads
        number += 1
        for start in range(0, 10, 3):
            model.commit(set(IDS[start : start + 3]), number, crash=10**6)
        finalized(run)
    ended.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert attempts(run) == dict.fromkeys(IDS, number)


def require_whole(table: pa.Table) -> dict[str, int]:
    """Attempts by task; each task once, and every row as it was committed."""
    rows = {row["task_id"]: row["attempts"] for row in table.to_pylist()}
    assert len(rows) == len(table)
    assert table["float_loss"].to_pylist() == [float(number) for number in rows.values()]
    return rows
