import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.committed import UnreadableFileError, open_parquet
from pipeline.object_store import (
    MissingPackageError,
    StorageError,
    call_store,
    open_filesystem,
)
from pipeline.rundir import RunDirectory, atomic_path, write_json_atomic
from pipeline.shards import commit_rows
from pipeline.status import StatusReader
from pipeline.storage import (
    ObjectPath,
    RemotePathError,
    as_path,
    is_uri,
    lies_in,
    local_copy,
    require_local,
    sorted_glob,
)

every_store = pytest.mark.parametrize("bucket", ["s3", "gs", "az"], indirect=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket/run", ObjectPath("s3://bucket/run")),
        ("s3://bucket/run/", ObjectPath("s3://bucket/run")),
        ("gs://bucket", ObjectPath("gs://bucket")),
        ("az://box/a/b", ObjectPath("az://box/a/b")),
        ("hf://datasets/someone/runs", ObjectPath("hf://datasets/someone/runs")),
        (Path("s3://bucket/run"), ObjectPath("s3://bucket/run")),
        ("runs/s3", Path("runs/s3")),
        ("/s3:/bucket", Path("/s3:/bucket")),
    ],
)
def test_what_a_text_names(text: str | Path, expected: Path | ObjectPath) -> None:
    assert as_path(text) == expected
    assert RunDirectory(as_path(text)).path == expected


def test_parts_of_a_uri_are_those_of_a_path() -> None:
    place = as_path("s3://bucket/run/shards/part-1.parquet")
    assert isinstance(place, ObjectPath)
    assert (place.name, place.stem, place.suffix) == ("part-1.parquet", "part-1", ".parquet")
    assert place.parent == as_path("s3://bucket/run") / "shards"
    assert place.with_name("a") == place.parent / "a"
    assert place.parts == ("s3://bucket", "run", "shards", "part-1.parquet")
    assert ObjectPath("s3://bucket").parent == ObjectPath("s3://bucket")


def test_a_uri_is_no_local_path() -> None:
    assert is_uri("s3://bucket/a")
    assert not is_uri("ftp://host/a")
    with pytest.raises(RemotePathError, match=r"--out is 's3://bucket/a', expected a local path"):
        require_local(ObjectPath("s3://bucket/a"), "--out")


def test_what_lies_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "run")
    run = ObjectPath("s3://bucket/run")
    assert lies_in(run / "a", run)
    assert lies_in(run, run)
    assert lies_in(tmp_path / "link" / "a", tmp_path / "run")
    for other in (ObjectPath("s3://bucket/run2"), ObjectPath("gs://bucket/run/a"), tmp_path):
        assert not lies_in(other, run)


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"needs the package adlfs.*texsynth\[az\]"):
        open_filesystem("az")


@every_store
def test_objects_are_written_read_listed_and_removed(bucket: ObjectPath, tmp_path: Path) -> None:
    folder = bucket / "run"
    assert not folder.exists()
    assert list(folder.iterdir()) == []
    write_json_atomic(folder / "a.json", {"a": 1})
    (folder / "deep" / "b.txt").write_bytes(b"b")
    assert folder.is_dir()
    assert not folder.is_file()
    assert sorted(path.name for path in folder.iterdir()) == ["a.json", "deep"]
    assert sorted_glob(folder, "*.json") == [folder / "a.json"]
    assert (folder / "a.json").stat().st_size == len((folder / "a.json").read_bytes())
    with local_copy(folder / "deep" / "b.txt") as copy:
        assert copy.read_bytes() == b"b"
    (folder / "a.json").unlink()
    # What another process writes or removes is seen at once: listings are not kept.
    other = type(open_filesystem(bucket.scheme))(skip_instance_cache=True)
    other.rm_file((folder / "deep" / "b.txt").uri)
    assert list(folder.iterdir()) == []
    assert not (folder / "a.json").exists()
    with pytest.raises(FileNotFoundError, match=r"a\.json"):
        (folder / "a.json").read_bytes()


def test_a_broken_off_write_leaves_no_object(bucket: ObjectPath) -> None:
    def write() -> None:
        with atomic_path(bucket / "a") as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError("broken off")

    with pytest.raises(RuntimeError, match="broken off"):
        write()
    assert list(bucket.iterdir()) == []


@every_store
def test_neighbours_whose_names_begin_alike_are_not_listed(bucket: ObjectPath) -> None:
    for name in ("run/a", "run/deep/b", "run/deep/er/c", "run2/a", "runaway", "ru"):
        (bucket / name).write_bytes(b"")
    found = [path.uri.removeprefix(f"{bucket}/") for path in (bucket / "run").iterdir()]
    assert found == ["run/a", "run/deep"]
    assert [path.is_dir() for path in (bucket / "run").iterdir()] == [False, True]
    assert not (bucket / "r").exists()


@every_store
def test_a_new_object_takes_the_place_of_none(bucket: ObjectPath) -> None:
    (bucket / "a").write_bytes(b"first", new=True)
    begun = time.monotonic()
    with pytest.raises(FileExistsError):
        (bucket / "a").write_bytes(b"second", new=True)
    assert time.monotonic() - begun < 5  # at the first refusal
    assert (bucket / "a").read_bytes() == b"first"


@every_store
def test_of_many_who_put_a_new_object_one_wins(bucket: ObjectPath) -> None:
    together = threading.Barrier(8)

    def put(number: int) -> bool:
        together.wait()
        with suppress(FileExistsError):
            (bucket / "a").write_bytes(str(number).encode(), new=True)
            return True
        return False

    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(put, range(8)))
    assert won.count(True) == 1
    assert (bucket / "a").read_bytes() == str(won.index(True)).encode()


@every_store
def test_removing_what_is_not_there_is_done(bucket: ObjectPath) -> None:
    """It may be an attempt of the same call, whose answer was lost, that has removed it."""
    (bucket / "a").unlink()


@every_store
def test_a_reader_does_not_mix_two_versions(bucket: ObjectPath) -> None:
    (bucket / "a").write_bytes(b"first version")
    with (bucket / "a").open() as file:
        assert file.read(5) == b"first"
        (bucket / "a").write_bytes(b"other version")
        with pytest.raises(StorageError, match=r"a: cannot read it: (FileExpired|ObjectChanged)"):
            file.read(8)


@every_store
def test_a_reader_is_told_of_an_object_that_was_removed(bucket: ObjectPath) -> None:
    """By which a reader of a run knows that a finalize has overtaken it, and looks again."""
    (bucket / "a").write_bytes(b"first version")
    with (bucket / "a").open() as file:
        assert file.read(5) == b"first"
        (bucket / "a").unlink()
        with pytest.raises(FileNotFoundError, match="no such object"):
            file.read(8)


@every_store
def test_a_bucket_that_is_not_there_is_named(bucket: ObjectPath, tmp_path: Path) -> None:
    folder = ObjectPath(f"{bucket.scheme}://no-such-bucket/run")
    assert list(folder.iterdir()) == []
    assert not folder.exists()
    named = rf"{folder}/a: cannot write it: there is no {bucket.scheme}://no-such-bucket$"
    with pytest.raises(StorageError, match=named):
        (folder / "a").write_bytes(b"")
    (tmp_path / "a").write_bytes(b"a")
    with pytest.raises(StorageError, match=named):
        (folder / "a").upload(tmp_path / "a")
    with pytest.raises(FileNotFoundError, match="no-such-bucket/run/a"):
        (folder / "a").read_bytes()


@every_store
def test_parquet_is_read_by_ranges(bucket: ObjectPath) -> None:
    path = bucket / "rows.parquet"
    table = pa.table({"number": range(1000), "text": ["x" * 100] * 1000})
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, row_group_size=100)
    with open_parquet(path) as file:
        assert file.metadata.num_rows == 1000
        assert file.read_row_group(3, ["number"])["number"].to_pylist() == list(range(300, 400))
    path.write_bytes(b"PAR1 no Parquet PAR1")
    with pytest.raises(UnreadableFileError), open_parquet(path):
        pass
    with pytest.raises(FileNotFoundError), open_parquet(bucket / "none.parquet"):
        pass


def test_a_store_that_fails_damages_no_file(
    bucket: ObjectPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bucket / "rows.parquet"
    with atomic_path(path) as temporary:
        pq.write_table(pa.table({"number": range(1000)}), temporary)

    def fail(*_: object) -> bytes:
        raise OSError("no line")

    monkeypatch.setattr("pipeline.object_store.FIRST_WAIT_SECONDS", 0.001)
    with path.open() as file:
        monkeypatch.setattr(type(file._file), "_fetch_range", fail)
    failed = pytest.raises(StorageError, match=r"rows\.parquet.*after 6 attempts.*no line")
    with failed, open_parquet(path) as file:
        file.read()


def test_a_second_look_at_a_run_costs_requests_by_the_folder_not_by_the_file(
    bucket: ObjectPath, make_table: Callable[..., pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory(bucket / "run")
    for number in range(12):
        commit_rows(run, make_table([f"e{number}-c0-v0"]))
    (run.shards / "foreign.txt").write_bytes(b"x")
    (run.shards / "part-empty.parquet").write_bytes(b"")
    reader = StatusReader(run)
    first = reader.load()
    reasons = {problem.path.name: problem.reason for problem in first.problems}
    assert "0 bytes" in reasons["part-empty.parquet"]
    assert reasons["foreign.txt"].startswith("not a file of a run")
    requests: list[str] = []

    def count(uri: str, act: Any, **more: Any) -> Any:
        requests.append(uri)
        return call_store(uri, act, **more)

    for module in ("storage", "object_path", "object_reader", "object_store"):
        monkeypatch.setattr(f"pipeline.{module}.call_store", count)
    assert reader.load().other_rows == first.other_rows
    of_shards = [uri for uri in requests if "/shards/part-" in uri]
    assert of_shards == []
    assert len(requests) < 40
