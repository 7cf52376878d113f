"""A disk that fills up: a clear error, nothing committed is lost, and the same command goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest

MakeStory = Callable[..., Any]

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(280)]

STEPS = ("build", "swap", "metrics", "success")
"""Of finalize; that which removes the shards makes the space that the last one needs."""
FILL = {"do": "fill"}


def fill(disk: Path) -> None:
    """Leave not one block."""

    def write_on(file: BinaryIO) -> None:
        while True:
            file.write(b"0" * 4096)

    no_space = pytest.raises(OSError, match="No space left")
    with (disk / "filler").open("ab", buffering=0) as file, no_space:
        write_on(file)


def assert_says_disk_is_full(story: Any, ended: Any) -> None:
    assert ended.code == 2, ended
    assert "Traceback" not in ended.errors
    error = ended.errors.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert "No space left on device" in error
    assert str(story.out) in error


def assert_goes_on(story: Any, end: Callable[..., Any]) -> None:
    """With space again, the same command finishes what was begun."""
    story.keep()
    (story.out.parent / "filler").unlink()
    again = end(*story.command())
    assert again.code == 0, again.errors
    assert {row["status"] for row in story.assert_finished().values()} == {"ok"}


@pytest.mark.parametrize("there", [False, True], ids=["disk-full-before", "disk-full-before-more"])
def test_a_disk_that_is_full_from_the_beginning(
    make_story: MakeStory, small_disk: Path, there: bool
) -> None:
    story = make_story(folder=small_disk, executor="inline")
    if there:
        story.here(*story.command("--limit=2"))
    fill(small_disk)
    assert_says_disk_is_full(story, story.here(*story.command()))
    assert len(story.keep()) == 2 * there
    assert_goes_on(story, story.here)


@pytest.mark.parametrize(
    "executor",
    [
        pytest.param("inline", id="disk-full-middle"),
        pytest.param("ray", id="disk-full-middle-ray", marks=pytest.mark.slow),
    ],
)
def test_a_disk_that_fills_up_in_the_middle(
    make_story: MakeStory, small_disk: Path, executor: str
) -> None:
    story = make_story(folder=small_disk, executor=executor)
    end = story.here if executor == "inline" else story.elsewhere
    ended = end(*story.command(), faults=[{"at": "task", "rows": 3, **FILL}])
    assert_says_disk_is_full(story, ended)
    assert 3 <= len(story.keep()) < len(story.ids)
    assert_says_disk_is_full(story, end(*story.command()))
    for command in ("status", "verify"):
        seen = story.here(command, str(story.out))
        assert "Traceback" not in seen.output + seen.errors
    assert_goes_on(story, end)


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(
            step,
            id=f"disk-full-finalize-{step}",
            marks=[pytest.mark.slow] if step != "build" else [],
        )
        for step in STEPS
    ],
)
def test_a_disk_that_fills_up_in_finalize(
    make_story: MakeStory, small_disk: Path, step: str
) -> None:
    story = make_story(folder=small_disk, executor="inline")
    once = str(story.folder / "once")
    ended = story.here(*story.command(), faults=[{"at": step, "once": once, **FILL}])
    assert_says_disk_is_full(story, ended)
    assert len(story.keep()) == len(story.ids)
    assert not (story.out / "_SUCCESS").exists()
    assert_goes_on(story, story.here)
