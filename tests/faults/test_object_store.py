"""Faults of the matrix, with the run directory in an object store; images and weights, too."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.rundir import RunDirectory
from pipeline.storage import ObjectPath

MakeStory = Callable[..., Any]

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(280)]


@pytest.fixture
def stored(bucket: ObjectPath, weights_file: Path, make_story: MakeStory) -> MakeStory:
    """Makes a story of which nothing is local."""

    def make(**options: Any) -> Any:
        (bucket / weights_file.name).upload(weights_file)
        weights = str(bucket / weights_file.name)
        story = make_story(folder=bucket, weights=weights, **options)
        put_sources(story, bucket)
        return story

    return make


def put_sources(story: Any, bucket: ObjectPath) -> None:
    """Copy manifest and images; the story's own command goes by its local manifest."""
    (bucket / "manifest.csv").upload(story.manifest)
    for path in (story.folder / "images").iterdir():
        (bucket / "images" / path.name).upload(path)


def command(story: Any, *words: str) -> list[str]:
    """`texsynth run` by URIs alone."""
    manifest = str(story.out.parent / "manifest.csv")
    return ["run", manifest, "--out", str(story.out), *story.options, *words]


@pytest.mark.parametrize(
    ("bucket", "executor"),
    [
        ("s3", "inline"),
        pytest.param("gs", "inline", marks=pytest.mark.slow),
        pytest.param("az", "inline", marks=pytest.mark.slow),
        pytest.param("gs", "ray", marks=pytest.mark.slow),
        pytest.param("az", "ray", marks=pytest.mark.slow),
    ],
    indirect=["bucket"],
)
def test_a_killed_run_in_a_bucket_goes_on(
    stored: MakeStory, bucket: ObjectPath, executor: str
) -> None:
    story = stored(executor=executor, size=16)
    kill = {"do": "driver-sigkill", "at": "task", "rows": 3, "once": str(story.folder / "once")}
    ended = story.elsewhere(*command(story), faults=[kill])
    assert ended.code == -signal.SIGKILL, ended
    assert 3 <= len(story.keep()) < len(story.ids)
    status = story.here("status", str(story.out))
    assert "crashed" in status.output, status
    # Ray warns of its own old ways, which would end this process.
    again = (story.elsewhere if executor == "ray" else story.here)(*command(story))
    assert again.code == 0, again
    assert {row["status"] for row in story.assert_finished().values()} == {"ok"}
    # Nothing is left but what a finished run has, and the lock that was let go.
    names = {path.name for path in story.out.iterdir()}
    assert not Path(f"{bucket.scheme}:").exists()
    assert len(names - set(FINISHED)) == 1, names
    asked = story.here("query", str(story.out), "SELECT count(*) AS rows FROM metrics")
    assert (asked.code, "8" in asked.output) == (0, True), asked
    assert RunDirectory(story.out).textures.is_dir()


@pytest.mark.parametrize("bucket", ["gs", "az"], indirect=True)
def test_a_run_goes_from_a_bucket_into_it(stored: MakeStory, bucket: ObjectPath) -> None:
    story = stored(executor="inline", size=16)
    ended = story.here(*command(story))
    assert ended.code == 0, ended
    assert {row["status"] for row in story.assert_finished().values()} == {"ok"}
    status = story.here("status", str(story.out))
    assert (status.code, "a run: finished" in status.output) == (0, True), status
    again = story.here(*command(story))
    assert again.code == 0, again
    assert {path.name for path in story.out.iterdir()} == {*FINISHED, ".lock-000002"}


FINISHED = (
    *("run.json", "tasks.parquet", "pending.parquet", "session.json", "log", "textures"),
    *("metrics.parquet", "_SUCCESS"),
)
