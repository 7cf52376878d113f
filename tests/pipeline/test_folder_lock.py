"""The lock of a folder that goes with it."""

from pathlib import Path

import pytest

from pipeline.folder_lock import FolderBusyError, hold_folder


def test_a_folder_that_goes_while_it_is_made_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, original, calls = tmp_path / "folder", Path.mkdir, []

    def mkdir(path: Path, *arguments: int, **more: bool) -> None:
        calls.append(path)
        if len(calls) == 1:
            raise FileExistsError(17, "File exists", str(path))
        original(path, *arguments, **more)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with hold_folder(folder, "lock"):
        assert folder.is_dir()
    assert len(calls) > 1


def test_a_file_in_its_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "folder").touch()
    with pytest.raises(FileExistsError), hold_folder(tmp_path / "folder", "lock"):
        raise AssertionError("unreachable")


def test_the_second_is_refused(tmp_path: Path) -> None:
    with (
        hold_folder(tmp_path, "lock"),
        pytest.raises(FolderBusyError, match="is locked"),
        hold_folder(tmp_path, "lock"),
    ):
        raise AssertionError("unreachable")
