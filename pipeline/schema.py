"""The versioned Arrow schema of the output rows, and the flags that follow from their numbers.

`python -m pipeline.schema` prints `docs/columns.md`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.columns import COLUMNS, GROUPS, STATUSES, Column
from pipeline.flags import RULES, evaluate_rules, resolve_rules

SCHEMA_VERSION = 4
PICTURES = ("image", "layout")
"""Columns that `metrics.parquet` lacks: they are large, and no numbers."""
VERSION_KEY = b"texsynth_schema_version"
# `datasets` takes an Image feature from here and derives every other feature from its Arrow type.
HUGGINGFACE_METADATA = json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})

RESERVED_COLUMNS = frozenset(column.name for column in COLUMNS)
REQUIRED_COLUMNS = tuple(column.name for column in COLUMNS if column.required)


class SchemaError(ValueError):
    """Rows or a schema are not what `row_schema` says."""


def row_schema(carried: pa.Schema | None = None) -> pa.Schema:
    """The schema of the output rows.

    Args:
        carried: Columns of the manifest that are carried into the rows, after the fixed ones.

    Raises:
        SchemaError: A carried column has the name of a fixed one, or comes twice.
    """
    names = [] if carried is None else list(carried.names)
    collisions = sorted(
        {name for name in names if name in RESERVED_COLUMNS or names.count(name) > 1}
    )
    if collisions:
        raise SchemaError(f"carried columns {sorted(collisions)}: reserved or named twice; rename")
    fields = [pa.field(column.name, column.type) for column in COLUMNS]
    fields += [] if carried is None else [field.remove_metadata() for field in carried]
    return pa.schema(
        fields,
        metadata={VERSION_KEY: str(SCHEMA_VERSION), b"huggingface": HUGGINGFACE_METADATA},
    )


def metrics_schema(carried: pa.Schema | None = None) -> pa.Schema:
    """The schema of `metrics.parquet`: that of the rows, less PICTURES."""
    fields = [field for field in row_schema(carried) if field.name not in PICTURES]
    return pa.schema(fields, metadata={VERSION_KEY: str(SCHEMA_VERSION)})


def carried_columns(schema: pa.Schema) -> pa.Schema:
    """The carried manifest columns of a row schema.

    Raises:
        SchemaError: `schema` is no row schema of this version.
    """
    version = (schema.metadata or {}).get(VERSION_KEY)
    if version != str(SCHEMA_VERSION).encode():
        raise SchemaError(f"schema version: got {version!r}, expected {SCHEMA_VERSION}")
    for index, column in enumerate(COLUMNS):
        field = schema.field(index) if index < len(schema) else None
        if field is None or (field.name, field.type) != (column.name, column.type):
            got = "nothing" if field is None else f"'{field.name}: {field.type}'"
            expected = f"'{column.name}: {column.type}'"
            raise SchemaError(f"column {index}: got {got}, expected {expected}")
    carried = pa.schema([field.remove_metadata() for field in list(schema)[len(COLUMNS) :]])
    row_schema(carried)
    return carried


def rows_to_table(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table of `schema`, with their flags computed.

    Args:
        rows: Values by column name. A key left out is null; flags are replaced.
        schema: From `row_schema`.

    Raises:
        SchemaError: A row has an unknown key, lacks a required value, or one of the wrong type.
    """
    rows = list(rows)
    known = set(schema.names)
    for row in rows:
        unknown = sorted(set(row) - known)
        missing = [name for name in REQUIRED_COLUMNS if row.get(name) is None]
        where = f"row of task {row.get('task_id')!r}"
        if unknown or missing:
            raise SchemaError(f"{where}: unknown columns {unknown}, missing values {missing}")
        if row["status"] not in STATUSES:
            raise SchemaError(f"{where}: status {row['status']!r}, expected one of {STATUSES}")
    try:
        table = pa.Table.from_pylist(rows, schema=schema)
    except (pa.ArrowException, TypeError, OverflowError) as error:
        tasks = [row["task_id"] for row in rows]
        raise SchemaError(f"rows of tasks {tasks}: {error}") from error
    return compute_flags(table)


def compute_flags(table: pa.Table) -> pa.Table:
    """The table with its flags computed from the numbers in the same row, by the rules that it has.

    A row without rules gets the standing ones.

    Raises:
        RuleError: A row has rules that cannot be evaluated, or not one for every flag.
    """
    own = table["flag_rules"].to_pylist()
    standing = [{"flag": flag, "rule": rule} for flag, rule in RULES.items()]
    sets = {json.dumps(rules): rules for rules in (rules or standing for rules in own)}
    keys = pa.array([json.dumps(rules or standing) for rules in own], pa.string())
    flags = {name: pa.nulls(len(table), pa.bool_()) for name in RULES}
    for key, rules in sets.items():
        computed = evaluate_rules(table, resolve_rules({r["flag"]: r["rule"] for r in rules}))
        here = pc.equal(keys, key)
        flags = {name: pc.if_else(here, computed[name], flags[name]) for name in RULES}
    values = [json.loads(key) for key in keys.to_pylist()]
    rules_column = pa.array(values, table.schema.field("flag_rules").type)
    for name, column in {**flags, "flag_rules": rules_column}.items():
        index = table.schema.get_field_index(name)
        table = table.set_column(index, table.schema.field(index), column)
    return table


def with_rules(table: pa.Table, rules: Mapping[str, str]) -> pa.Table:
    """The table with these rules in every row; its flags are left as they are."""
    index = table.schema.get_field_index("flag_rules")
    field = table.schema.field(index)
    value = [{"flag": flag, "rule": rule} for flag, rule in rules.items()]
    return table.set_column(index, field, pa.array([value] * len(table), field.type))


def columns_markdown() -> str:
    """The text of `docs/columns.md`."""
    lines = [
        "# Columns",
        "",
        "<!-- Generated by `python -m pipeline.schema`; do not edit. -->",
        "",
        f"Schema version {SCHEMA_VERSION}. One row per task. Columns marked * are never null; the"
        " others are null in a row that failed before they were known. Columns that the manifest"
        " carries along come last. `metrics.parquet` has every column but `image` and `layout`.",
    ]
    for group, columns in GROUPS.items():
        lines += ["", f"## {group}", "", "| column | type | meaning |", "| --- | --- | --- |"]
        lines += [_markdown_row(column) for column in columns]
    return "\n".join(lines) + "\n"


def _markdown_row(column: Column) -> str:
    mark = " *" if column.required else ""
    kind = str(column.type).replace("list<item: ", "list<").replace("double", "float64")
    return f"| `{column.name}`{mark} | `{kind}` | {column.description} |"


if __name__ == "__main__":
    print(columns_markdown(), end="")
