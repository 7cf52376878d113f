"""Exports that are killed, that meet other files, or a full disk."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from filelock import FileLock

from pipeline.export import FORMS, ExportError, FormName, export_run, loose
from pipeline.export.names import WORK
from pipeline.rundir import RunDirectory
from pipeline.selection import Selection
from pipeline.shards import commit_rows

Call = Callable[..., tuple[int, str, str]]
Export = Callable[[FormName, Path], None]
EVERYTHING = Selection(accepted_only=False)


@pytest.fixture
def export(filled: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> Export:
    """Exports in parts of three textures."""
    monkeypatch.setattr(loose, "PART_ROWS", 3)

    def call(form: FormName, out: Path) -> None:
        rows = None if form in ("folder", "dtd") else 3
        export_run(filled, form, out, EVERYTHING, shard_rows=rows)

    return call


class KilledError(BaseException):
    """The process is dead: nothing that it would do any more is done."""


@contextmanager
def killed_at(monkeypatch: pytest.MonkeyPatch, rename: int) -> Iterator[None]:
    """What is done in the block dies at the rename of this number."""
    with monkeypatch.context() as patches:
        kill_at(patches, rename)
        with pytest.raises(KilledError):
            yield


def kill_at(monkeypatch: pytest.MonkeyPatch, rename: int) -> None:
    """From the rename of this number on, no call changes the file system."""
    renames = iter(range(rename))
    dead: list[bool] = []

    def living(original: Callable[..., Any], *, counted: bool = False) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if counted and next(renames, None) is None:
                dead.append(True)
            if dead:
                raise KilledError
            return original(*arguments, **options)

        return call

    monkeypatch.setattr(Path, "replace", living(Path.replace, counted=True))
    for owner, name in ((Path, "unlink"), (Path, "write_bytes"), (shutil, "rmtree")):
        monkeypatch.setattr(owner, name, living(getattr(owner, name)))


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def identities(folder: Path) -> dict[str, tuple[int, int]]:
    """Which file each is, and when it was written."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    stats = {path.relative_to(folder).as_posix(): path.stat() for path in files}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


@pytest.mark.parametrize("form", FORMS)
def test_killed_anywhere_it_ends_as_one_that_was_not(
    export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: FormName
) -> None:
    export(form, tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    kills = 0
    for rename in range(0, 60, 4):
        out = tmp_path / f"killed-{rename}"
        with monkeypatch.context() as patches:
            kill_at(patches, rename)
            try:
                export(form, out)
                break
            except KilledError:
                kills += 1
        assert not (out / "manifest.csv").exists()
        export(form, out)
        assert contents(out) == whole
        assert not (out / WORK).exists()
    assert kills > 2


@pytest.mark.parametrize("form", ["folder", "webdataset"])
def test_what_is_whole_is_not_done_again(
    export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: FormName
) -> None:
    out = tmp_path / "out"
    # export.json, the first part, its note, and the second part less one file.
    with killed_at(monkeypatch, {"folder": 7, "webdataset": 3}[form]):
        export(form, out)
    first = {"folder": 3, "webdataset": 1}[form]
    begun = identities(out)
    made = [name for name in sorted(begun) if WORK not in name]
    whole = [name for name in made if name.endswith((".png", ".tar"))][:first]
    export(form, out)
    ended = identities(out)
    assert len(whole) == first
    assert {name: ended[name] for name in whole} == {name: begun[name] for name in whole}


def test_a_part_that_lost_a_file_is_done_again(
    export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export("folder", tmp_path / "whole")
    with killed_at(monkeypatch, 7):
        export("folder", tmp_path / "out")
    next((tmp_path / "out").rglob("*.png")).unlink()
    export("folder", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_process_that_is_killed(export: Export, filled: RunDirectory, tmp_path: Path) -> None:
    export("webdataset", tmp_path / "whole")
    words = ["export", str(filled.path), "--to", "webdataset", "--all", "--shard-rows", "3"]
    words += ["--out", str(tmp_path / "out")]
    program = (
        "import os\nfrom pipeline.export.staging import Staging\n"
        "original, calls = Staging.place, iter((1, 2))\n"
        "def place(staging):\n"
        "    next(calls, None) or os.kill(os.getpid(), 9)\n"
        "    original(staging)\n"
        "Staging.place = place\nfrom pipeline.cli import main\nmain()"
    )
    killed = subprocess.run([sys.executable, "-c", program, *words], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed
    assert list((tmp_path / "out").rglob("staged/*"))
    assert len(list((tmp_path / "out").glob("*.tar"))) == 1
    export("webdataset", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_finished_export_is_left_alone(export: Export, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export("hf", out)
    before = identities(out)
    export("hf", out)
    assert identities(out) == before


def test_other_files_are_never_overwritten(filled: RunDirectory, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ExportError, match=r"notes\.txt, 1 in all, and no export of ours"):
            export_run(filled, "folder", out, EVERYTHING, overwrite=overwrite)
    (out / "export.json").write_text('{"entries": ["../x"], "layout_version": 1}')
    with pytest.raises(ExportError, match="no export of ours"):
        export_run(filled, "folder", out, EVERYTHING, overwrite=True)
    assert {path.name for path in out.iterdir()} == {"notes.txt", "export.json"}
    with pytest.raises(ExportError, match="is not a folder"):
        export_run(filled, "folder", out / "notes.txt", EVERYTHING)


def test_another_export_is_overwritten_if_asked(
    filled: RunDirectory, make_table: Callable[..., pa.Table], tmp_path: Path, call: Call
) -> None:
    out = tmp_path / "out"
    words = ("export", filled.path, "--all", "--out", out, "--to")
    assert call(*words, "folder")[0] == 0
    commit_rows(filled, make_table(["y"], category="bark", split="test"))
    (out / "notes.txt").write_text("mine")
    before = contents(out)
    code, _, err = call(*words, "folder")
    assert (code, contents(out)) == (2, before)
    assert "--overwrite replaces it" in err
    assert "  textures: 8 -> 9" in err
    code, _, err = call(*words, "hf")
    assert (code, '  form: "folder" -> "hf"' in err) == (2, True)
    for form in ("folder", "dtd"):
        assert call(*words, form, "--overwrite")[0] == 0
        export_run(filled, form, tmp_path / form, EVERYTHING)  # type: ignore[arg-type]
        assert contents(out) == {**contents(tmp_path / form), "notes.txt": b"mine"}


def test_killed_while_it_overwrites_the_old_export_is_whole_until_the_new_one_is(
    filled: RunDirectory, export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export("hf", tmp_path / "whole")
    export("webdataset", tmp_path / "old")
    whole, old = contents(tmp_path / "whole"), contents(tmp_path / "old")
    kept = 0
    for rename in range(0, 40, 3):
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(tmp_path / "old", out)
        (out / "notes.txt").write_text("mine")
        killed = False
        for times in (1, 2):
            with monkeypatch.context() as patches:
                kill_at(patches, rename // times)
                try:
                    export_run(filled, "hf", out, EVERYTHING, shard_rows=3, overwrite=True)
                except KilledError:
                    killed = True
            there = {name: data for name, data in contents(out).items() if WORK not in name}
            assert there.pop("notes.txt") == b"mine"
            if "manifest.csv" in there:
                assert there in (old, whole)
                kept += there == old
        export_run(filled, "hf", out, EVERYTHING, shard_rows=3, overwrite=True)
        assert contents(out) == {**whole, "notes.txt": b"mine"}
        if not killed:
            break
    assert kept > 3
    assert rename < 38


def test_killed_between_two_exports_it_goes_on_without_being_asked_to_overwrite(
    filled: RunDirectory, export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export("hf", tmp_path / "whole")
    export("webdataset", tmp_path / "old")
    seen = set()
    for rename in range(6, 40):
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(tmp_path / "old", out)
        with monkeypatch.context() as patches:
            kill_at(patches, rename)
            try:
                export_run(filled, "hf", out, EVERYTHING, shard_rows=3, overwrite=True)
                break
            except KilledError:
                begun = not (out / "manifest.csv").exists()
        seen.add(begun)
        if begun:
            found = identities(out)
            made = {found[name] for name in found if Path(name).parent.name == "data"}
            export("hf", out)
            assert contents(out) == contents(tmp_path / "whole")
            assert set(identities(out / "data").values()) == made
        else:
            with pytest.raises(ExportError, match="--overwrite replaces it"):
                export("hf", out)
    assert seen == {False, True}


def test_a_file_of_mine_with_a_name_of_the_new_export_is_not_overwritten(
    filled: RunDirectory, export: Export, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export("folder", out)
    (out / "README.md").write_text("mine")
    before = contents(out)
    with pytest.raises(ExportError, match=r"holds README\.md, 1 in all beside its export"):
        export_run(filled, "hf", out, EVERYTHING, overwrite=True)
    assert contents(out) == before
    export_run(filled, "folder", out, EVERYTHING, overwrite=True)
    assert contents(out) == before


@pytest.mark.parametrize("categories", [("bark",), ["bark"]])
def test_an_export_of_some_categories_goes_on(
    filled: RunDirectory, tmp_path: Path, categories: Any
) -> None:
    chosen = Selection(accepted_only=False, categories=categories)
    for _ in range(2):
        assert export_run(filled, "folder", tmp_path / "out", chosen) == 4


def test_a_damaged_file_of_the_run(
    filled: RunDirectory,
    tmp_path: Path,
    call: Call,
    damage_column: Callable[[Path, str], None],
) -> None:
    shard = min(filled.shards.glob("*.parquet"))
    whole = shard.read_bytes()
    damage_column(shard, "image.bytes")
    out = tmp_path / "out"
    words = ("export", filled.path, "--all", "--to", "hf", "--out", out)
    code, _, err = call(*words)
    assert code == 2
    assert shard.name in err
    assert "texsynth verify" in err
    assert not (out / "manifest.csv").exists()
    shard.write_bytes(whole)
    assert call(*words)[0] == 0


def test_two_do_not_write_one_export(export: Export, tmp_path: Path) -> None:
    work = tmp_path / "out" / WORK
    work.mkdir(parents=True)
    with FileLock(work / "lock"), pytest.raises(ExportError, match="another process writes"):
        export("folder", tmp_path / "out")
    export("folder", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "export.json").read_text())["textures"] == 8


@pytest.mark.parametrize("overwrite", [False, True])
def test_many_at_once_make_one_export(
    filled: RunDirectory, export: Export, tmp_path: Path, *, overwrite: bool
) -> None:
    export("folder", tmp_path / "whole")
    out = tmp_path / "out"
    if overwrite:
        export_run(filled, "hf", out, EVERYTHING)
    refusals = []

    def call() -> None:
        for _ in range(4):
            try:
                export_run(filled, "folder", out, EVERYTHING, overwrite=overwrite)
            except ExportError as error:
                refusals.append(str(error))

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(call) for _ in range(4)]:
            future.result()
    assert all("another process writes" in refusal for refusal in refusals)
    assert contents(out) == contents(tmp_path / "whole")


@pytest.fixture
def crowded_disk(small_disk: Path) -> Iterator[Callable[[int], None]]:
    """Leaves so many KiB free."""
    yield lambda free: fill(small_disk / "filler", free)
    (small_disk / "filler").unlink(missing_ok=True)


def fill(filler: Path, free_kib: int) -> None:
    filler.write_bytes(b"0" * (shutil.disk_usage(filler.parent).free - free_kib * 1024))


@pytest.mark.parametrize(("form", "free_kib"), [("folder", 24), ("webdataset", 24), ("hf", 0)])
def test_a_full_disk(
    filled: RunDirectory,
    tmp_path: Path,
    small_disk: Path,
    crowded_disk: Callable[[int], None],
    call: Call,
    form: FormName,
    free_kib: int,
) -> None:
    crowded_disk(free_kib)
    out = small_disk / "out"
    code, _, err = call("export", filled.path, "--all", "--to", form, "--out", out)
    assert code == 2
    assert "No space left on device" in err
    assert str(out) in err
    assert not list(out.rglob("staged/*"))
    (small_disk / "filler").unlink()
    assert call("export", filled.path, "--all", "--to", form, "--out", out)[0] == 0
    export_run(filled, form, tmp_path / "whole", EVERYTHING)
    assert contents(out) == contents(tmp_path / "whole")


def test_a_disk_that_is_full_while_it_overwrites_leaves_the_old_export(
    filled: RunDirectory, small_disk: Path, crowded_disk: Callable[[int], None], call: Call
) -> None:
    out = small_disk / "out"
    export_run(filled, "folder", out, EVERYTHING)
    old = contents(out)
    crowded_disk(16)
    words = ("export", filled.path, "--all", "--to", "webdataset", "--out", out, "--overwrite")
    code, _, err = call(*words)
    assert (code, "No space left on device" in err) == (2, True)
    assert {name: data for name, data in contents(out).items() if WORK not in name} == old
    export_run(filled, "folder", out, EVERYTHING)
    assert contents(out) == old
    (small_disk / "filler").unlink()
    assert call(*words)[0] == 0
    assert (out / "train-000000.tar").exists()
    assert not (out / "bark").exists()
