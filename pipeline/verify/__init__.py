"""A proof, from its files alone, that a run directory holds what it says; nothing is changed.

`contents` reads every row once, `rows` and `images` say what a right one is, `finished` looks at
what finalize made, `folders` at everything else. Works on a damaged directory, and on one that a
process is at work on.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.committed import UnreadableFileError, open_parquet
from pipeline.resume import RunRecord, RunRecordError, load_run_record
from pipeline.rundir import RunDirectory, require_run
from pipeline.session import is_held, load_session
from pipeline.verify.checks import Check, Problems, counted
from pipeline.verify.contents import (
    Contents,
    Expectation,
    check_files,
    check_rows,
    read_contents,
)
from pipeline.verify.finished import check_metrics, check_success, check_textures
from pipeline.verify.folders import check_attempts, check_checkpoints, check_folders
from pipeline.verify.images import check_exemplars

__all__ = ["Check", "verify_run"]

TASK_ID = pa.schema([("task_id", pa.string())])


def verify_run(run: RunDirectory, *, images: bool = True) -> list[Check]:
    """Look at every file of a run; never raises for what is wrong with one.

    Args:
        run: The run directory.
        images: Decode the stored PNGs and read the sources, too.

    Raises:
        NotARunError: The path is no run directory.
        PermissionError: Nothing in the folder may be looked at.
    """
    require_run(run)
    working = _is_held(run)
    record, checks = _check_record(run)
    tasks, tasks_check = _check_tasks_file(run)
    expectation = Expectation(record, images)
    contents = read_contents(run, expectation)
    # A process that began meanwhile may have changed what is looked at below.
    working = working or _is_held(run)
    missing = _find_missing(tasks, contents)
    checks += [tasks_check, check_files(run, contents)]
    checks.append(_check_tasks(run, contents, tasks, missing, record, working=working))
    checks += check_rows(contents, expectation)
    checks.append(_check_sources(contents, expectation))
    checks.append(check_textures(run, contents))
    checks.append(check_success(run, contents, len(missing), working=working))
    checks.append(check_metrics(run, working=working))
    checks.append(check_attempts(run))
    checks.append(check_checkpoints(run, set(contents.winners["task_id"].to_pylist())))
    checks.append(check_folders(run, working=working))
    return [*_describe_process(run, working=working), *checks]


def _is_held(run: RunDirectory) -> bool:
    try:
        return is_held(run)
    except OSError:
        return False


def _describe_process(run: RunDirectory, *, working: bool) -> Iterator[Check]:
    if working:
        session = load_session(run)
        who = f"process {session.pid} on {session.host}" if session else "a process"
        found = f"{who} is at work on the run; rows may have come since"
        yield Check(name="process", ok=True, found=found)


def _check_record(run: RunDirectory) -> tuple[RunRecord | None, list[Check]]:
    problems = Problems()
    record = None
    try:
        record = load_run_record(run)
        problem = "there is none" if record is None else _find_record_problem(record)
    except (RunRecordError, OSError) as error:
        problem = str(error)
    if problem:
        record = None
        problems.add(problem)
    found = f"fingerprint {record.fingerprint}" if record else "cannot be used"
    mend = (
        "put back a copy; or give the run's own command with another --out, and copy the run.json "
        "that it writes"
    )
    return record, [problems.check("run.json", found, mend)]


def _find_record_problem(record: RunRecord) -> str:
    texts = (record.weights_sha256, record.manifest, record.root)
    if not all(isinstance(value, str) for value in texts):
        return "weights_sha256, manifest and root are not all text"
    if not isinstance(record.config, dict) or not isinstance(record.identity, dict):
        return "config and identity are not both mappings"
    return "" if isinstance(record.identity.get("seed"), int) else "identity has no seed"


def _check_tasks_file(run: RunDirectory) -> tuple[pa.Table | None, Check]:
    problems = Problems()
    tasks = None
    try:
        with open_parquet(run.tasks) as file:
            table = file.read(["task_id"]).cast(TASK_ID)
            table.validate(full=True)
        twice = len(table) - pc.count_distinct(table["task_id"]).as_py()
        if twice or table["task_id"].null_count:
            problems.add(f"{twice} tasks come twice, {table['task_id'].null_count} have no id")
        else:
            tasks = table
    except (UnreadableFileError, OSError, ValueError) as error:
        problems.add(str(error))
    found = "cannot be used" if tasks is None else counted(len(tasks), "task")
    mend = "move it away; the run's own command, given again, makes it anew"
    return tasks, problems.check("tasks.parquet", found, mend)


def _find_missing(tasks: pa.Table | None, contents: Contents) -> list[str]:
    if tasks is None:
        return []
    done = pc.is_in(tasks["task_id"], contents.winners["task_id"].combine_chunks())
    missing: list[str] = tasks["task_id"].filter(pc.invert(done)).to_pylist()
    return missing


def _check_tasks(
    run: RunDirectory,
    contents: Contents,
    tasks: pa.Table | None,
    missing: list[str],
    record: RunRecord | None,
    *,
    working: bool,
) -> Check:
    """Whether every task has its row; says which rows do not count."""
    problems = Problems()
    winners = contents.winners["task_id"].combine_chunks()
    if tasks is None:
        found = f"{counted(len(winners), 'task')} with a row; not compared with tasks.parquet"
    else:
        foreign = len(winners) - (len(tasks) - len(missing))
        found = f"{len(tasks) - len(missing):,} of {counted(len(tasks), 'task')} with a row"
        if foreign:
            found += f"; {counted(foreign, 'row')} of tasks that are not in tasks.parquet"
        if working and missing:
            found += f"; {len(missing):,} still to come"
        else:
            problems.add(*(f"task {task!r} has no row" for task in missing))
    superseded = len(contents.keys) - len(winners)
    if superseded:
        found += f"; {counted(superseded, 'superseded row')}"
    manifest = record.manifest if record else "MANIFEST"
    command = shlex.join(["texsynth", "run", manifest, "--out", str(run.path)])
    return problems.check("tasks", found, f"`{command}` with its other options does them")


def _check_sources(contents: Contents, expectation: Expectation) -> Check:
    if expectation.record is not None and expectation.images:
        return check_exemplars(contents.rows.digests, expectation.record)
    why = "--no-images" if expectation.record else "run.json cannot be read"
    return Check(name="exemplars", ok=True, found=f"not checked: {why}")
