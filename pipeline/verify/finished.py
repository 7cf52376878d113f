"""Whether a finalized run is what it says: `textures/`, `metrics.parquet` and `_SUCCESS`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.committed import UnreadableFileError, open_parquet
from pipeline.rundir import RunDirectory
from pipeline.schema import PICTURES
from pipeline.storage import AnyPath, sorted_glob
from pipeline.verify.checks import Check, Problems, counted
from pipeline.verify.contents import Contents

BATCH_ROWS = 1024


def check_textures(run: RunDirectory, contents: Contents) -> Check:
    """Whether `textures/` has no task twice and is sorted, as who reads the folder expects."""
    problems = Problems()
    rows = _rows_inside(run, contents)
    for item in pc.value_counts(rows["task_id"]).to_pylist():
        if item["counts"] > 1:
            problems.add(f"task {item['values']!r} has {item['counts']} rows in textures/")
    keys = rows.select(["category", "task_id"])
    if not keys.equals(keys.sort_by([("category", "ascending"), ("task_id", "ascending")])):
        problems.add("rows are not sorted by category and task_id, in the order of file names")
    found = counted(len(rows), "row") if run.textures.exists() else "not there yet"
    return problems.check("textures", found, f"`{finalize_command(run)}` writes them anew")


def check_success(run: RunDirectory, contents: Contents, missing: int, *, working: bool) -> Check:
    """Whether `_SUCCESS`, if it is there, is true.

    Args:
        run: The run directory.
        contents: What is in it.
        missing: Number of tasks of the manifest that have no row.
        working: A process is at work; what it is about to change is no problem.
    """
    problems = Problems()
    if not run.success.exists():
        return problems.check("_SUCCESS", "not there: the run is not finished", "")
    if working:
        return problems.check("_SUCCESS", "not checked: a process is at work", "")
    try:
        said = json.loads(run.success.read_bytes())
    except (OSError, ValueError) as error:
        said = None
        problems.add(f"cannot be read: {error!r}")
    winners = len(contents.winners)
    if said is not None and said != {"tasks": winners}:
        problems.add(f"says {said}, there are rows of {counted(winners, 'task')}")
    if missing:
        problems.add(f"{counted(missing, 'task')} of the manifest without a row")
    outside = winners - len(_rows_inside(run, contents, contents.winners))
    if outside:
        problems.add(f"{counted(outside, 'row')} not yet in textures/")
    mend = (
        f"`{finalize_command(run)}` puts it right; tasks without a row need the run's own command"
    )
    return problems.check("_SUCCESS", f"{counted(winners, 'task')}", mend)


def check_metrics(run: RunDirectory, *, working: bool) -> Check:
    """Whether `metrics.parquet` has the rows of `textures/`, all columns but the pictures."""
    problems = Problems()
    files = sorted_glob(run.textures, "*.parquet")
    if not files and not run.metrics.exists():
        return problems.check("metrics.parquet", "not there yet", "")
    found = "as textures/, less the pictures"
    try:
        problem = _compare_metrics(run.metrics, files)
    except (UnreadableFileError, OSError) as error:
        problem = str(error)
    if problem and working:
        problem, found = "", f"not checked: a process is at work ({problem})"
    if problem:
        problems.add(problem)
    mend = f"`{finalize_command(run)}` makes it anew, once a wrong one is moved away"
    return problems.check("metrics.parquet", found, mend)


def finalize_command(run: RunDirectory) -> str:
    """The command that compacts a run."""
    return shlex.join(["texsynth", "finalize", str(run.path)])


def _rows_inside(run: RunDirectory, contents: Contents, rows: pa.Table | None = None) -> pa.Table:
    """Those rows, of all by default, that lie in `textures/`, in the order of its files."""
    rows = contents.keys if rows is None else rows
    files = contents.scan.files
    inside = [index for index, path in enumerate(files) if path.parent == run.textures]
    return rows.filter(pc.is_in(rows["file"], pa.array(inside, pa.int32())))


def _compare_metrics(metrics: AnyPath, files: list[AnyPath]) -> str:
    """What differs first; empty if nothing does."""
    with open_parquet(metrics) as file:
        names = file.schema_arrow.names
    stored, expected = _Rows([metrics], names), _Rows(files, names)
    for path in files:
        with open_parquet(path) as file:
            columns = [name for name in file.schema_arrow.names if name not in PICTURES]
        if columns != names:
            return f"columns differ from those of {path.name}"
    while True:
        ours, theirs = stored.take(BATCH_ROWS), expected.take(BATCH_ROWS)
        if len(ours) != len(theirs):
            return "another number of rows than textures/"
        if not len(ours):
            return ""
        different = [name for name in names if not _equal(ours[name], theirs[name])]
        if different:
            return f"columns {different} differ from textures/"


class _Rows:
    """Rows of some files, one after the other, in portions of any size."""

    def __init__(self, files: list[AnyPath], names: list[str]) -> None:
        self._batches = self._read(files, names)
        self._left: pa.Table | None = None

    def take(self, count: int) -> pa.Table:
        """The next rows; fewer at the end."""
        tables = [] if self._left is None else [self._left]
        while sum(map(len, tables)) < count and (table := next(self._batches, None)) is not None:
            tables.append(table)
        if not tables:
            return pa.table({})
        whole = pa.concat_tables(tables)
        self._left = whole.slice(count)
        return whole.slice(0, count)

    @staticmethod
    def _read(files: list[AnyPath], names: list[str]) -> Iterator[pa.Table]:
        for path in files:
            with open_parquet(path) as file:
                for batch in file.iter_batches(BATCH_ROWS, columns=names):
                    yield pa.Table.from_batches([batch]).replace_schema_metadata()


def _equal(ours: pa.ChunkedArray, theirs: pa.ChunkedArray) -> bool:
    """Whether columns are equal; NaN equals NaN, which Arrow says it does not."""
    return bool(ours.equals(theirs)) or repr(ours.to_pylist()) == repr(theirs.to_pylist())
