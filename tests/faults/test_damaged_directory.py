"""Truncated, empty and foreign files in a run directory, and what the commands say about them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from pipeline.lane_checkpoints import KEY

MakeStory = Callable[..., Any]

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("one_thread")]

ATTEMPT = {"number": 1, "begun_at": "2026-01-02T03:04:05+00:00"}
WHOLE = {
    "attempts/gone.json": json.dumps(
        {"actor": "a", "host": "h", "pid": 1, "session": None, "tasks": {"e7-c0-v0": ATTEMPT}}
    ).encode(),
    "checkpoints/gone.safetensors": save(
        {"image": np.zeros((3, 32, 32), np.float32)}, {KEY: '{"task_id": "e7-c0-v0", "seed": 0}'}
    ),
    "_SUCCESS": b'{"tasks": 3}\n',
}
"""Files that an interrupted run has not, or need not have."""
KINDS: dict[str, Callable[[bytes], bytes | None]] = {
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "foreign": lambda data: b"%PDF-1.7\nof somebody else\n",
    "folder": lambda data: None,
}
STATUS_NAMES = {
    "tasks.parquet",
    "pending.parquet",
    "session.json",
    "metrics.parquet",
    "attempts/gone.json",
    "checkpoints/gone.safetensors",
    "shards",
    "textures",
}
VERIFY_NAMES = STATUS_NAMES - {"pending.parquet", "session.json"} | {"_SUCCESS"}
RUN_NAMES = {"attempts/gone.json", "checkpoints/gone.safetensors", "shards", "textures"}
"""What each command names, whatever the damage; `run` writes the other files anew."""
WRITTEN = {
    *("tasks.parquet", "pending.parquet", "session.json", "metrics.parquet", "_SUCCESS"),
    # Named after its rows: the same ones, done again, have the same file.
    "shards",
}
"""What `run` writes; a folder of that name is in its way."""


@pytest.fixture
def interrupted(make_story: MakeStory) -> Any:
    """Three rows in `textures/`, three in `shards/`, two missing."""
    story = make_story(executor="inline", task_timeout=60)
    assert story.here(*story.command("--limit=3")).code == 0
    faults = [{"do": "driver-sigint", "at": "build"}]
    assert story.here(*story.command("--limit=6"), faults=faults).code == 130
    assert len(list(story.out.glob("textures/*.parquet"))) == 1
    for name, data in WHOLE.items():
        (story.out / name).write_bytes(data)
    return story


def place_of(story: Any, name: str) -> Path:
    """The file that a name stands for: a folder of rows stands for the first file in it."""
    if name in ("shards", "textures"):
        return sorted((story.out / name).glob("*.parquet"))[0]
    return story.out / name


def spoil(path: Path, kind: str) -> None:
    data = KINDS[kind](path.read_bytes())
    path.unlink()
    if data is None:
        path.mkdir()
    else:
        path.write_bytes(data)


def shown(path: Path, story: Any) -> str:
    return str(path.relative_to(story.out))


def assert_said(ended: Any, code: int, names: set[str]) -> None:
    said = ended.output + ended.errors
    assert ended.code == code, said
    assert "Traceback" not in said
    assert {name for name in names if name not in said} == set(), said


def go_on(story: Any, damaged: dict[str, Path], kind: str) -> None:
    """All three commands name the damage, and `run` does what it can beside it."""

    def named(names: set[str]) -> set[str]:
        return {shown(path, story) for name, path in damaged.items() if name in names}

    assert_said(story.here("status", str(story.out)), 0, named(STATUS_NAMES))
    # Two tasks are missing, whatever else is wrong.
    assert_said(story.here("verify", str(story.out)), 3, named(VERIFY_NAMES))
    blocking = kind == "folder" and set(damaged) & WRITTEN
    ended = story.here(*story.command())
    if blocking:
        assert_said(ended, 2, named(WRITTEN))
    else:
        assert_said(ended, 0, named(RUN_NAMES))
        assert "(2 in this run)" in ended.output or set(damaged) & {"shards", "textures"}


def assert_mended(story: Any, damaged: dict[str, Path], kind: str) -> None:
    """Once what is in the way is moved away, the run ends as if nothing had been damaged."""
    places = [path for name, path in damaged.items() if name in RUN_NAMES or kind == "folder"]
    for place in [*places, *story.out.glob("_replaced-*")]:
        if place.exists():
            place.rename(story.folder / f"away-{place.parent.name}-{place.name}")
    assert story.here(*story.command()).code == 0
    story.assert_finished()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", sorted({*STATUS_NAMES, *VERIFY_NAMES} - {"run.json"}))
def test_one_damaged_file(interrupted: Any, name: str, kind: str) -> None:
    damaged = {name: place_of(interrupted, name)}
    spoil(damaged[name], kind)
    go_on(interrupted, damaged, kind)
    assert_mended(interrupted, damaged, kind)


@pytest.mark.parametrize("kind", ["truncated", "empty", "foreign"])
def test_many_damaged_files(interrupted: Any, kind: str) -> None:
    names = {*STATUS_NAMES, *VERIFY_NAMES} - {"run.json"}
    damaged = {name: place_of(interrupted, name) for name in names}
    for path in damaged.values():
        spoil(path, kind)
    go_on(interrupted, damaged, kind)
    assert_mended(interrupted, damaged, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_record_of_the_run(interrupted: Any, kind: str) -> None:
    path = interrupted.out / "run.json"
    whole = path.read_bytes()
    spoil(path, kind)
    assert_said(interrupted.here("status", str(interrupted.out)), 0, {"run.json", "put back"})
    assert_said(interrupted.here("verify", str(interrupted.out)), 3, {"run.json", "put back"})
    commands = [("finalize", str(interrupted.out)), ("retry", str(interrupted.out))]
    for words in [*commands, interrupted.command()]:
        assert_said(interrupted.here(*words), 2, {"run.json", "put back a copy"})
    path.rename(interrupted.folder / "moved away")
    path.write_bytes(whole)
    assert_mended(interrupted, {}, kind)


def test_foreign_files_in_every_folder(interrupted: Any) -> None:
    folders = ("", "shards/", "textures/", "attempts/", "checkpoints/")
    names = {f"{folder}notes.txt" for folder in folders}
    for name in names:
        (interrupted.out / name).write_text("of somebody else")
    assert_said(interrupted.here("status", str(interrupted.out)), 0, names)
    assert_said(interrupted.here("verify", str(interrupted.out)), 3, names)
    assert_said(interrupted.here(*interrupted.command()), 0, names)
    left = sorted(interrupted.out.rglob("notes.txt"))
    assert len(left) == len(folders)
    for number, path in enumerate(left):
        path.rename(interrupted.folder / f"notes-{number}.txt")
    assert_mended(interrupted, {}, "foreign")
