"""What the columns and rows of a manifest must be.

Batch by batch and vectorised, so that millions of rows neither become Python objects nor have to be
in memory together. Problems are gathered as text, so that a file's can be reported all at once.
"""

from collections.abc import Callable, Collection

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.distinct import count_distinct_texts
from pipeline.manifest.problems import Mask, Problems, RowNumbers
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
REPEATED = "exemplar_id repeated"
"""Kind of the one problem that is only found once all rows have been seen."""


def find_schema_problems(
    schema: pa.Schema, problems: Problems, reserved: Collection[str] = ()
) -> bool:
    """Note columns that are missing, nameless, repeated or taken.

    Args:
        schema: as read from a file.
        problems: gets them.
        reserved: names that a column outside `MANIFEST_COLUMNS` must not have.

    Returns:
        Whether columns can be told apart, so that their rows can be looked at.
    """
    names = schema.names
    repeated = sorted({name for name in names if names.count(name) > 1})
    for name in repeated:
        problems.add(f"column '{name}' occurs more than once")
    if repeated:
        return False
    for name in REQUIRED_COLUMNS:
        if name not in names:
            problems.add(f"column '{name}' is missing")
    for number, name in enumerate(names, start=1):
        if not name.strip():
            problems.add(f"column {number} has no name")
        elif name in reserved and name not in MANIFEST_COLUMNS:
            problems.add(f"column '{name}': rows of the output have a column of this name")
    return True


def conform_columns(table: pa.Table, rows: RowNumbers, problems: Problems) -> pa.Table:
    """Cast the known columns of a batch to text and int32, empty text to null.

    Args:
        table: as read from a file, each column once.
        rows: the number that each row is reported by.
        problems: gets what cannot be cast.

    Returns:
        The table, without the columns that could not be cast.
    """
    for name in table.column_names:
        if name not in MANIFEST_COLUMNS:
            continue
        conform = _conform_text if name in TEXT_COLUMNS else _conform_size
        column = conform(name, table.column(name), rows, problems)
        if column is None:
            table = table.drop_columns([name])
        else:
            table = table.set_column(table.column_names.index(name), name, column)
    return table


def find_row_problems(
    table: pa.Table, rows: RowNumbers, problems: Problems, *, root: str | None
) -> None:
    """Note rows of a batch with empty or unusable ids, bad paths or bad checksums.

    Args:
        table: what `conform_columns` returned; absent columns are not checked.
        rows: the number that each row is reported by.
        problems: gets them.
        root: what paths must not leave, a folder or a URI; None lets them.
    """
    if "exemplar_id" in table.column_names:
        _find_id_problems(table.column("exemplar_id"), rows, problems)
    if "path" in table.column_names:
        _find_path_problems(table.column("path"), rows, problems, root)
    if "sha256" in table.column_names:
        checksums = table.column("sha256")
        bad = _is_true(pc.invert(pc.match_substring_regex(checksums, "^[0-9a-f]{64}$")))
        problems.add_rows(
            "sha256",
            bad,
            rows,
            lambda i: f"sha256 {checksums[i]}: expected 64 lower-case hex digits",
        )


def find_repeated_ids(
    ids: pa.ChunkedArray, number_of_row: Callable[[int], int], problems: Problems
) -> None:
    """Note the rows whose id is that of an earlier one.

    Args:
        ids: of all rows; empty ones are null.
        number_of_row: the number that a row is reported by, of its position.
        problems: gets them.
    """
    if count_distinct_texts(ids) == len(ids) - ids.null_count:
        return
    # Codes number the values in the order of their first row, so `first[code]` is that row.
    encoded = ids.combine_chunks().dictionary_encode()
    codes = encoded.indices.fill_null(len(encoded.dictionary)).to_numpy(zero_copy_only=False)
    first = np.unique(codes, return_index=True)[1]
    known = ids.is_valid().to_numpy()
    positions = np.flatnonzero((first[codes] != np.arange(len(codes))) & known)
    lines = (
        f"row {number_of_row(int(i))}: exemplar_id {ids[i].as_py()!r} is taken by row "
        f"{number_of_row(int(first[codes[i]]))}"
        for i in positions
    )
    problems.add_lines(REPEATED, lines, len(positions))


def _conform_text(
    name: str, column: pa.ChunkedArray, rows: RowNumbers, problems: Problems
) -> pa.ChunkedArray | None:
    held = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if held not in (pa.string(), pa.large_string(), pa.string_view(), pa.null()):
        problems.add(f"column '{name}' has type {column.type}, expected text")
        return None
    text = column.cast(held).cast(pa.string())
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def _conform_size(
    name: str, column: pa.ChunkedArray, rows: RowNumbers, problems: Problems
) -> pa.ChunkedArray | None:
    if pa.types.is_string(column.type):
        bad = _is_true(pc.invert(pc.match_substring_regex(column, "^[0-9]{1,9}$")))
        problems.add_rows(
            name, bad, rows, lambda i: f"{name} '{column[i]}': expected a whole number of px"
        )
        if bad.any():
            return None
    try:
        return column.cast(pa.int32())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        expected = f"expected whole numbers: {error}"
        problems.add(f"column '{name}' has type {column.type}, {expected}", kind=name)
        return None


def _find_id_problems(ids: pa.ChunkedArray, rows: RowNumbers, problems: Problems) -> None:
    empty = _is_empty(ids)
    padded = _is_true(pc.not_equal(ids, pc.utf8_trim_whitespace(ids)))
    unusable = (_is_true(pc.match_substring_regex(ids, UNUSABLE_ID)) | padded) & ~empty
    long = _is_true(pc.greater(pc.binary_length(ids), MAX_ID_BYTES))
    problems.add_rows("exemplar_id empty", empty, rows, lambda i: "exemplar_id is empty")
    problems.add_rows(
        "exemplar_id unusable",
        unusable,
        rows,
        lambda i: (
            f"exemplar_id {ids[i].as_py()!r}: expected no slashes, no control "
            "characters and no white space at its ends, so that it can be part of a file name"
        ),
    )
    problems.add_rows(
        "exemplar_id long",
        long,
        rows,
        lambda i: (
            f"exemplar_id {ids[i].as_py()[:40]!r}...: "
            f"{len(ids[i].as_py().encode())} bytes, expected at most {MAX_ID_BYTES}"
        ),
    )
    # Found last, told here.
    problems.add_lines(REPEATED, (), 0)


def _find_path_problems(
    paths: pa.ChunkedArray, rows: RowNumbers, problems: Problems, root: str | None
) -> None:
    empty = _is_empty(paths)
    escapes: dict[int, str] = {}
    if root is not None:
        suspects = _is_true(pc.match_substring_regex(paths, SUSPECT_PATH)) & ~empty
        found = ((int(i), find_escape(paths[i].as_py(), root)) for i in np.flatnonzero(suspects))
        escapes = {i: escape for i, escape in found if escape}
    leaving = np.zeros(len(paths), np.bool_)
    leaving[list(escapes)] = True
    problems.add_rows("path empty", empty, rows, lambda i: "path is empty")
    problems.add_rows(
        "path leaving",
        leaving,
        rows,
        lambda i: (
            f"path {paths[i].as_py()!r} {escapes[i]}, expected one below the root, "
            f"or {OUTSIDE_FLAG}"
        ),
    )


def _is_empty(text: pa.ChunkedArray) -> Mask:
    return ~_is_true(pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(text)), 0))


def _is_true(values: pa.ChunkedArray) -> Mask:
    """Return which values are true; null is not."""
    mask: Mask = np.asarray(values.fill_null(False), dtype=np.bool_)
    return mask
