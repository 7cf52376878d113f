"""The state of a run in lines for people, fit for a terminal whatever names it holds."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len

from pipeline.evidence import OpenAttempt
from pipeline.status import RunStatus
from pipeline.terminal import duration, visible

LISTED = 10
"""Tasks and files of a kind that are named; `--json` has all."""
CATEGORIES_LISTED = 60
SAID = {
    "running": "running",
    "stopping": "stopping: finished work is being written",
    "finished": "finished",
    "stopped": "stopped by {signal}; what is committed is kept",
    "crashed": "crashed: its process ended before its work did; what is committed is kept",
    "incomplete": "incomplete: nobody works on it",
}


def status_lines(status: RunStatus) -> list[str]:
    """The state of a run; every character of every line is printable."""
    lines = [
        *_head(status),
        *_actors(status),
        *_attempts("in flight", status.in_flight),
        *_attempts("died without a row", status.died),
    ]
    if status.last_error:
        error = status.last_error
        said = f"{error.error_type}: {error.line}" if error.error_type else error.line
        lines.append(f"last error: {error.task_id} at {error.finished_at}: {said}")
    problems = [f"{problem.path}: {problem.reason}" for problem in status.problems]
    lines += _listed("problems", problems)
    lines.append(f"next: {status.next_step}")
    return [visible(line) for line in lines] + _slowest(status) + _categories(status)


def align(rows: Sequence[Sequence[str]], *, left: int) -> list[str]:
    """Rows of cells as lines of columns; every character of every line is printable.

    Args:
        rows: As many cells in each.
        left: So many columns are aligned left, the others right.
    """
    shown = [[visible(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*shown, strict=True)]
    lines = []
    for row in shown:
        gaps = [" " * (w - cell_len(cell)) for cell, w in zip(row, widths, strict=True)]
        cells = [
            c + g if i < left else g + c for i, (c, g) in enumerate(zip(row, gaps, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _head(status: RunStatus) -> list[str]:
    signal = status.stopped_by or "a signal"
    lines = [f"{status.run}: {SAID[status.state].format(signal=signal)}"]
    if status.session:
        s = status.session
        which = "session" if status.working else "last session"
        lines.append(f"{which}: {s.id}, process {s.pid} on {s.host}, begun {s.begun_at}")
    done = [f"{count} {name}" for name, count in status.statuses.items() if count or name == "ok"]
    total = "an unknown number of" if status.tasks is None else str(status.tasks)
    lines.append(f"tasks: {', '.join(done)} of {total}")
    if status.missing:
        lines[-1] += f", {status.missing} missing"
    if status.other_rows:
        lines.append(f"rows of tasks that the manifest does not have: {status.other_rows}")
    if status.textures_per_minute is not None:
        left = "" if status.left is None else f", {status.left} tasks left"
        if status.seconds_left is not None and status.left:
            left += f", about {duration(status.seconds_left)}"
        lines.append(f"pace: {status.textures_per_minute:.1f} textures/min{left}")
    return lines


def _actors(status: RunStatus) -> list[str]:
    if not status.working:
        return []
    wanted = "" if status.actors_wanted is None else f" (--actors {status.actors_wanted})"
    waiting = [] if status.waiting is None else [status.waiting]
    return [f"actors: {status.actors} at work{wanted}", *waiting]


def _attempts(what: str, attempts: Sequence[OpenAttempt]) -> list[str]:
    return _listed(
        what,
        [
            f"{a.task_id}, attempt {a.number}, since {a.begun_at}{f' on {a.host}' * bool(a.host)}"
            for a in attempts
        ],
    )


def _listed(what: str, items: Sequence[str]) -> list[str]:
    if not items:
        return []
    more = [f"  and {len(items) - LISTED} more"] if len(items) > LISTED else []
    return [f"{what}: {len(items)}", *(f"  {item}" for item in items[:LISTED]), *more]


def _slowest(status: RunStatus) -> list[str]:
    if not status.slowest:
        return []
    rows = [["slowest task", "seconds", "evaluations"]]
    for task in status.slowest:
        evaluations = "" if task.evaluations is None else f"{task.evaluations:.0f}"
        rows.append([task.task_id, f"{task.seconds:.1f}", evaluations])
    return ["", *align(rows, left=1)]


def _categories(status: RunStatus) -> list[str]:
    if not status.categories:
        return []
    rows = [["category", "tasks", *status.statuses, "missing"]]
    for counts in status.categories[:CATEGORIES_LISTED]:
        numbers = [counts.tasks, *(getattr(counts, name) for name in status.statuses)]
        name = "(none)" if counts.category is None else counts.category
        rows.append([name, *map(str, [*numbers, counts.missing])])
    more = len(status.categories) - CATEGORIES_LISTED
    return ["", *align(rows, left=1), *([f"and {more} more"] if more > 0 else [])]
