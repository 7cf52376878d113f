"""Why a texture is flagged, in words: the parts of a flag's rule that hold, with their numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.flags import RULES, RuleError, evaluate_rules
from pipeline.report.measures import ACCEPTED, Flag, label_of
from pipeline.report.text import format_number

THRESHOLD_SUFFIX = "_threshold"
NAME = re.compile(r"\b[a-z]\w*\b")
OPPOSITES = {"<": "is not below", ">": "is not above"}
COMPARISON = re.compile(r"(.+?) ([<>]) (.+)")
# What only says that the unknown does not count.
KNOWN_TO_HOLD = re.compile(r"\(([^()]*)\) IS TRUE")

Rules = Mapping[str, str]


def rules_of_rows(table: pa.Table) -> Sequence[Rules]:
    """The rule of every flag, for each row; the standing rules where a row has none."""
    own = table["flag_rules"].to_pylist()
    return [{entry["flag"]: entry["rule"] for entry in row or ()} or {**RULES} for row in own]


def describe_faults(table: pa.Table, flags: Sequence[Flag]) -> list[list[str]]:
    """What is wrong with each row, one text per flag that is bad news.

    Args:
        table: All plain columns of the rows, flags included, and `flag_rules`.
        flags: Those to look at.
    """
    rules = rules_of_rows(table)
    keys = [json.dumps(row) for row in rules]
    said: list[list[str]] = [[] for _ in keys]
    for key in dict.fromkeys(keys):
        numbers = [number for number, other in enumerate(keys) if other == key]
        part = table.take(numbers)
        for flag in flags:
            found = _describe_flag(part, flag, rules[numbers[0]])
            for number, text in zip(numbers, found, strict=True):
                said[number] += [text] if text else []
    return said


def _describe_flag(table: pa.Table, flag: Flag, rules: Rules) -> list[str]:
    """Of each row what makes the flag bad news; empty where it is not."""
    texts = [""] * len(table)
    if flag.good_news is None or flag.name == ACCEPTED:
        return texts
    bad = pc.indices_nonzero(pc.equal(table[flag.name], not flag.good_news)).to_pylist()
    if bad:
        words = flag.words[1 if flag.good_news else 0]
        for number, reason in zip(bad, _reasons(table.take(bad), flag, rules), strict=True):
            texts[number] = f"{words}: {reason}" if reason else words
    return texts


def _reasons(table: pa.Table, flag: Flag, rules: Rules) -> list[str]:
    """The parts of a rule that decided it, of rows where it is bad news."""
    held = _find_decisive(table, flag, rules)
    named = {name for clause in held for name in NAME.findall(clause)}
    numbers = {
        name: table[name].to_pylist()
        for name in table.column_names
        if name in named and _is_number(table, name)
    }
    rows = [{name: column[k] for name, column in numbers.items()} for k in range(len(table))]
    return [
        "; ".join(
            describe_clause(clause, row, denied=bool(flag.good_news))
            for clause, holds in held.items()
            if holds[number]
        )
        for number, row in enumerate(rows)
    ]


def _find_decisive(table: pa.Table, flag: Flag, rules: Rules) -> dict[str, list[bool | None]]:
    """The parts of a rule, and for each row whether that part decided it."""
    rule = rules.get(flag.name, "")
    clauses = split_alternatives(rule)
    if flag.good_news:
        # One comparison that does not hold says enough; of several nobody knows which was meant.
        return {clause: [True] * len(table) for clause in clauses if len(clauses) == 1}
    named = {f"{flag.name}/{k}": clause for k, clause in enumerate(clauses)}
    try:
        found = evaluate_rules(table, {**rules, **named})
    except RuleError:
        # The parts are none of their own, as in `CASE WHEN a OR b ...`: the rule stands whole.
        return {rule: [True] * len(table)}
    return {clause: found[name].to_pylist() for name, clause in named.items()}


def split_alternatives(rule: str) -> list[str]:
    """The parts of `a OR b OR c`; what stands in parentheses stays whole."""
    parts, depth = [""], 0
    for word in re.split(r"(\s+|[()])", rule):
        depth += (word == "(") - (word == ")")
        if word.upper() == "OR" and not depth:
            parts.append("")
        else:
            parts[-1] += word
    return [part.strip() for part in parts if part.strip()]


def describe_clause(clause: str, row: Mapping[str, Any], *, denied: bool) -> str:
    """A comparison with the numbers of a row: `displacement score 0.12 < 0.5`.

    Args:
        clause: Of a rule.
        row: Its numbers.
        denied: Whether the clause does not hold; then only a plain comparison is described.
    """
    if denied:
        comparison = COMPARISON.fullmatch(clause)
        if comparison is None:
            return ""
        left, sign, right = comparison.groups()
        clause = f"{left} {OPPOSITES[sign]} {right}"
    clause = KNOWN_TO_HOLD.sub(r"\1", clause)
    return NAME.sub(lambda name: _fill_in(name.group(), row), clause)


def _fill_in(name: str, row: Mapping[str, Any]) -> str:
    if name not in row:
        return label_of(name) if "_" in name else name
    number = format_number(row[name])
    return number if name.endswith(THRESHOLD_SUFFIX) else f"{label_of(name)} {number}"


def _is_number(table: pa.Table, name: str) -> bool:
    kind = table.schema.field(name).type
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))
