"""What lies in a run directory beside its rows: attempts, checkpoints, leftovers, foreign files."""

from __future__ import annotations

import json
from collections.abc import Iterator

from safetensors import SafetensorError, safe_open

from pipeline.attempts import load_attempts
from pipeline.rundir import DAMAGED_SUFFIX, RunDirectory
from pipeline.storage import AnyPath, list_entries, local_copy, sorted_glob
from pipeline.verify.checks import MAX_LINES, Check, Problems, counted


def check_attempts(run: RunDirectory) -> Check:
    """Whether the lists of attempts are understood."""
    problems = Problems()
    latest, unreadable = load_attempts(run)
    for problem in unreadable:
        problems.add(f"{run.name_of(problem.path)}: {problem.reason}")
    mend = "move the file away; deaths of processes at the tasks in it are then not counted"
    return problems.check("attempts", f"{counted(len(latest), 'task')} begun without a row", mend)


def check_checkpoints(run: RunDirectory, done: set[str]) -> Check:
    """Whether checkpoints are understood.

    Args:
        run: The run directory.
        done: Ids of the tasks that have rows.
    """
    problems = Problems()
    tasks = []
    for path in sorted_glob(run.checkpoints, "*.safetensors"):
        try:
            tasks.append(_read_task_id(path))
        except FileNotFoundError:
            continue
        except (SafetensorError, OSError, ValueError, TypeError, LookupError) as error:
            problems.add(f"{run.name_of(path)}: no checkpoint: {error!r}")
    found = counted(len(tasks), "checkpoint")
    obsolete = sum(task in done for task in tasks)
    if obsolete:
        found += f", {obsolete:,} of tasks that have rows already"
    return problems.check("checkpoints", found, "move the file away; its task begins anew")


def check_folders(run: RunDirectory, *, working: bool) -> Check:
    """Name what is not the run's; only in `textures/` it is a problem, for readers of the folder.

    Args:
        run: The run directory.
        working: A process is at work: temporary files are its own.
    """
    problems = Problems()
    notes = []
    for folder in (run.path, *run.folders()):
        try:
            entries = list_entries(folder) if folder.exists() else []
        except OSError as error:
            problems.add(f"{folder.name}: cannot be listed: {error}")
            continue
        foreign = [path for path in entries if not run.is_own(path)]
        if folder == run.textures:
            seen = [path for path in foreign if not path.name.startswith(("_", "."))]
            problems.add(*(f"textures/{path.name}: not of the run" for path in seen))
            foreign = [path for path in foreign if path not in seen]
        notes += [run.name_of(path) for path in foreign]
    found = "; ".join([*_describe_leftovers(run, working=working), *_name("foreign", notes)])
    mend = (
        "move it away: who reads the folder textures/ as a whole reads it too, or fails at it; a "
        "folder must be one, and readable"
    )
    return problems.check("folders", found or "nothing but the run's own files", mend)


def _read_task_id(path: AnyPath) -> str:
    with local_copy(path) as local, safe_open(local, "np") as file:
        (text,) = (file.metadata() or {}).values()
        return str(json.loads(text)["task_id"])


def _describe_leftovers(run: RunDirectory, *, working: bool) -> Iterator[str]:
    temporaries = run.temporaries()
    if temporaries:
        whose = "of writers at work" if working else "of dead writers: the next run removes them"
        yield f"{counted(len(temporaries), 'temporary file')} {whose}"
    replaced = run.replaced()
    if replaced:
        yield f"{counted(len(replaced), 'replaced folder')}: the next finalize removes what is read"
    damaged = sorted(path.name for path in run.path.glob(f"*{DAMAGED_SUFFIX}"))
    yield from _name("put aside by a finalize", damaged)


def _name(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - MAX_LINES:,} more" if len(names) > MAX_LINES else ""
    return [f"{what}: {', '.join(names[:MAX_LINES])}{more}"]
