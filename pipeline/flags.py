"""Flags: what the numbers of a row say about its texture, each by a rule that stands beside it.

A rule is a boolean SQL expression over the columns of the same row, flags before it included.
DuckDB evaluates it, with no access to files. NaN counts as null, and null is SQL's: unknown unless
the rest of the rule decides.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.types as pt

from pipeline.sandbox import lock_sandbox, open_sandbox, quote_name

FAULTS = (
    *("copy", "shifted_copy", "sibling_duplicate", "clipped", "noisy", "off_colour"),
    *("structure_lost", "not_a_texture"),
)
"""Flags of which an accepted texture has none."""
RULES: dict[str, str] = {
    "below_threshold": "float_loss < loss_threshold",
    "delivered_below_threshold": "delivered_loss < loss_threshold",
    "converged": "stop_reason = 'plateau'",
    "copy": "displacement_score < copy_displacement_threshold"
    # Unknown for a texture of another size than its exemplar, which the others tell of alone.
    " OR (layout_correlation > copy_layout_threshold) IS TRUE"
    " OR (verbatim_share > 0.3 AND exemplar_kind <> 'regular') IS TRUE",
    "shifted_copy": "phase_correlation_peak > 0.5",
    "sibling_duplicate": "sibling_distance < 0.1",
    "clipped": "clipped_share > exemplar_clipped_share + 0.3",
    "noisy": "high_frequency_ratio > 2 OR chroma_noise > 3 * exemplar_chroma_noise + 0.01",
    "off_colour": "colour_mean_distance > 0.05 OR sliced_wasserstein > 0.05",
    "structure_lost": "held_out_gram_error > 0.6 OR wavelet_kl > 2",
    "not_a_texture": "exemplar_kind IN ('flat', 'not_stationary', 'too_few_repeats')"
    " OR exemplar_border_contrast > 0.8",
    "accepted": "status = 'ok' AND delivered_below_threshold IS NOT FALSE AND "
    + " AND ".join(f"{fault} IS NOT TRUE" for fault in FAULTS),
}
"""Rule of every flag, in the order in which they are computed."""

# Ways to mean a column without its plain name: COLUMNS('regex'), #2, and "what is ""quoted""".
OTHER_NAMES = re.compile(r'columns|[#"]')
# A measure and a column or number, with nothing added to it.
COMPARISON = re.compile(r"\b([a-z]\w*) ([<>]) ([\w.]+)(?= OR | AND |\)|$)")


@dataclass(frozen=True)
class Comparison:
    """A part of a rule that holds one measure against one threshold.

    Attributes:
        flag: Whose rule it is.
        measure: A column.
        is_below: Whether the flag is set below the threshold; above it otherwise.
        threshold: A number, or the name of a column.
    """

    flag: str
    measure: str
    is_below: bool
    threshold: float | str


class RuleError(ValueError):
    """A rule that cannot be evaluated; the message names it."""


def resolve_rules(changes: Mapping[str, str]) -> dict[str, str]:
    """All rules, those of `changes` in place of the standing ones.

    Raises:
        RuleError: for a flag that does not exist.
    """
    unknown = sorted(set(changes) - set(RULES))
    if unknown:
        raise RuleError(f"no flag {', '.join(unknown)}; flags: {', '.join(RULES)}")
    return {name: changes.get(name, rule) for name, rule in RULES.items()}


def parse_rule(text: str) -> tuple[str, str]:
    """`name: expression` taken apart.

    Raises:
        RuleError: if it is not of that form.
    """
    name, colon, rule = text.partition(":")
    if not colon or not name.strip() or not rule.strip():
        raise RuleError(f"rule is {text!r}, expected 'name: expression'")
    return name.strip(), rule.strip()


def find_comparisons(rules: Mapping[str, str] = RULES) -> list[Comparison]:
    """The comparisons in some rules, in their order; what is computed first is passed over."""
    return [
        Comparison(flag, measure, sign == "<", _number_or_name(threshold))
        for flag, rule in rules.items()
        for measure, sign, threshold in COMPARISON.findall(rule)
    ]


def validate_rules(rules: Mapping[str, str], schema: pa.Schema) -> None:
    """Raise unless every rule is one boolean expression over rows of a schema.

    Raises:
        RuleError: naming the flag, its rule and what is wrong.
    """
    rows = _plain_columns(schema.empty_table(), rules)
    for name, rule in rules.items():
        where = f"rule of flag {name!r}: {rule!r}"
        asked = f"SELECT ({rule}\n) FROM (SELECT * FROM rows)"  # noqa: S608 - what is validated
        try:
            if len(duckdb.extract_statements(asked)) > 1:
                raise RuleError(f"{where} is several statements, expected one expression")
            answer = _run(rows, asked).schema
        except duckdb.Error as error:
            raise RuleError(f"{where}: {error}") from error
        if len(answer) != 1 or not pt.is_boolean(answer.field(0).type):
            got = ", ".join(str(field.type) for field in answer)
            raise RuleError(f"{where} gives {got}, expected true or false")
        rows = rows.append_column(name, pa.nulls(0, pa.bool_()))


def evaluate_rules(table: pa.Table, rules: Mapping[str, str]) -> pa.Table:
    """The flags of some rows: a boolean column for every rule, in the order of the rules.

    Args:
        table: rows with the columns that the rules name; stored flags are not looked at.
        rules: expression by flag.

    Raises:
        RuleError: if DuckDB refuses one.
    """
    rows = _named_columns(_plain_columns(table, rules), rules)
    query = _without_nan(rows.schema)
    for level in _levels(rules):
        query = _with_flags(query, level)
    flags = ", ".join(map(quote_name, rules))
    try:
        return _run(rows, f"SELECT {flags} FROM ({query})")  # noqa: S608 - quoted names
    except duckdb.Error as error:
        raise RuleError(f"rules {dict(rules)}: {error}") from error


def _plain_columns(table: pa.Table, but: Collection[str]) -> pa.Table:
    """Columns that a rule can compare: no lists, no structs; and none of the flags themselves."""
    names = [f.name for f in table.schema if not pt.is_nested(f.type) and f.name not in but]
    return table.select(names)


def _named_columns(table: pa.Table, rules: Mapping[str, str]) -> pa.Table:
    """Without the columns that no rule can mean: DuckDB plans three times as long with all."""
    text = " ".join(rules.values()).casefold()
    if OTHER_NAMES.search(text):
        return table
    named = [name for name in table.column_names if name.casefold() in text]
    return table.select(named) if named else table


def _without_nan(schema: pa.Schema) -> str:
    """A query of all columns, NaN being null."""
    return f"SELECT {', '.join(map(_number_or_null, schema))} FROM rows"  # noqa: S608 - quoted names


def _levels(rules: Mapping[str, str]) -> list[dict[str, str]]:
    """The rules in their order, in groups of which none means a flag of its own group."""
    levels: list[dict[str, str]] = [{}]
    for name, rule in rules.items():
        text = rule.casefold()
        if OTHER_NAMES.search(text) or any(flag.casefold() in text for flag in levels[-1]):
            levels.append({})
        levels[-1][name] = rule
    return levels


def _with_flags(query: str, rules: Mapping[str, str]) -> str:
    # A comment in a rule ends with its line.
    flags = ", ".join(f"({rule}\n) AS {quote_name(name)}" for name, rule in rules.items())
    return f"SELECT *, {flags} FROM ({query})"  # noqa: S608 - validated


def _run(rows: pa.Table, query: str) -> pa.Table:
    with _connection().cursor() as cursor:
        cursor.register("rows", rows)
        return cursor.sql(query).to_arrow_table()


@functools.cache
def _connection() -> duckdb.DuckDBPyConnection:
    """One for the process, whose cursors are threads' own."""
    connection = open_sandbox()
    connection.execute("SET threads = 1")
    lock_sandbox(connection)
    return connection


def _number_or_null(field: pa.Field) -> str:
    name = quote_name(field.name)
    if not pt.is_floating(field.type):
        return name
    return f"CASE WHEN isnan({name}) THEN NULL ELSE {name} END AS {name}"


def _number_or_name(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
