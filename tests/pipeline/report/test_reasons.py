"""Why a texture is flagged, in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pipeline.flags import RULES
from pipeline.report.measures import find_flags
from pipeline.report.reasons import describe_faults
from pipeline.schema import row_schema, rows_to_table

Row = dict[str, Any]
MakeRow = Callable[..., Row]


def test_faults_in_words(make_row: MakeRow) -> None:
    numbers = {
        "good": {"float_loss": 12.0, "delivered_loss": 13.0, "loss_threshold": 1500.0},
        "high": {"float_loss": 12.0, "delivered_loss": 1500.0, "loss_threshold": 1500.0},
        "unrated": {"float_loss": 12.0, "delivered_loss": 9e9},
        "copy": {
            **{"displacement_score": 0.41, "copy_displacement_threshold": 0.5},
            **{"layout_correlation": 0.9, "copy_layout_threshold": 0.8},
        },
        "noisy": {"chroma_noise": 0.05, "exemplar_chroma_noise": 0.001},
    }
    rows = [make_row(f"{name}-c0-v0", **values) for name, values in numbers.items()]
    failed = make_row("f-c0-v0", status="failed", **numbers["copy"])
    table = rows_to_table([*rows, failed], row_schema())
    assert describe_faults(table, find_flags())[:-1] == [
        [],
        ["delivered loss above the threshold: delivered loss 1,500 is not below 1,500"],
        [],
        ["copy of its exemplar: displacement score 0.41 < 0.5; layout correlation 0.9 > 0.8"],
        ["noisy: chroma noise 0.05 > 3 * exemplar chroma noise 0.001 + 0.01"],
    ]


def test_faults_go_by_the_rules_of_the_row(make_row: MakeRow) -> None:
    changed = RULES | {"copy": "(seconds > 1 OR seconds < -1) AND seconds > 2 OR status = 'ok'"}
    rules = [{"flag": name, "rule": rule} for name, rule in changed.items()]
    rows = [
        make_row("a-c0-v0", seconds=3.0, flag_rules=rules),
        make_row("b-c0-v0", seconds=1.5, flag_rules=rules),
        make_row("c-c0-v0", seconds=3.0),
    ]
    table = rows_to_table(rows, row_schema())
    assert describe_faults(table, find_flags()) == [
        [
            "copy of its exemplar: (seconds 3 > 1 OR seconds 3 < -1) AND seconds 3 > 2;"
            " status = 'ok'"
        ],
        ["copy of its exemplar: status = 'ok'"],
        [],
    ]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("status = 'a OR b' OR status = 'ok'", "status = 'a OR b' OR status = 'ok'"),
        ("CASE WHEN seconds > 1 OR seconds < 0 THEN true END", "CASE WHEN seconds 3 > 1 OR"),
        ("seconds > 1 -- OR so", "seconds 3 > 1 -- OR so"),
        ("evaluations > 1 OR seconds > 1", "seconds 3 > 1"),
    ],
)
def test_a_rule_that_cannot_be_taken_apart_stands_whole(
    make_row: MakeRow, rule: str, said: str
) -> None:
    rules = [{"flag": name, "rule": r} for name, r in (RULES | {"noisy": rule}).items()]
    table = rows_to_table([make_row("a-c0-v0", seconds=3.0, flag_rules=rules)], row_schema())
    ((text,),) = describe_faults(table, find_flags())
    assert text.startswith(f"noisy: {said}")
