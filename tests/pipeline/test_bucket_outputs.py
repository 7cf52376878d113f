"""Exports and parts of runs in a bucket: as on a disk, also where a process is killed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import pipeline.lease
from pipeline.dealt import DealtManifest, load_dealt_manifest
from pipeline.export import FORMS, ExportError, FormName, export_run, loose
from pipeline.export.names import WORK
from pipeline.filtering import FilterError, filter_run
from pipeline.folder_lock import hold_folder
from pipeline.lease import LeaseLostError
from pipeline.locks import Holder
from pipeline.manifest import load_manifest, write_manifest
from pipeline.object_tree import list_names
from pipeline.query import load_metrics
from pipeline.rundir import RunDirectory
from pipeline.selection import Selection
from pipeline.storage import AnyPath, ObjectPath

EVERYTHING = Selection(accepted_only=False)
Export = Callable[..., None]


@pytest.fixture
def export(filled: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> Export:
    """Exports in parts of three textures."""
    monkeypatch.setattr(loose, "PART_ROWS", 3)

    def call(form: FormName, out: AnyPath, *, overwrite: bool = False) -> None:
        rows = None if form in ("folder", "dtd") else 3
        export_run(filled, form, out, EVERYTHING, shard_rows=rows, overwrite=overwrite)

    return call


@pytest.fixture
def dealt(pictures_run: tuple[RunDirectory, Path]) -> DealtManifest:
    """Of the run of pictures, with c and what shows the same in val."""
    _, folder = pictures_run
    names = ["a", "again", "copy", "b", "mirrored", "c", "d"]
    splits = ["val" if name == "c" else "train" for name in names]
    table = pa.table({"exemplar_id": names, "path": names, "split": splits})
    write_manifest(table, folder / "m.csv")
    return load_dealt_manifest(folder / "m.csv")


class KilledError(BaseException):
    """The process is dead: nothing that it would do any more is done."""


@contextmanager
def killed_at(monkeypatch: pytest.MonkeyPatch, change: int) -> Iterator[None]:
    """From the change of this number on, of what is done in the block, no object changes."""
    changes = iter(range(change))

    def living(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: ObjectPath, *more: Any, **options: Any) -> Any:
            # What a lease does goes on: it is looked at by number of process.
            if ".lock-" not in path.name and next(changes, None) is None:
                raise KilledError
            return original(path, *more, **options)

        return call

    with monkeypatch.context() as patches:
        for name in ("upload", "write_bytes", "unlink"):
            patches.setattr(ObjectPath, name, living(getattr(ObjectPath, name)))
        yield


def contents(folder: AnyPath) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in list_names(folder)}


@pytest.mark.parametrize(
    "form", ["folder", *(pytest.param(f, marks=pytest.mark.slow) for f in FORMS[1:])]
)
def test_an_export_is_that_of_a_disk(
    export: Export, tmp_path: Path, bucket: ObjectPath, form: FormName
) -> None:
    export(form, tmp_path / "out")
    export(form, bucket / "out")
    assert contents(bucket / "out") == contents(tmp_path / "out")
    assert len(load_manifest(f"{bucket}/out/manifest.csv").table) == 8
    before = {name: (bucket / "out" / name).stat() for name in list_names(bucket / "out")}
    export(form, bucket / "out")
    assert before == {name: (bucket / "out" / name).stat() for name in before}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "changes"), [("folder", range(1, 20, 3)), ("hf", range(1, 12, 2))], ids=str
)
def test_an_export_that_was_killed_goes_on(
    export: Export,
    tmp_path: Path,
    bucket: ObjectPath,
    monkeypatch: pytest.MonkeyPatch,
    form: FormName,
    changes: Sequence[int],
) -> None:
    export(form, tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    kills = 0
    for change in changes:
        out = bucket / f"killed-{change}"
        with killed_at(monkeypatch, change):
            try:
                export(form, out)
            except KilledError:
                kills += 1
        there = {name: data for name, data in contents(out).items() if WORK not in name}
        assert there == whole or "manifest.csv" not in there
        export(form, out)
        assert contents(out) == whole
    assert kills > 1


def test_only_parts_that_are_not_whole_are_put_again(
    export: Export, bucket: ObjectPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = bucket / "out"
    # export.json, both parts of three with their notes, and one of the third's two.
    with killed_at(monkeypatch, 10), pytest.raises(KilledError):
        export("folder", out)
    first, second = sorted(name for name in list_names(out) if name.endswith(".png"))[1:5:3]
    (out / second).unlink()
    put = []
    upload = ObjectPath.upload

    def note(path: ObjectPath, file: Path) -> None:
        put.append(path.uri.removeprefix(f"{out}/"))
        upload(path, file)

    monkeypatch.setattr(ObjectPath, "upload", note)
    export("folder", out)
    assert second in put
    assert first not in put


@pytest.mark.parametrize(
    "changes", [(19,), pytest.param(range(2, 40, 3), marks=pytest.mark.slow)], ids=str
)
def test_killed_while_it_overwrites_the_old_export_is_whole_until_it_is_removed(
    filled: RunDirectory,
    export: Export,
    tmp_path: Path,
    bucket: ObjectPath,
    monkeypatch: pytest.MonkeyPatch,
    changes: Sequence[int],
) -> None:
    # Of both, some files lie in one folder.
    export_run(filled, "hf", tmp_path / "old", EVERYTHING, shard_rows=2)
    export("hf", tmp_path / "new")
    old, whole = contents(tmp_path / "old"), contents(tmp_path / "new")
    mine = {"notes.txt": b"mine"}
    kept, begun = 0, 0
    for change in changes:
        out = bucket / f"killed-{change}"
        for name, data in {**old, **mine}.items():
            (out / name).write_bytes(data)
        with killed_at(monkeypatch, change), suppress(KilledError):
            export("hf", out, overwrite=True)
        there = {name: data for name, data in contents(out).items() if WORK not in name}
        if "manifest.csv" in there:
            assert there in ({**old, **mine}, {**whole, **mine})
            kept += there == {**old, **mine}
        else:
            begun += 1
        export("hf", out, overwrite="manifest.csv" in there)
        assert contents(out) == {**whole, **mine}
    assert begun
    assert kept or len(changes) == 1


def test_another_export_or_other_objects_are_not_overwritten(
    export: Export, bucket: ObjectPath
) -> None:
    export("hf", bucket / "out")
    before = contents(bucket)
    with pytest.raises(ExportError, match="holds another export; --overwrite replaces it"):
        export("dtd", bucket / "out")
    (bucket / "other" / "README.md").write_bytes(b"mine")
    with pytest.raises(ExportError, match=r"holds README\.md, 1 in all, and no export of ours"):
        export("dtd", bucket / "other", overwrite=True)
    with pytest.raises(ExportError, match="is not a folder"):
        export("dtd", bucket / "out" / "manifest.csv")
    assert contents(bucket) == {**before, "other/README.md": b"mine"}


def test_two_do_not_write_to_one_place(
    export: Export,
    bucket: ObjectPath,
    pictures_run: tuple[RunDirectory, Path],
    dealt: DealtManifest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pipeline.lease, "LEASE_SECONDS", 3.0)
    with hold_folder(bucket / "out" / WORK, "lock"), hold_folder(bucket / "_tmp-part", "lock"):
        with pytest.raises(ExportError, match="another process writes this export"):
            export("hf", bucket / "out")
        with pytest.raises(FilterError, match="another process writes it"):
            filter_run(pictures_run[0], bucket / "part", dealt)
    assert list_names(bucket) == set()


def test_what_a_killed_filter_has_left_is_replaced_by_the_next(
    pictures_run: tuple[RunDirectory, Path],
    dealt: DealtManifest,
    bucket: ObjectPath,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, _ = pictures_run
    out = bucket / "part"
    left = set()
    # With run.json and shards; with files of textures.
    for change in (4, 6):
        with killed_at(monkeypatch, change), pytest.raises(KilledError):
            filter_run(run, out, dealt)
        left |= list_names(out)
        assert "_SUCCESS" not in left
    assert {"run.json", "tasks.parquet"} < left
    # Another part: no row of the killed one is in it.
    for place in (out, tmp_path / "part"):
        assert filter_run(run, place, dealt, split="val").kept == 2
    assert load_metrics(RunDirectory(out)).equals(load_metrics(tmp_path / "part"))
    assert list_names(out) == list_names(tmp_path / "part") - {".lock"}
    assert {path.name for path in bucket.iterdir()} == {"part"}
    # One that was killed before it wrote anything, and then a run in its place.
    (bucket / "_tmp-other" / "unfinished").touch()
    (bucket / "other" / "run.json").write_bytes((run.path / "run.json").read_bytes())
    for place in (out, bucket / "other"):
        with pytest.raises(FilterError, match="is there already"):
            filter_run(run, place, dealt)
    assert list_names(bucket / "other") == {"run.json"}


def test_a_filter_that_is_killed_while_it_removes_a_killed_one_s_is_followed(
    pictures_run: tuple[RunDirectory, Path],
    dealt: DealtManifest,
    bucket: ObjectPath,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, _ = pictures_run
    out = bucket / "part"
    with killed_at(monkeypatch, 4), pytest.raises(KilledError):
        filter_run(run, out, dealt)
    left = list_names(out)
    with killed_at(monkeypatch, 1), pytest.raises(KilledError):
        filter_run(run, out, dealt)
    assert list_names(out) < left
    assert filter_run(run, out, dealt, split="val").kept == 2


def test_a_filter_that_was_followed_leaves_the_other_one_s_files_alone(
    pictures_run: tuple[RunDirectory, Path],
    dealt: DealtManifest,
    bucket: ObjectPath,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pipeline.lease, "LEASE_SECONDS", 3.0)
    follower = Holder(token="other", host="elsewhere", pid=1, machine="", lease_s=60.0)

    def be_followed(*_: Any) -> None:
        # It has begun anew in the same place.
        (bucket / "part" / "run.json").write_bytes(b"theirs")
        (bucket / "_tmp-part" / ".lock-000002").write_bytes(follower.to_bytes())
        time.sleep(30)

    monkeypatch.setattr("pipeline.run_part.finalize", be_followed)
    with pytest.raises(LeaseLostError, match="another process has taken it over"):
        filter_run(pictures_run[0], bucket / "part", dealt)
    assert (bucket / "part" / "run.json").read_bytes() == b"theirs"
    assert (bucket / "_tmp-part" / "unfinished").exists()


def test_a_filter_that_fails_leaves_nothing(
    pictures_run: tuple[RunDirectory, Path],
    dealt: DealtManifest,
    bucket: ObjectPath,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.run_part.finalize", fail)
    with pytest.raises(OSError, match="No space"):
        filter_run(pictures_run[0], bucket / "part", dealt)
    assert list_names(bucket) == set()
    with pytest.raises(FilterError, match="is a whole bucket, expected a folder in it"):
        filter_run(pictures_run[0], bucket, dealt)
