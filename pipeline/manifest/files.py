"""Reading and writing manifests, CSV or Parquet.

`manifests/README.md` describes the columns for users; `checks.py` enforces them.
"""

import hashlib
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from pipeline.downloads import fetch
from pipeline.manifest.checks import (
    conform_columns,
    find_repeated_ids,
    find_row_problems,
    find_schema_problems,
)
from pipeline.manifest.problems import Problems
from pipeline.manifest.reader import ManifestReader
from pipeline.reading import OUTSIDE_FLAG
from pipeline.rundir import atomic_path
from pipeline.storage import AnyPath, ObjectPath, as_path
from pipeline.table_stream import Columns, TableStream

RAGGED = "fields"
"""Kind of the problem that rows have too many fields, or too few."""
READ_ERRORS = (pa.ArrowException, OSError, UnicodeError)


class ManifestError(ValueError):
    """A manifest, or what it should be made from, cannot be used; the message has every problem."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A checked manifest, whose rows stay in its file.

    Attributes:
        stream: one row per exemplar. `MANIFEST_COLUMNS` that the file has are text, `width` and
            `height` are int32; other columns are as the file has them (always text in a CSV).
        rows: how many there are.
        root: absolute folder, or URI, that relative paths start from.
        path: the file, or the object, it was read from.
        sha256: of the file.
    """

    stream: TableStream
    rows: int
    root: str
    path: AnyPath
    sha256: str

    @cached_property
    def table(self) -> pa.Table:
        """All rows, in memory from now on: some hundred bytes for each."""
        return self.stream.read()


def load_manifest(
    path: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    allow_outside_root: bool = False,
    reserved: Collection[str] = (),
) -> Manifest:
    """Read and check a manifest; writes nothing and opens no image.

    Rows are counted from 1 at the first row below the header; blank CSV lines are not counted, and
    a row with line breaks inside quotes is one row. In a CSV every cell but `width` and `height` is
    text ("001" stays "001", "NA" stays "NA") and an empty cell is null.

    Args:
        path: a `.csv` or `.parquet` file, or the URI of one; that is copied into the cache first.
        root: what relative paths start from, a folder or a URI; the manifest's folder by default.
        allow_outside_root: take paths that leave the root: absolute, with "..", or URIs of another
            place. Links are followed, and refused, when an image is read.
        reserved: names that a column outside `MANIFEST_COLUMNS` must not have.

    Raises:
        ManifestError: with every problem and its row.
    """
    place = as_path(os.fspath(path))
    file_format = manifest_format(path)
    if not place.is_file():
        raise ManifestError(f"manifest '{place}': no such file")
    base = _absolute_root(str(place.parent) if root is None else root)
    reader = ManifestReader(fetch(place), file_format)
    problems = Problems()
    try:
        before = reader.stamp()
        with reader.path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        checked_root = None if allow_outside_root else base
        schema, rows = _check_rows(reader, problems, checked_root, reserved)
        _require_unchanged(reader, before)
    except READ_ERRORS as error:
        raise _unreadable(reader, error) from error
    for problem in _find_root_problems(base, allow_outside_root):
        problems.add(problem)
    if problems:
        listing = "\n".join(f"  {problem}" for problem in problems.listed())
        raise ManifestError(f"manifest '{place}' cannot be used:\n{listing}")
    stream = TableStream(schema, partial(_read_again, reader, before))
    return Manifest(stream=stream, rows=rows, root=base, path=place, sha256=sha256)


def write_manifest(table: pa.Table, path: str | os.PathLike[str] | ObjectPath) -> None:
    """Write `table` as CSV or Parquet, by the suffix of `path`; appears whole or not at all.

    Args:
        table: the rows.
        path: a file or a URI.

    Raises:
        ManifestError: the suffix is unknown, or the table does not fit into a CSV (nested columns).
    """
    place = as_path(str(path))
    file_format = manifest_format(str(place))
    write = {"csv": pa.csv.write_csv, "parquet": pa.parquet.write_table}[file_format]
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        with atomic_path(place) as unfinished:
            write(table, str(unfinished))
    except pa.ArrowException as error:
        raise ManifestError(f"manifest '{place}' cannot be written: {error}") from error


def manifest_format(path: str | os.PathLike[str]) -> Literal["csv", "parquet"]:
    """Return the format that the suffix of `path` names; raises `ManifestError` for others."""
    match Path(path).suffix.lower():
        case ".csv":
            return "csv"
        case ".parquet":
            return "parquet"
        case other:
            raise ManifestError(f"manifest '{path}': suffix '{other}', expected .csv or .parquet")


def _absolute_root(root: str | os.PathLike[str]) -> str:
    text = os.fspath(root)
    return text if "://" in text else str(Path(text).absolute())


def _find_root_problems(root: str, allow_outside_root: bool) -> list[str]:
    if "://" not in root:
        return [] if Path(root).is_dir() else [f"root '{root}' is not a folder"]
    if not allow_outside_root and re.search("[?#]", root):
        return [f"root '{root}' has '?' or '#', where paths end; expected none, or {OUTSIDE_FLAG}"]
    return []


def _check_rows(
    reader: ManifestReader, problems: Problems, root: str | None, reserved: Collection[str]
) -> tuple[pa.Schema, int]:
    """Look at all rows, a batch at a time; gives their schema and number."""
    ids = [pa.array([], pa.string())]
    count = 0
    schema = reader.schema()
    problems.add_lines(RAGGED, (), 0)
    readable = find_schema_problems(schema, problems, reserved)
    for batch in reader.read() if readable else ():
        rows = reader.number_rows(count, len(batch))
        batch = conform_columns(batch, rows, problems)
        find_row_problems(batch, rows, problems, root=root)
        if "exemplar_id" in batch.column_names:
            ids += batch["exemplar_id"].chunks
        count, schema = count + len(rows), batch.schema
    find_repeated_ids(pa.chunked_array(ids), reader.number_row, problems)
    problems.add_lines(RAGGED, reader.describe_ragged(), len(reader.ragged))
    if not count and not problems:
        problems.add("no rows, expected at least one exemplar")
    return schema, count


def _read_again(
    reader: ManifestReader, stamp: tuple[int, int], columns: Columns
) -> Iterator[pa.Table]:
    """The rows of a manifest that was found good, as long as it is the same file.

    Raises:
        ManifestError: it has changed, or cannot be read any more.
    """
    try:
        for batch in reader.read(columns):
            _require_unchanged(reader, stamp)
            rows = reader.number_rows(0, len(batch))
            yield conform_columns(batch, rows, Problems())
    except READ_ERRORS as error:
        raise _unreadable(reader, error) from error


def _require_unchanged(reader: ManifestReader, stamp: tuple[int, int]) -> None:
    if reader.stamp() != stamp:
        raise ManifestError(
            f"manifest '{reader.path}' was changed while it was read; give it again"
        )


def _unreadable(reader: ManifestReader, error: BaseException) -> ManifestError:
    return ManifestError(f"manifest '{reader.path}' is not readable {reader.format}: {error}")
