"""What the columns and rows of a manifest must be.

Vectorised, so that millions of rows never become Python objects. Problems are returned as text,
not raised, so that a file's problems can be reported all at once.
"""

from collections.abc import Callable, Collection

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.reading import OUTSIDE_FLAG, find_escape

REQUIRED_COLUMNS = ("exemplar_id", "path")
# DTD publishes ten partitions of its images into train, val and test.
SPLIT_COLUMNS = tuple(f"split_{partition}" for partition in range(1, 11))
TEXT_COLUMNS = (*REQUIRED_COLUMNS, "category", "split", *SPLIT_COLUMNS, "sha256")
SIZE_COLUMNS = ("width", "height")
MANIFEST_COLUMNS = (*TEXT_COLUMNS, *SIZE_COLUMNS)

# File names have at most 255 bytes; the rest is for what is appended, such as "-c0-v0.png".
MAX_ID_BYTES = 200
# Control characters (Unicode Cc), slashes, white space at an end (for Arrow, that of ASCII only).
UNUSABLE_ID = r"[\x00-\x1f\x7f-\x9f/\\]|^\s|\s$"
# Any text in which `find_escape` can find something; all other paths stay below any root.
SUSPECT_PATH = r"\.\.|:|^[/\\]|[%?#\x00-\x1f\x7f]"
MAX_ROWS_PER_PROBLEM = 20

RowNumbers = NDArray[np.int64]
Mask = NDArray[np.bool_]


def conform_columns(
    table: pa.Table, rows: RowNumbers, reserved: Collection[str] = ()
) -> tuple[pa.Table, list[str]]:
    """Cast the known columns to text and int32, empty text to null.

    Args:
        table: as read from a file.
        rows: the number that each row is reported by.
        reserved: names that a column outside `MANIFEST_COLUMNS` must not have.

    Returns:
        The table, without the columns that could not be cast, and the problems found.
    """
    names = table.column_names
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        return table.select([]), [f"column '{name}' occurs more than once" for name in repeated]
    problems = [f"column '{name}' is missing" for name in REQUIRED_COLUMNS if name not in names]
    for number, name in enumerate(names, start=1):
        if not name.strip():
            problems.append(f"column {number} has no name")
        elif name in reserved and name not in MANIFEST_COLUMNS:
            problems.append(f"column '{name}': rows of the output have a column of this name")
    for name in names:
        if name not in MANIFEST_COLUMNS:
            continue
        conform = _conform_text if name in TEXT_COLUMNS else _conform_size
        column, found = conform(name, table.column(name), rows)
        problems += found
        if found:
            table = table.drop_columns([name])
        else:
            table = table.set_column(table.column_names.index(name), name, column)
    return table, problems


def find_row_problems(table: pa.Table, rows: RowNumbers, *, root: str | None) -> list[str]:
    """List rows with empty, unusable or repeated ids, bad paths or bad checksums.

    Args:
        table: what `conform_columns` returned; absent columns are not checked.
        rows: the number that each row is reported by.
        root: what paths must not leave, a folder or a URI; None lets them.
    """
    problems: list[str] = []
    if "exemplar_id" in table.column_names:
        problems += _find_id_problems(table.column("exemplar_id"), rows)
    if "path" in table.column_names:
        problems += _find_path_problems(table.column("path"), rows, root)
    if "sha256" in table.column_names:
        checksums = table.column("sha256")
        bad = _is_true(pc.invert(pc.match_substring_regex(checksums, "^[0-9a-f]{64}$")))
        problems += list_rows(
            bad, rows, lambda i: f"sha256 {checksums[i]}: expected 64 lower-case hex digits"
        )
    return problems


def list_rows(bad: Mask, rows: RowNumbers, describe: Callable[[int], str]) -> list[str]:
    """Return one line per bad row, the first `MAX_ROWS_PER_PROBLEM` of them, and how many more.

    Args:
        bad: which positions are bad.
        rows: the number of the row at each position.
        describe: says what is wrong at a position.
    """
    positions = np.flatnonzero(bad)
    lines = [f"row {rows[i]}: {describe(int(i))}" for i in positions[:MAX_ROWS_PER_PROBLEM]]
    if len(positions) > MAX_ROWS_PER_PROBLEM:
        lines.append(f"and {len(positions) - MAX_ROWS_PER_PROBLEM} more rows like the last")
    return lines


def _conform_text(
    name: str, column: pa.ChunkedArray, rows: RowNumbers
) -> tuple[pa.ChunkedArray, list[str]]:
    held = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if held not in (pa.string(), pa.large_string(), pa.string_view(), pa.null()):
        return column, [f"column '{name}' has type {column.type}, expected text"]
    text = column.cast(held).cast(pa.string())
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text), []


def _conform_size(
    name: str, column: pa.ChunkedArray, rows: RowNumbers
) -> tuple[pa.ChunkedArray, list[str]]:
    if pa.types.is_string(column.type):
        bad = _is_true(pc.invert(pc.match_substring_regex(column, "^[0-9]{1,9}$")))
        if bad.any():
            return column, list_rows(
                bad, rows, lambda i: f"{name} '{column[i]}': expected a whole number of px"
            )
    try:
        return column.cast(pa.int32()), []
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        return column, [f"column '{name}' has type {column.type}, expected whole numbers: {error}"]


def _find_id_problems(ids: pa.ChunkedArray, rows: RowNumbers) -> list[str]:
    empty = _is_empty(ids)
    padded = _is_true(pc.not_equal(ids, pc.utf8_trim_whitespace(ids)))
    unusable = (_is_true(pc.match_substring_regex(ids, UNUSABLE_ID)) | padded) & ~empty
    long = _is_true(pc.greater(pc.binary_length(ids), MAX_ID_BYTES))
    # Codes number the values in the order of their first row, so `first[code]` is that row.
    codes = np.concatenate(
        [
            chunk.indices.to_numpy(zero_copy_only=False)
            for chunk in ids.fill_null("").dictionary_encode().chunks
        ]
        or [np.empty(0, np.int32)]
    )
    first = np.unique(codes, return_index=True)[1]
    repeated = (first[codes] != np.arange(len(codes))) & ~empty
    return [
        *list_rows(empty, rows, lambda i: "exemplar_id is empty"),
        *list_rows(
            unusable,
            rows,
            lambda i: (
                f"exemplar_id {ids[i].as_py()!r}: expected no slashes, no control "
                "characters and no white space at its ends, so that it can be part of a file name"
            ),
        ),
        *list_rows(
            long,
            rows,
            lambda i: (
                f"exemplar_id {ids[i].as_py()[:40]!r}...: "
                f"{len(ids[i].as_py().encode())} bytes, expected at most {MAX_ID_BYTES}"
            ),
        ),
        *list_rows(
            repeated,
            rows,
            lambda i: f"exemplar_id {ids[i].as_py()!r} is taken by row {rows[first[codes[i]]]}",
        ),
    ]


def _find_path_problems(paths: pa.ChunkedArray, rows: RowNumbers, root: str | None) -> list[str]:
    empty = _is_empty(paths)
    escapes: dict[int, str] = {}
    if root is not None:
        suspects = _is_true(pc.match_substring_regex(paths, SUSPECT_PATH)) & ~empty
        found = ((int(i), find_escape(paths[i].as_py(), root)) for i in np.flatnonzero(suspects))
        escapes = {i: escape for i, escape in found if escape}
    leaving = np.zeros(len(paths), np.bool_)
    leaving[list(escapes)] = True
    return [
        *list_rows(empty, rows, lambda i: "path is empty"),
        *list_rows(
            leaving,
            rows,
            lambda i: (
                f"path {paths[i].as_py()!r} {escapes[i]}, expected one below the root, "
                f"or {OUTSIDE_FLAG}"
            ),
        ),
    ]


def _is_empty(text: pa.ChunkedArray) -> Mask:
    return ~_is_true(pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(text)), 0))


def _is_true(values: pa.ChunkedArray) -> Mask:
    """Return which values are true; null is not."""
    mask: Mask = np.asarray(values.fill_null(False), dtype=np.bool_)
    return mask
