"""Preparation of exemplars that outlives images which kill the process that decodes them.

A decoder is native code, and Ray begins a task whose process has died again and again. So a block
leaves a mark before it is prepared; one that finds its own mark is prepared exemplar by exemplar in
processes of their own, and a death of these is a failed row. Tables go there and back as Arrow
streams; run as a module, this file is such a process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import RunConfig
from pipeline.prepare import PREPARED, ExemplarSource, prepare_tasks, with_prepared
from pipeline.rundir import MARK_SUFFIXES, PREPARING_SUFFIX, RunDirectory
from pipeline.shards import compute_rows_digest
from pipeline.side_by_side import remove_side_by_side
from pipeline.storage import sorted_glob
from pipeline.watchdog import Watchdog

TIMEOUT_SECONDS = 300.0
"""Of one exemplar in a process of its own; decoding the largest takes some seconds."""
ROOT_KEY, CONFIG_KEY = b"root", b"config"


class IsolationError(RuntimeError):
    """A process that prepares exemplars cannot do its work, whatever the image."""


class DecoderDeathError(RuntimeError):
    """The process that prepared an exemplar has died, or never ended."""


def prepare_block(
    tasks: pa.Table, source: ExemplarSource, run: RunDirectory, *, watched: bool = False
) -> pa.Table:
    """As `prepare_tasks`, but no image can kill a block twice.

    Args:
        tasks: a block of tasks, with `attempts`.
        source: where exemplars come from and how they are cut.
        run: run directory, where the mark is left.
        watched: have this process killed when it hangs; for those that somebody starts again.

    Raises:
        IsolationError: if a process of its own cannot be had at all.
        OSError: if the mark cannot be left.
    """
    if not watched:
        return _prepare_marked(tasks, source, run, lambda: None)
    watchdog = Watchdog(source.config.hang_timeout)
    try:
        with watchdog.working():
            return _prepare_marked(tasks, source, run, watchdog.beat)
    finally:
        watchdog.close()


def remove_marks(run: RunDirectory) -> None:
    """Remove the marks of blocks that will not come again."""
    marks = [path for suffix in MARK_SUFFIXES for path in sorted_glob(run.attempts, f"*{suffix}")]
    remove_side_by_side(marks)


def _prepare_marked(
    tasks: pa.Table, source: ExemplarSource, run: RunDirectory, beat: Callable[[], None]
) -> pa.Table:
    rows = zip(tasks["task_id"].to_pylist(), tasks["attempts"].to_pylist(), strict=True)
    mark = run.attempts / f"{compute_rows_digest(rows)}{PREPARING_SUFFIX}"
    if mark.exists():
        ids = pc.unique(tasks["exemplar_id"])
        groups = [tasks.filter(pc.equal(tasks["exemplar_id"], exemplar)) for exemplar in ids]
        tables = []
        for group in groups:
            tables.append(_prepare_alone(group, source))
            beat()
        prepared = pa.concat_tables(tables)
    else:
        mark.touch()
        prepared = prepare_tasks(tasks, source)
    mark.unlink(missing_ok=True)
    return prepared


def _prepare_alone(tasks: pa.Table, source: ExemplarSource) -> pa.Table:
    """Tasks of one exemplar, prepared in a process of its own."""
    values = {ROOT_KEY: source.root, CONFIG_KEY: source.config.model_dump_json()}
    command = [sys.executable, "-m", "pipeline.isolation"]
    # This package may have come by other ways than an installation.
    path = os.pathsep.join(entry for entry in sys.path if entry)
    try:
        done = subprocess.run(  # noqa: S603 (no shell, and no words of a user)
            command,
            input=_to_bytes(tasks.replace_schema_metadata(values)),
            capture_output=True,
            timeout=min(TIMEOUT_SECONDS, source.config.hang_timeout / 2),
            env=os.environ | {"PYTHONPATH": path},
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return _failed(tasks, f"did not end within {error.timeout:g} s")
    if done.returncode < 0:
        return _failed(tasks, f"died ({signal.Signals(-done.returncode).name})")
    if done.returncode:
        # Errors of images come back as rows: this one is of the installation, or of memory.
        raise IsolationError(
            f"exit code {done.returncode} of a process that was to decode "
            f"{tasks['path'][0].as_py()!r}: {done.stderr.decode(errors='replace').strip()[-2000:]}"
        )
    return _from_bytes(done.stdout).replace_schema_metadata()


def _failed(tasks: pa.Table, what: str) -> pa.Table:
    path = tasks["path"][0].as_py()
    values: dict[str, Any] = dict.fromkeys(PREPARED.names)
    values["error_type"] = DecoderDeathError.__name__
    values["error"] = f"image {path!r}: the process that decoded it {what}"
    return with_prepared(tasks, {name: [value] * len(tasks) for name, value in values.items()})


def _to_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def _from_bytes(data: bytes) -> pa.Table:
    with pa.ipc.open_stream(data) as reader:
        return reader.read_all()


def main() -> None:
    """Prepare the tasks that come in on the standard input; they go out on the standard output."""
    tasks = _from_bytes(sys.stdin.buffer.read())
    values = tasks.schema.metadata
    config = RunConfig.model_validate_json(values[CONFIG_KEY])
    source = ExemplarSource(values[ROOT_KEY].decode(), config)
    sys.stdout.buffer.write(_to_bytes(prepare_tasks(tasks.replace_schema_metadata(), source)))


if __name__ == "__main__":
    main()
