from pathlib import Path

import pytest

from pipeline.object_tree import COPYING, list_names, list_tree, move_tree, remove_tree, upload_tree
from pipeline.storage import ObjectPath


def contents(folder: ObjectPath) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in list_names(folder)}


def test_a_tree_is_put_its_last_file_after_all_others(
    bucket: ObjectPath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    names = ["a/b/1", "a/2", "page"]
    for name in names:
        (tmp_path / name).write_text(name)
    put = []
    upload = ObjectPath.upload

    def note(path: ObjectPath, file: Path) -> None:
        upload(path, file)
        put.append(path.uri)

    monkeypatch.setattr(ObjectPath, "upload", note)
    upload_tree(tmp_path, bucket / "x", last="page")
    assert contents(bucket / "x") == {name: name.encode() for name in names}
    assert list_names(bucket / "x") == list_names(tmp_path)
    assert put[-1] == f"{bucket}/x/page"
    assert sorted(map(str, list_tree(bucket))) == sorted(put)


@pytest.mark.parametrize("copying", [COPYING, ()], ids=["by-the-store", "by-hand"])
def test_trees_are_moved_and_removed(
    bucket: ObjectPath, monkeypatch: pytest.MonkeyPatch, copying: tuple[str, ...]
) -> None:
    monkeypatch.setattr("pipeline.object_tree.COPYING", copying)
    for name in ("a/1", "a/b/2", "ab", "c"):
        (bucket / name).write_bytes(name.encode())
    move_tree(bucket / "a", bucket / "x" / "y")
    move_tree(bucket / "c", bucket / "d")
    moved = {"x/y/1": b"a/1", "x/y/b/2": b"a/b/2", "ab": b"ab", "d": b"c"}
    assert contents(bucket) == moved
    move_tree(bucket / "a", bucket / "z")
    remove_tree(bucket / "x")
    remove_tree(bucket / "d")
    assert contents(bucket) == {"ab": b"ab"}
