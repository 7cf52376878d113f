from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

import pipeline.isolation
from pipeline.config import RunConfig
from pipeline.isolation import prepare_block
from pipeline.manifest import load_manifest
from pipeline.prepare import ExemplarSource, prepare_tasks
from pipeline.rundir import RunDirectory
from pipeline.tasks import expand_tasks

pytestmark = pytest.mark.faults
# Dies as a decoder with a defect does, in whatever process the image of b is opened.
DEADLY = """
import os, sys
import texsynth.decoding, pipeline.prepare

original = pipeline.prepare.prepare_crop

def prepare_crop(data, **more):
    if data.endswith(b"deadly"):
        os.kill(os.getpid(), 11)
    return original(data, **more)

pipeline.prepare.prepare_crop = prepare_crop
"""


@pytest.fixture
def block(
    make_manifest: Callable[..., Path], quick_config: Callable[..., RunConfig]
) -> tuple[pa.Table, ExemplarSource]:
    manifest = make_manifest(["a", "b", "c"], broken=["c"])
    tasks = expand_tasks(load_manifest(manifest).table, crops=1, variations=2, seed=0)
    tasks = tasks.append_column("attempts", pa.array([0] * len(tasks), pa.int32()))
    return tasks, ExemplarSource(str(manifest.parent), quick_config())


def test_a_block_leaves_a_mark_only_while_it_is_prepared(
    run: RunDirectory, block: tuple[pa.Table, ExemplarSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks, source = block
    marks = []

    def prepare(*arguments: object) -> pa.Table:
        marks.extend(run.attempts.iterdir())
        return prepare_tasks(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline.isolation, "prepare_tasks", prepare)
    assert prepare_block(tasks, source, run).equals(prepare_tasks(tasks, source))
    assert [path.suffix for path in marks] == [".preparing"]
    assert not list(run.attempts.iterdir())


def test_an_image_that_kills_its_process_is_a_failed_row_the_second_time(
    run: RunDirectory,
    block: tuple[pa.Table, ExemplarSource],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tasks, source = block
    image = tmp_path / "images" / "b.png"
    image.write_bytes(image.read_bytes() + b"deadly")
    in_process = tmp_path / "deadly.py"
    call = "import pipeline.isolation as m; sys.argv = ['m']; m.main()"
    in_process.write_text(f"{DEADLY}\n{call}\n")

    first = subprocess.run(
        [sys.executable, str(in_process)],
        input=pipeline.isolation._to_bytes(
            tasks.replace_schema_metadata(
                {b"root": source.root, b"config": source.config.model_dump_json()}
            )
        ),
        capture_output=True,
        timeout=120,
    )
    assert first.returncode == -11
    rows = zip(tasks["task_id"].to_pylist(), tasks["attempts"].to_pylist(), strict=True)
    (run.attempts / f"{pipeline.isolation.compute_rows_digest(rows)}.preparing").touch()

    original = subprocess.run

    def as_deadly(command: list[str], **more: object) -> object:
        return original([command[0], str(in_process)], **more)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", as_deadly)
    prepared = prepare_block(tasks, source, run)
    expected = prepare_tasks(tasks, source)
    assert prepared.schema.equals(expected.schema)
    by_id = {row["task_id"]: row for row in prepared.to_pylist()}
    for row in expected.to_pylist():
        if row["exemplar_id"] == "b":
            assert by_id[row["task_id"]]["error_type"] == "DecoderDeathError"
            assert (
                "images/b.png': the process that decoded it died (SIGSEGV)"
                in (by_id[row["task_id"]]["error"])
            )
        else:
            assert by_id[row["task_id"]] == row
    assert not list(run.attempts.iterdir())


def test_one_that_never_ends_is_a_failed_row(
    run: RunDirectory,
    block: tuple[pa.Table, ExemplarSource],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tasks, source = block
    monkeypatch.setattr(pipeline.isolation, "TIMEOUT_SECONDS", 0.01)
    prepared = pipeline.isolation._prepare_alone(tasks.slice(0, 2), source)
    assert prepared["error_type"].to_pylist() == ["DecoderDeathError"] * 2
    assert "did not end within 0.01 s" in prepared["error"][0].as_py()
