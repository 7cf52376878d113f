"""Each fault, before the first row, in the middle and during finalize; then the same command again.

docs/reliability.md has a line for every fault; test_page.py compares the two.
"""

from __future__ import annotations

import signal
import struct
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import pytest

MakeStory = Callable[..., Any]

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(280)]


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.slow)])
def storage(request: pytest.FixtureRequest) -> str:
    """Where run directories are."""
    return str(request.param)


ROWS = {"before": 0, "middle": 3}
"""Committed rows after which a fault strikes, by phase."""
EXEMPLARS = {"before": "e0", "middle": "e4"}
"""Which exemplar is struck, where it is a task's fault, by phase."""
STEPS = ("build", "swap", "metrics", "remove", "success")
SIGNALS = {
    "driver-sigkill": -signal.SIGKILL,
    "driver-sigterm": 128 + signal.SIGTERM,
    "driver-sigint": 128 + signal.SIGINT,
    "driver-twice": 128 + signal.SIGTERM,
}
"""Exit code by fault."""
POISON_SECONDS = 300.0
"""Ten deaths of an actor, four of them after a hang, each followed by the start of another."""
DEATHS = ("exit", "sigkill", "segfault", "sigstop", "hang")
"""What ends the process of an actor; the last two by its watchdog."""


def crossed(
    faults: Iterable[str], phases: Iterable[str], quick: Callable[[str, str], bool]
) -> list[Any]:
    """A parameter for every pair, named after it; those that are not quick are left to test-all."""
    return [
        pytest.param(
            fault,
            phase,
            id=f"{fault}-{phase}",
            marks=() if quick(fault, phase) else pytest.mark.slow,
        )
        for fault in faults
        for phase in phases
    ]


def as_png(width: int, height: int, data: bytes) -> bytes:
    """A PNG that says it has this size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


SOURCES: dict[str, bytes | None] = {
    "image-missing": None,
    "image-empty": b"",
    "image-truncated": as_png(64, 64, bytes(64 * 193))[:60],
    "image-bomb": as_png(60_000, 60_000, bytes(100_000)),
    "image-foreign": b"%PDF-1.7\nno image at all\n",
}


@pytest.mark.parametrize(
    ("fault", "phase"), crossed(SIGNALS, ROWS, lambda fault, phase: phase == "middle")
)
def test_a_driver_that_ends(make_story: MakeStory, fault: str, phase: str) -> None:
    story = make_story(executor="inline")
    at_work = {"do": fault, "at": "task", "rows": ROWS[phase], "once": str(story.folder / "once")}
    ended = story.elsewhere(*story.command(), faults=[at_work])
    assert (ended.code, "Traceback" in ended.errors) == (SIGNALS[fault], False), ended
    assert ROWS[phase] <= len(story.keep()) < len(story.ids)
    assert story.here(*story.command()).code == 0
    assert {row["status"] for row in story.assert_finished().values()} == {"ok"}


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "phase"), crossed(SIGNALS, ROWS, lambda *_: False))
def test_a_driver_that_ends_under_ray(make_story: MakeStory, fault: str, phase: str) -> None:
    story = make_story()
    at_work = {"do": fault, "at": "task", "rows": ROWS[phase], "once": str(story.folder / "once")}
    ended = story.elsewhere(*story.command(), faults=[at_work])
    assert (ended.code, "Traceback" in ended.errors) == (SIGNALS[fault], False), ended
    assert len(story.keep()) >= ROWS[phase]
    again = story.elsewhere(*story.command())
    assert again.code == 0, again.errors
    assert {row["status"] for row in story.assert_finished().values()} == {"ok"}


@pytest.mark.parametrize(
    ("fault", "step"),
    crossed(
        ["driver-sigkill", "driver-sigterm", "driver-sigint"],
        [f"finalize-{step}" for step in STEPS],
        lambda fault, step: fault == "driver-sigkill" and step == "finalize-swap",
    ),
)
def test_a_driver_that_ends_in_finalize(
    make_story: MakeStory, storage: str, fault: str, step: str
) -> None:
    if storage == "s3" and step == "finalize-swap":
        pytest.skip("an object store is not swapped")
    story = make_story(executor="inline")
    assert story.here(*story.command("--limit=3")).code == 0
    story.keep()
    before_step = {"do": fault, "at": step.removeprefix("finalize-")}
    ended = story.elsewhere(*story.command(), faults=[before_step])
    assert (ended.code, "Traceback" in ended.errors) == (SIGNALS[fault], False), ended
    assert len(story.keep()) == len(story.ids)
    assert not (story.out / "_SUCCESS").exists()
    again = story.here(*story.command())
    assert (again.code, "(0 in this run)" in again.output) == (0, True)
    assert {row["status"] for row in story.assert_finished().values()} == {"ok"}


def assert_over(story: Any, expected: dict[str, str]) -> dict[str, Any]:
    """The run is finished, these tasks have these statuses, and going on changes nothing."""
    rows = story.assert_finished()
    wrong = {task: row["status"] for task, row in rows.items() if row["status"] != "ok"}
    assert wrong == expected
    again = story.here(*story.command())
    assert (again.code, "(0 in this run)" in again.output) == (3 if expected else 0, True)
    return story.assert_finished()


def assert_mended(story: Any, tasks: Iterable[str]) -> None:
    """Without the fault a retry does these tasks, and no others, again."""
    for task in tasks:
        del story.kept[task]
    retried = story.here("retry", str(story.out))
    assert retried.code == 0, retried.output
    assert {row["status"] for row in story.assert_finished().values()} == {"ok"}


@pytest.mark.parametrize(
    ("fault", "phase"), crossed(SOURCES, EXEMPLARS, lambda fault, phase: phase == "middle")
)
def test_a_source_that_is_no_image(make_story: MakeStory, fault: str, phase: str) -> None:
    story = make_story(executor="inline")
    name = EXEMPLARS[phase]
    story.write_manifest(sources={name: SOURCES[fault]})
    ended = story.here(*story.command())
    assert (ended.code, ended.errors) == (3, "")
    row = assert_over(story, {f"{name}-c0-v0": "failed"})[f"{name}-c0-v0"]
    assert row["error_type"] == "ImageError"
    assert f"images/{name}.png" in row["error"]
    story.write_manifest()
    assert_mended(story, [f"{name}-c0-v0"])


TASK_FAULTS: dict[str, tuple[dict[str, Any], str | None, str | None]] = {
    "loss-nan": ({"do": "nan"}, "failed", "NonFiniteLossError"),
    "memory-lanes": ({"do": "memory", "lanes": 1}, None, None),
    "memory-task": ({"do": "memory", "lanes": 0}, "failed", "MemoryError"),
    "task-timeout": ({"do": "slow"}, "timeout", None),
    "error-unforeseen": ({"do": "raise"}, "failed", "ZeroDivisionError"),
}
"""What is injected, the status of the row, and its type of error."""


@pytest.mark.parametrize(
    ("fault", "phase"), crossed(TASK_FAULTS, EXEMPLARS, lambda fault, phase: phase == "middle")
)
def test_a_task_that_goes_wrong(make_story: MakeStory, fault: str, phase: str) -> None:
    injected, status, error_type = TASK_FAULTS[fault]
    name = EXEMPLARS[phase]
    story = make_story(executor="inline", lanes=2, task_timeout=2.5)
    faults = [{"at": "task", "exemplar": name, **injected}]
    ended = story.here(*story.command(), faults=faults)
    assert (ended.code, "Traceback" in ended.errors) == (3 if status else 0, False), ended
    task = f"{name}-c0-v0"
    rows = story.rows()
    assert rows[task]["error_type"] == error_type
    if status:
        # What is slow for one lane is slow for those beside it.
        beside = {t: "timeout" for t, row in rows.items() if row["status"] == "timeout"}
        struck = assert_over(story, {task: status, **beside})
        assert_mended(story, [t for t, row in struck.items() if row["status"] != "ok"])
    else:
        assert_over(story, {})


@pytest.mark.parametrize(
    ("fault", "phase"), crossed([f"actor-{d}" for d in DEATHS], ROWS, lambda fault, phase: False)
)
def test_an_actor_that_dies_once(make_story: MakeStory, fault: str, phase: str) -> None:
    do = fault.removeprefix("actor-")
    # On a busy machine a few seconds of silence are no sign of death, unless they are looked for.
    story = make_story(hang_timeout=4 if do in ("sigstop", "hang") else 60)
    once = story.folder / "once"
    death = {"do": do, "at": "task", "rows": ROWS[phase], "once": str(once)}
    ended = story.elsewhere(*story.command(), faults=[death])
    assert (ended.code, once.exists()) == (0, True), ended.errors
    rows = assert_over(story, {})
    assert sorted(row["attempts"] for row in rows.values()) == [1] * 7 + [2]


@pytest.mark.timeout(2 * POISON_SECONDS)
@pytest.mark.parametrize(
    ("fault", "phase"), crossed(["poison"], ROWS, lambda fault, phase: phase == "middle")
)
def test_tasks_that_always_end_their_process(make_story: MakeStory, fault: str, phase: str) -> None:
    story = make_story(hang_timeout=4, max_attempts=2, lanes=2)
    poisons = [f"{fault}-{death}" for death in DEATHS]
    ids = ["e0", "e1", "e2", "e3"]
    story.write_manifest([*poisons, *ids] if phase == "before" else [*ids, *poisons, "e4"])
    faults = [{"do": d, "at": "task", "exemplar": f"{fault}-{d}"} for d in DEATHS]
    ended = story.elsewhere(*story.command(), faults=faults, timeout=POISON_SECONDS)
    assert ended.code == 3, ended.errors
    tasks = [f"{poison}-c0-v0" for poison in poisons]
    rows = assert_over(story, dict.fromkeys(tasks, "quarantined"))
    assert {(rows[t]["attempts"], rows[t]["error_type"]) for t in tasks} == {
        (2, "ProcessDeathError")
    }
    if phase == "before":
        for task in tasks:
            del story.kept[task]
        retried = story.elsewhere("retry", str(story.out))
        assert retried.code == 0, retried.errors
        assert {row["status"] for row in story.assert_finished().values()} == {"ok"}
