"""Leaks into held-out splits: as a loop over all pairs finds them, and nothing passed over."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import imagehash
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.dealt import load_dealt_manifest
from pipeline.fingerprints import HASH_SIDE, MAX_DISTANCE, REDUCED_SIDE
from pipeline.leaks import check_leaks
from pipeline.manifest import load_manifest
from pipeline.parents import load_textures
from pipeline.rundir import RunDirectory
from pipeline.splits import SplitError

Call = Callable[..., tuple[int, str, str]]
IDS = ("a", "again", "copy", "b", "mirrored", "c", "d", "broken")
SPLIT = st.sampled_from(["train", "val", "test", None])
EACH_RUN = settings(
    max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


def write_manifest(folder: Path, splits: Mapping[str, str | None], **more: object) -> Path:
    path = folder / "m.parquet"
    columns = {"exemplar_id": list(splits), "path": list(splits), **more}
    of_row = pa.array(list(splits.values()), pa.string())
    pq.write_table(pa.table(columns | {"split_2": of_row}), path)
    return path


def differs(first: Image.Image, second: Image.Image) -> int:
    rows = imagehash.dhash(first, HASH_SIDE) - imagehash.dhash(second, HASH_SIDE)
    columns = imagehash.dhash_vertical(first, HASH_SIDE)
    return int(rows + (columns - imagehash.dhash_vertical(second, HASH_SIDE)))


@cache
def look(folder: Path, parent: str, held_out: str) -> str | None:
    """Why a parent leaks by a held-out exemplar, found the slow way; None if it does not."""
    if parent == held_out:
        return "parent"
    first, second = (folder / name for name in (parent, held_out))
    if hashlib.sha256(first.read_bytes()).digest() == hashlib.sha256(second.read_bytes()).digest():
        return "duplicate"
    side = (REDUCED_SIDE, REDUCED_SIDE)
    small, other = (
        Image.open(path).convert("L").resize(side, Image.Resampling.LANCZOS)
        for path in (first, second)
    )
    turned = [small, *(small.transpose(way) for way in Image.Transpose)]
    least = min(differs(one, other) for one in turned)
    return "near duplicate" if least <= MAX_DISTANCE else None


@EACH_RUN
@given(splits=st.fixed_dictionaries(dict.fromkeys(IDS[:-1], SPLIT)))
def test_the_verdict_is_that_of_a_loop_over_all_pairs(
    pictures_run: tuple[RunDirectory, Path], splits: dict[str, str | None]
) -> None:
    run, folder = pictures_run
    dealt = load_dealt_manifest(write_manifest(folder, splits), partition=2)
    held_out = [name for name, split in splits.items() if split in ("val", "test")]
    if not held_out:
        with pytest.raises(SplitError):
            check_leaks(run, dealt)
        return
    expected = {}
    for parent in IDS[:-1]:
        reasons = {look(folder, parent, name) for name in held_out}
        for why in ("near duplicate", "duplicate", "parent"):
            if why in reasons:
                expected[parent] = why
    report = check_leaks(run, dealt)
    assert {leak.parent.exemplar_id: leak.why for leak in report.leaks} == expected
    assert report.ok == (not expected)
    assert all(leak.found.split in ("val", "test") for leak in report.leaks)
    blended = "b" in expected or "d" in expected
    of_row = {name: name in expected for name in IDS[:-1]} | {"d": blended}
    assert report.leaking_rows == sum(of_row.values()) + of_row["c"]


def test_rows_without_a_texture_do_not_count_and_blends_have_two_parents(
    pictures_run: tuple[RunDirectory, Path],
) -> None:
    textures = load_textures(pictures_run[0])
    counts = {parent.exemplar_id: count for parent, count in textures.count_rows().items()}
    assert counts == {"a": 1, "again": 1, "copy": 1, "b": 2, "mirrored": 1, "c": 2, "d": 1}
    assert all(parent.path == parent.exemplar_id for parent in textures.count_rows())
    assert textures.without_texture == 1


def test_what_leaks_is_listed_with_code_3(
    pictures_run: tuple[RunDirectory, Path], call: Call
) -> None:
    run, folder = pictures_run
    splits = dict.fromkeys(IDS, "train") | {"copy": "test", "mirrored": "val"}
    manifest = write_manifest(folder, splits)
    code, out, _ = call("leakcheck", run.path, "--against", manifest, "--partition", "2")
    assert code == 3
    leaks = [line for line in out.splitlines() if line.startswith("leak: ")]
    assert len(leaks) == 5
    assert "1 row of 'copy': it is test row 3, 'copy', 'copy'" in out
    assert "1 row of 'a': the same file as test row 3" in out
    assert (
        "2 rows of 'b': the same picture as val row 5, 'mirrored', 'mirrored' (0 bits differ)"
        in out
    )
    assert "not checked" not in out
    code, out, _ = call("leakcheck", run.path, "--against", manifest, "--partition", "2", "--json")
    values = json.loads(out)
    assert (code, values["ok"], len(values["leaks"]), values["not_checked"]) == (3, False, 5, [])


def test_code_0_if_nothing_leaks_and_2_if_the_manifest_cannot_say(
    pictures_run: tuple[RunDirectory, Path], call: Call, tmp_path: Path
) -> None:
    run, folder = pictures_run
    Image.linear_gradient("L").save(folder / "other.png")
    splits = dict.fromkeys(IDS, "train") | {"other.png": "val"}
    command = ("leakcheck", run.path, "--against", write_manifest(folder, splits))
    code, out, _ = call(*command, "--partition", "2")
    assert (code, "no leak: " in out) == (0, True)
    for options, reason in (((), "no column 'split'"), (("--partition", "3"), "it has split_2")):
        code, _, error = call(*command, *options)
        assert (code, reason in error) == (2, True)
    for wrong, reason in (("dev", "expected train, val, test"), ("train", "expected rows of test")):
        write_manifest(folder, splits | {"other.png": wrong})
        code, _, error = call(*command, "--partition", "2")
        assert (code, reason in error) == (2, True)
    assert call("leakcheck", tmp_path, "--against", command[3])[0] == 2


def test_what_cannot_be_looked_at_is_named_and_no_pass(
    pictures_run: tuple[RunDirectory, Path], call: Call
) -> None:
    run, folder = pictures_run
    splits = {"b": "train", "broken": "test", "absent": "val"}
    command = (
        "leakcheck",
        run.path,
        "--against",
        write_manifest(folder, splits),
        "--partition",
        "2",
    )
    (folder / "c").unlink()
    Image.new("RGB", (9, 9)).save(folder / "d", "PNG")
    code, out, _ = call(*command)
    assert code == 3
    lines = [line for line in out.splitlines() if line.startswith("not checked: ")]
    assert len(lines) == 4
    for text in ("row 2 (test, 'broken')", "row 3 (val, 'absent')", "parent 'c'", "parent 'd'"):
        assert any(text in line for line in lines)
    assert "no leak found, but not everything could be looked at" in out


def test_a_file_with_another_checksum_than_the_manifest_says_is_named(
    pictures_run: tuple[RunDirectory, Path],
) -> None:
    run, folder = pictures_run
    (known,) = {
        parent.sha256 for parent in load_textures(run).count_rows() if parent.exemplar_id == "c"
    }
    splits = {"a": "train", "mirrored": "test"}
    manifest = write_manifest(folder, splits, sha256=[None, known])
    report = check_leaks(run, load_dealt_manifest(manifest, partition=2))
    assert len(report.unread_rows) == 1
    assert f"the manifest says {known}" in report.unread_rows[0]
    why = {leak.parent.exemplar_id: leak.why for leak in report.leaks}
    assert why == {"mirrored": "parent", "b": "near duplicate", "c": "duplicate"}


def test_a_run_whose_images_moved_is_checked_by_those_of_the_manifest(
    pictures_run: tuple[RunDirectory, Path], tmp_path: Path
) -> None:
    run, folder = pictures_run
    splits = dict.fromkeys(IDS[:-1], "train") | {"mirrored": "test"}
    manifest = write_manifest(tmp_path, splits)
    moved = folder.rename(tmp_path / "moved")
    report = check_leaks(run, load_dealt_manifest(manifest, root=str(moved), partition=2))
    assert {leak.parent.exemplar_id for leak in report.leaks} == {"b", "mirrored"}
    assert not report.unread_parents
    assert load_manifest(manifest, root=moved).root == str(moved)


def test_a_damaged_file_of_the_run_is_no_pass(
    pictures_run: tuple[RunDirectory, Path],
) -> None:
    run, folder = pictures_run
    splits = dict.fromkeys(IDS[:-1], "train") | {"c": "test"}
    (run.shards / "part-0.parquet").write_bytes(b"PAR1 damaged")
    report = check_leaks(run, load_dealt_manifest(write_manifest(folder, splits), partition=2))
    assert len(report.unread_files) == 1
    assert not report.ok
