"""A run, a fault built into it, the same command again, and what must be true then."""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.cli import main
from pipeline.committed import open_parquet, read_committed
from pipeline.rundir import RunDirectory
from pipeline.storage import AnyPath, sorted_glob

INJECT = str(Path(__file__).with_name("inject.py"))
TEXSYNTH = (sys.executable, "-c", "from pipeline.cli import main; main()")
QUICK = {"size": 32, "evaluations": 5, "lanes": 1, "flush_seconds": 0.001}
IDS = [f"e{number}" for number in range(8)]
MARK = "TEXSYNTH_FAULTS_STORY"
"""Variable of the environment that all processes of a story inherit."""
GONE_SECONDS = 30.0
"""After which what a killed driver has left is killed, too."""


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    output: str
    errors: str


@dataclass
class Story:
    """A manifest of noise images and the run directory of its run.

    Attributes:
        folder: of the manifest.
        out: the run directory.
        options: of every `texsynth run`.
        environment: of every process.
        kept: `finished_at` by task id of the rows that must not change any more.
    """

    folder: Path
    out: AnyPath
    options: list[str]
    environment: dict[str, str]
    capture: Callable[[], tuple[str, str]]
    ids: list[str] = field(default_factory=list)
    kept: dict[str, Any] = field(default_factory=dict)

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest.csv"

    def write_manifest(
        self, ids: Iterable[str] = IDS, sources: Mapping[str, bytes | None] | None = None
    ) -> None:
        """Make images 40x48 px, other bytes for some, or none."""
        (self.folder / "images").mkdir(exist_ok=True)
        self.ids = list(ids)
        lines = ["exemplar_id,path,category"]
        for number, name in enumerate(self.ids):
            path = self.folder / f"images/{name}.png"
            pixels = np.random.default_rng(number).integers(0, 256, (40, 48, 3), np.uint8)
            Image.fromarray(pixels).save(path)
            if sources and name in sources:
                path.unlink()
                if sources[name] is not None:
                    path.write_bytes(sources[name])
            lines.append(f"{name},images/{name}.png,noise")
        self.manifest.write_text("\n".join(lines) + "\n")

    def command(self, *words: str) -> list[str]:
        """The words of `texsynth run`."""
        return ["run", str(self.manifest), "--out", str(self.out), *self.options, *words]

    def here(self, *words: str, faults: Collection[dict[str, Any]] = ()) -> Ended:
        """Run the command line in this process; faults that end it need `elsewhere`."""
        self.capture()
        argv = [INJECT, self._write_faults(faults), *words] if faults else ["texsynth", *words]
        with mock.patch.object(sys, "argv", argv), pytest.raises(SystemExit) as caught:
            runpy.run_path(INJECT, run_name="__main__") if faults else main()
        code = caught.value.code
        return Ended(int(code or 0), *self.capture())

    def start(
        self, *words: str, faults: Collection[dict[str, Any]] = (), output: int = subprocess.PIPE
    ) -> subprocess.Popen[str]:
        """Run the command line in a process group of its own."""
        program = (sys.executable, INJECT, self._write_faults(faults)) if faults else TEXSYNTH
        return subprocess.Popen(
            [*program, *words],
            stdout=output,
            stderr=output,
            text=True,
            env=self.environment,
            start_new_session=True,
        )

    def elsewhere(
        self, *words: str, faults: Collection[dict[str, Any]] = (), timeout: float = 200.0
    ) -> Ended:
        """Run the command line in a process of its own, to its end."""
        process = self.start(*words, faults=faults)
        try:
            output, errors = process.communicate(timeout=timeout)
        finally:
            process.kill()
        return Ended(process.returncode, output, errors)

    def rows(self) -> dict[str, dict[str, Any]]:
        """The committed rows by task id, without images."""
        table, problems = read_committed(RunDirectory(self.out))
        assert not problems
        return {row["task_id"]: row for row in table.to_pylist()}

    def keep(self) -> dict[str, dict[str, Any]]:
        """Note the rows that are committed by now: none of them may change."""
        rows = self.rows()
        assert {task: rows[task]["finished_at"] for task in self.kept} == self.kept
        self.kept = {task: row["finished_at"] for task, row in rows.items()}
        return rows

    def assert_finished(self, *, variations: int = 1) -> dict[str, dict[str, Any]]:
        """Every task has one row in the finished data set, and `verify` is content.

        Returns:
            The rows by task id.
        """
        verified = self.here("verify", str(self.out))
        assert verified.code == 0, verified.output
        expected = [f"{name}-c0-v{number}" for name in self.ids for number in range(variations)]
        columns = ["task_id", "finished_at"]
        textures = read_columns(sorted_glob(self.out / "textures", "*.parquet"), columns)
        assert sorted(textures["task_id"]) == sorted(expected)
        assert read_columns([self.out / "metrics.parquet"], columns).equals(textures)
        assert not list((self.out / "shards").iterdir())
        assert not RunDirectory(self.out).temporaries()
        assert json.loads((self.out / "_SUCCESS").read_text()) == {"tasks": len(expected)}
        return self.keep()

    def processes(self) -> list[int]:
        """The processes of this story that live, reparented ones too."""
        mark = f"{MARK}={self.environment[MARK]}"
        rays = self.environment["RAY_TMPDIR"]
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                ours = mark.encode() in (folder / "environ").read_bytes().split(b"\0")
                if ours or _has_open_file(folder, rays):
                    found.append(int(folder.name))
        return sorted(set(found) - {os.getpid()})

    def end_processes(self) -> None:
        """Wait until all processes of this story have ended; kill those that do not."""
        give_up_at = time.monotonic() + GONE_SECONDS
        while left := self.processes():
            if time.monotonic() > give_up_at:
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)

    def _write_faults(self, faults: Collection[dict[str, Any]]) -> str:
        path = self.folder / f"faults-{secrets.token_hex(4)}.json"
        path.write_text(json.dumps(list(faults)))
        return str(path)


def read_columns(paths: Iterable[AnyPath], columns: list[str]) -> pd.DataFrame:
    """Some columns of Parquet files, one after the other."""
    frames = []
    for path in paths:
        with open_parquet(path) as file:
            frames.append(file.read(columns).to_pandas())
    return pd.concat(frames, ignore_index=True)


def _has_open_file(process: Path, folder: str) -> bool:
    """Ray's agents overwrite their environment; their open logs say whose they are."""
    for descriptor in (process / "fd").iterdir():
        with contextlib.suppress(OSError):
            if str(descriptor.readlink()).startswith(f"{folder}/"):
                return True
    return False


@pytest.fixture
def storage() -> str:
    """Where run directories are: `local` or `s3`."""
    return "local"


@pytest.fixture
def make_story(
    request: pytest.FixtureRequest,
    storage: str,
    tmp_path: Path,
    weights_file: Path,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[Callable[..., Story]]:
    """Makes a story; `options` of `texsynth run` go before those of a quick one."""
    place = request.getfixturevalue("bucket") if storage == "s3" else tmp_path
    # Sockets need short paths.
    rays = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    stories = []

    def make(*, folder: AnyPath = place, **options: Any) -> Story:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "RAY_TMPDIR": rays,
            MARK: secrets.token_hex(8),
        }
        given = {"weights": weights_file, **QUICK, **options}
        words = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
        story = Story(tmp_path, folder / "a run", words, environment, capfd.readouterr)
        story.write_manifest()
        stories.append(story)
        return story

    yield make
    for story in stories:
        story.end_processes()
    shutil.rmtree(rays, ignore_errors=True)
