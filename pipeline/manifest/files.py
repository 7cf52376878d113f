"""Reading and writing manifests, CSV or Parquet.

`manifests/README.md` describes the columns for users; `checks.py` enforces them.
"""

import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from pipeline.manifest.checks import RowNumbers, conform_columns, find_row_problems, list_rows
from pipeline.reading import OUTSIDE_FLAG
from pipeline.rundir import atomic_path


class ManifestError(ValueError):
    """A manifest, or what it should be made from, cannot be used; the message has every problem."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A checked manifest.

    Attributes:
        table: one row per exemplar. `MANIFEST_COLUMNS` that the file has are text, `width` and
            `height` are int32; other columns are as the file has them (always text in a CSV).
        root: absolute folder, or URI, that relative paths start from.
        path: the file it was read from.
    """

    table: pa.Table
    root: str
    path: Path


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
        path: a `.csv` or `.parquet` file.
        root: what relative paths start from, a folder or a URI; the manifest's folder by default.
        allow_outside_root: take paths that leave the root: absolute, with "..", or URIs of another
            place. Links are followed, and refused, when an image is read.
        reserved: names that a column outside `MANIFEST_COLUMNS` must not have.

    Raises:
        ManifestError: with every problem and its row.
    """
    path = Path(path)
    base = _absolute_root(path.parent if root is None else root)
    table, rows, problems = _read_table(path)
    table, column_problems = conform_columns(table, rows, reserved)
    problems += column_problems
    problems += find_row_problems(table, rows, root=None if allow_outside_root else base)
    if not len(rows) and not problems:
        problems.append("no rows, expected at least one exemplar")
    problems += _find_root_problems(base, allow_outside_root)
    if problems:
        listing = "\n".join(f"  {problem}" for problem in problems)
        raise ManifestError(f"manifest '{path}' cannot be used:\n{listing}")
    return Manifest(table=table, root=base, path=path)


def write_manifest(table: pa.Table, path: str | os.PathLike[str]) -> None:
    """Write `table` as CSV or Parquet, by the suffix of `path`; appears whole or not at all.

    Raises:
        ManifestError: the suffix is unknown, or the table does not fit into a CSV (nested columns).
    """
    path = Path(path)
    write = {"csv": pa.csv.write_csv, "parquet": pa.parquet.write_table}[manifest_format(path)]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with atomic_path(path) as unfinished:
            write(table, str(unfinished))
    except pa.ArrowException as error:
        raise ManifestError(f"manifest '{path}' cannot be written: {error}") from error


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


def _read_table(path: Path) -> tuple[pa.Table, RowNumbers, list[str]]:
    """Return the table, the number of each of its rows, and the problems of rows left out."""
    file_format = manifest_format(path)
    if not path.is_file():
        raise ManifestError(f"manifest '{path}': no such file")
    try:
        if file_format == "csv":
            return _read_csv(path)
        with pa.parquet.ParquetFile(path) as file:
            table = file.read().replace_schema_metadata(None)
        table.validate(full=True)
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise ManifestError(f"manifest '{path}' is not readable {file_format}: {error}") from error
    return table, np.arange(1, table.num_rows + 1), []


def _read_csv(path: Path) -> tuple[pa.Table, RowNumbers, list[str]]:
    ragged: dict[int, str] = {}

    def leave_out(row: Any) -> str:
        # Arrow counts the header as row 1, and counts nothing when it reads with threads.
        if row.number is not None:
            ragged[row.number - 1] = f"{row.actual_columns} fields, expected {row.expected_columns}"
        return "skip"

    _require_utf8(path)
    parsing = pa.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=leave_out)
    with pa.csv.open_csv(path, parse_options=parsing) as header:
        names = header.schema.names
    ragged.clear()
    table = pa.csv.read_csv(
        path,
        read_options=pa.csv.ReadOptions(use_threads=False),
        parse_options=parsing,
        convert_options=pa.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
        ),
    )
    every_row = np.arange(1, table.num_rows + len(ragged) + 1)
    is_ragged = np.isin(every_row, list(ragged))
    problems = list_rows(is_ragged, every_row, lambda i: ragged[i + 1])
    return table, every_row[~is_ragged], problems


def _require_utf8(path: Path) -> None:
    """Arrow passes a row left out to Python as text, and drops the error if it is none."""
    with path.open(encoding="utf-8", newline="") as file:
        while file.read(2**20):
            pass
