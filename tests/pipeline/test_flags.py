from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.flags import (
    RULES,
    Comparison,
    RuleError,
    evaluate_rules,
    find_comparisons,
    parse_rule,
    resolve_rules,
    validate_rules,
)
from pipeline.schema import row_schema

SCHEMA = pa.schema(
    [("a", pa.float64()), ("s", pa.string()), ("image", pa.struct([("x", "int32")]))]
)


def rows_of(*values: float | None) -> pa.Table:
    return pa.Table.from_pylist([{"a": value, "s": "t"} for value in values], SCHEMA)


def test_standing_rules_are_good() -> None:
    validate_rules(RULES, row_schema())


def test_a_rule_may_use_the_flags_before_it() -> None:
    flags = evaluate_rules(rows_of(1.0, 3.0), {"low": "a < 2", "fine": "low AND s = 't'"})
    assert flags.to_pylist() == [{"low": True, "fine": True}, {"low": False, "fine": False}]
    with pytest.raises(RuleError, match="later"):
        validate_rules({"fine": "later", "later": "a < 2"}, SCHEMA)


@pytest.mark.parametrize(
    "rule",
    [
        "a < 2",
        "A < 2",
        '"a" < 2',
        "COLUMNS('^a') < 2",
        "#1 < 2",
        "least(*COLUMNS('a')) < 2",
        "true",
    ],
)
def test_a_rule_names_a_column_as_it_likes(rule: str) -> None:
    rules = {"low": rule, "lower": 'a < 1 AND "LOW"', "lowest": "NOT (Lower OR low)"}
    validate_rules(rules, SCHEMA)
    low = [True, True, rule == "true"]
    flags = evaluate_rules(rows_of(0.0, 1.0, 2.0), rules).to_pydict()
    expected = {"low": low, "lower": [True, False, False], "lowest": [not value for value in low]}
    assert flags == expected


@pytest.mark.parametrize("missing", [None, math.nan])
def test_what_is_not_known_is_null_unless_the_rest_decides(missing: float | None) -> None:
    rules = {"low": "a < 2", "either": "a < 2 OR s = 't'", "both": "a < 2 AND s = 'u'"}
    (row,) = evaluate_rules(rows_of(missing), rules).to_pylist()
    assert row == {"low": None, "either": True, "both": False}


def test_stored_flags_are_not_looked_at() -> None:
    table = rows_of(1.0).append_column("low", pa.array([False]))
    assert evaluate_rules(table, {"low": "a < 2"}).to_pylist() == [{"low": True}]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("a", "gives double, expected true or false"),
        ("a < 2, a > 3", "expected true or false"),
        ("nothing < 1", "nothing"),
        ("a <", "syntax error"),
        ("a < 2); DROP TABLE rows; SELECT (1", "several statements"),
        ("true) AS q, (1 = 1", "gives bool, bool, expected true or false"),
        ("a < (SELECT count(*) FROM read_csv('/etc/passwd'))", "Permission Error"),
        ("image IS NULL", "image"),
    ],
)
def test_a_rule_that_is_none_is_refused_by_name(rule: str, message: str) -> None:
    with pytest.raises(RuleError, match=message) as caught:
        validate_rules({"low": rule}, SCHEMA)
    assert str(caught.value).startswith(f"rule of flag 'low': {rule!r}")


def test_a_comment_ends_with_its_rule() -> None:
    rules = {"low": "a < 2 -- as in 2016", "high": "NOT low"}
    validate_rules(rules, SCHEMA)
    assert evaluate_rules(rows_of(5.0), rules).to_pylist() == [{"low": False, "high": True}]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("copy: a < 1", ("copy", "a < 1")), (" copy :s = 'x:y' ", ("copy", "s = 'x:y'"))],
)
def test_rules_are_given_as_name_and_expression(text: str, expected: Any) -> None:
    assert parse_rule(text) == expected


@pytest.mark.parametrize("text", ["copy", "copy:", ": a < 1"])
def test_half_a_rule_is_refused(text: str) -> None:
    with pytest.raises(RuleError, match="expected 'name: expression'"):
        parse_rule(text)


def test_changed_rules_keep_their_place() -> None:
    rules = resolve_rules({"converged": "evaluations < 5"})
    assert list(rules) == list(RULES)
    assert rules["converged"] == "evaluations < 5"
    assert rules["copy"] == RULES["copy"]
    with pytest.raises(RuleError, match="no flag nonsense; flags: below_threshold"):
        resolve_rules({"nonsense": "true"})


def test_the_page_has_the_standing_rules() -> None:
    page = (Path(__file__).parents[2] / "docs" / "quality.md").read_text()
    for name, rule in RULES.items():
        if name != "accepted":
            assert f"| `{name}` | `{rule}` |" in page
    assert all(f"`{name}`" in page for name in RULES)


def test_a_rule_sees_no_variable_of_the_program() -> None:
    secrets = pa.table({"x": [1]})
    with pytest.raises(RuleError, match="secrets"):
        validate_rules({"low": "a < (SELECT max(x) FROM secrets)"}, SCHEMA)
    assert secrets.num_rows == 1


def test_comparisons_are_read_off_the_rules() -> None:
    rules = {"copy": "a < b OR c > 0.5", "clipped": "d > e + 0.1", "gone": "k IN ('x')"}
    assert find_comparisons(rules) == [
        Comparison("copy", "a", True, "b"),
        Comparison("copy", "c", False, 0.5),
    ]
