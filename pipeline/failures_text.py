"""The rows of a run without a good texture in lines for people, fit for a terminal."""

from __future__ import annotations

from pipeline.failures import EXAMPLES, Failures, Row
from pipeline.next_step import retry_command
from pipeline.rundir import RunDirectory
from pipeline.status_text import align
from pipeline.terminal import first_line, visible, visible_lines


def failures_lines(run: RunDirectory, failures: Failures) -> list[str]:
    """What went wrong how often, then every row, then the command that does them again."""
    if not failures.rows:
        return ["no failures"]
    lines = []
    for group in failures.group():
        lines.append(f"{len(group.task_ids)} {group.status}: {_said(group.error_type, group.line)}")
        more = ", ..." if len(group.task_ids) > EXAMPLES else ""
        lines.append(f"  {', '.join(group.task_ids[:EXAMPLES])}{more}")
    cells = [["task", "path", "status", "attempts", "error"]]
    for row in failures.rows:
        said = _said(row["error_type"], first_line(row["error"]))
        cells.append([row["task_id"], row["path"], row["status"], str(row["attempts"]), said])
    command = visible(retry_command(run, failures.count_statuses()))
    return [*map(visible, lines), "", *align(cells, left=5), "", f"again: {command}"]


def failure_text(row: Row) -> str:
    """One row with its whole error."""
    fields = [(name, value) for name, value in row.items() if name != "error"]
    head = [visible(f"{name}: {value}") for name, value in fields]
    return "\n".join([*head, "error:", visible_lines((row["error"] or "").rstrip("\n"))])


def _said(kind: str | None, line: str) -> str:
    return f"{kind}: {line}" if kind else line
