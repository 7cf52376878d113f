"""DuckDB shut in with what it is given: no file, no network, no extension, no Python variable."""

from __future__ import annotations

import duckdb

# Spilled to the working directory otherwise; no extension is fetched or loaded.
CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "temp_directory": "",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
}
# Nothing after these can open a file, or undo them. A bar would come among the answer.
LOCKS = (
    "SET enable_progress_bar = false",
    "SET TimeZone = 'UTC'",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)


def open_sandbox() -> duckdb.DuckDBPyConnection:
    """A database in memory, to be locked once all that belongs into it has been registered."""
    return duckdb.connect(":memory:", config=CONFIG)


def lock_sandbox(connection: duckdb.DuckDBPyConnection) -> None:
    """From here on it sees what is registered, and nothing else."""
    for lock in LOCKS:
        connection.execute(lock)


def quote_text(text: str) -> str:
    """Text as an SQL literal."""
    escaped = text.replace("'", "''")
    return f"'{escaped}'"


def quote_name(name: str) -> str:
    """The name of a column, as SQL."""
    escaped = name.replace('"', '""')
    return f'"{escaped}"'
