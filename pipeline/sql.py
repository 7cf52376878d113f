"""SQL over the metrics of one or several runs: DuckDB, shut in with them.

Three views: `metrics`, a row per task; `flags` and `measures`, a row per task and column of truth
values or of floating-point numbers. Arrow reads the files and verifies the checksums of their
pages, which DuckDB does not; DuckDB gets the columns and rows that a query needs, and can open no
file of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from pipeline.committed import FileProblem, UnreadableFileError, open_parquet, read_committed
from pipeline.query import as_run, is_current
from pipeline.rundir import RunDirectory
from pipeline.sandbox import lock_sandbox, open_sandbox, quote_name, quote_text
from pipeline.schema import metrics_schema
from pipeline.storage import AnyPath, arrow_place

BATCH_ROWS = 2048
"""Rows handed on at once: DuckDB works on as many."""
KEYS = ("run", "task_id", "exemplar_id", "crop", "variation", "category", "status")
RENAMED = "manifest_run"
"""A column `run` of a manifest, under which the name of the run is not lost."""
ONLY_SELECT = "expected one SELECT, DESCRIBE or SUMMARIZE"


class QueryError(ValueError):
    """A query that cannot be answered: of bad SQL, of no SELECT, or of damaged files."""


@dataclass(frozen=True)
class Selection:
    """The answer to a query, read as it is asked for.

    Attributes:
        schema: Names and types of its columns.
        batches: Its rows. Raises `QueryError` where it turns out that it cannot be answered.
    """

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]

    def table(self) -> pa.Table:
        """All rows."""
        return pa.Table.from_batches(list(self.batches), self.schema)


class MetricsDatabase:
    """The views `metrics`, `flags` and `measures` of some runs; made by `open_metrics`.

    Attributes:
        names: Of the runs, in order: what the column `run` says.
        problems: Files that could not be read: their rows are missing.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        names: Sequence[str],
        problems: Sequence[FileProblem],
    ) -> None:
        self.names = tuple(names)
        self.problems = tuple(problems)
        self._connection = connection

    def select(self, sql: str) -> Selection:
        """Ask.

        Args:
            sql: One statement that reads, in DuckDB's SQL.

        Raises:
            QueryError: It is another statement, or wrong.
        """
        with _query_errors():
            statements = self._connection.extract_statements(sql)
            kinds = [statement.type for statement in statements]
            if kinds != [duckdb.StatementType.SELECT]:
                got = ", ".join(kind.name for kind in kinds) or "nothing"
                raise QueryError(f"got {got}, {ONLY_SELECT}")
            reader = self._connection.sql(sql).to_arrow_reader(BATCH_ROWS)
        return Selection(reader.schema, _read_batches(reader))


@contextmanager
def open_metrics(runs: Sequence[RunDirectory | Path | str]) -> Iterator[MetricsDatabase]:
    """The metrics of some runs to ask in the block, as they are when it begins.

    Runs may be at work, finished, or of different versions: columns are matched by name, and null
    where a run lacks one. All columns of this version are there, also without a row.

    Args:
        runs: Run directories, at least one.

    Raises:
        NotARunError: One is no run directory.
        QueryError: One is given twice.
    """
    directories = [as_run(run) for run in runs]
    names = name_runs([run.path for run in directories])
    problems: list[FileProblem] = []
    with closing(open_sandbox()) as connection:
        connection.register("no_rows", metrics_schema().empty_table())
        parts = ["SELECT NULL::VARCHAR AS run, * FROM no_rows"]
        for number, (run, name) in enumerate(zip(directories, names, strict=True)):
            source = _open_source(run, problems)
            connection.register(f"run_{number}", source)
            parts.append(
                f"SELECT {quote_text(name)} AS run, {_columns(source)} FROM run_{number}"  # noqa: S608
            )
        connection.execute(f"CREATE VIEW metrics AS {' UNION ALL BY NAME '.join(parts)}")
        connection.execute(_long_view(connection, "flags", "flag", "BOOLEAN"))
        connection.execute(_long_view(connection, "measures", "measure", "DOUBLE"))
        lock_sandbox(connection)
        yield MetricsDatabase(connection, names, problems)


def name_runs(paths: Sequence[AnyPath]) -> list[str]:
    """Names of run directories: the last part of each path, or as many as tell them apart.

    Raises:
        QueryError: One is given twice.
    """
    resolved = [path.resolve() for path in paths]
    for depth in range(1, max(len(path.parts) for path in resolved) + 1):
        names = ["/".join(path.parts[-depth:]) for path in resolved]
        if len(set(names)) == len(names):
            return names
    raise QueryError(f"runs {[str(path) for path in paths]}: one is given twice")


def _open_source(run: RunDirectory, problems: list[FileProblem]) -> pa.Table | ds.Dataset:
    """All columns but the pictures: the file itself if it is current, else the rows."""
    if is_current(run):
        try:
            with open_parquet(run.metrics):
                return _open_dataset(run.metrics)
        except UnreadableFileError as error:
            problems.append(error.problem)
        except FileNotFoundError:
            pass
    table, unreadable = read_committed(run)
    problems += unreadable
    return table.replace_schema_metadata()


def _open_dataset(path: AnyPath) -> ds.Dataset:
    """A Parquet file, a fragment per row group.

    Arrow reads a few fragments ahead; of one fragment it would read ahead nearly everything. Where
    all columns are asked for and what takes them is slow, that is still much: see the last row that
    `python -m benchmarks.query_speed` prints.
    """
    options = ds.ParquetFragmentScanOptions(
        page_checksum_verification=True, pre_buffer=False, use_buffered_stream=True
    )
    file_format = ds.ParquetFileFormat(default_fragment_scan_options=options)
    place, filesystem = arrow_place(path)
    whole = ds.dataset(place, format=file_format, filesystem=filesystem)
    fragments = [part for one in whole.get_fragments() for part in one.split_by_row_group()]
    return ds.FileSystemDataset(fragments, whole.schema, file_format, whole.filesystem)


def _columns(source: pa.Table | ds.Dataset) -> str:
    """All columns, none of them named `run`; names differ by more than case in DuckDB."""
    taken = [name for name in source.schema.names if name.casefold() == "run"]
    renamed = ", ".join(f"{quote_name(name)} AS {RENAMED}" for name in taken[:1])
    return f"* RENAME ({renamed})" if taken else "*"


def _long_view(
    connection: duckdb.DuckDBPyConnection, view: str, name_column: str, kind: str
) -> str:
    """SQL of a view with a row per task and column of a type: keys, its name, its value."""
    described = connection.execute("DESCRIBE metrics").fetchall()
    names = ", ".join(quote_name(name) for name, type_name, *_ in described if type_name == kind)
    keys = ", ".join(KEYS)
    return (
        f"CREATE VIEW {view} AS SELECT {keys}, {name_column}, value FROM "  # noqa: S608
        f"(SELECT {keys}, {names} FROM metrics) "
        f"UNPIVOT INCLUDE NULLS (value FOR {name_column} IN ({names}))"
    )


def _read_batches(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    with _query_errors():
        yield from reader


@contextmanager
def _query_errors() -> Iterator[None]:
    """Errors of DuckDB and of the files that it asked for are ours."""
    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise QueryError(str(error).strip()) from error
