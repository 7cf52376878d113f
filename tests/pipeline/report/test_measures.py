"""Which columns are measures and flags, and what categories have of them."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa

from pipeline.columns import BOOL, FLOAT, INT64, Column
from pipeline.flags import FAULTS
from pipeline.report.categories import tabulate_categories
from pipeline.report.measures import Flag, Measure, find_flags, find_measures


def test_measures_and_flags_come_from_the_schema() -> None:
    groups = {
        "Task": (Column("seed", INT64, ""),),
        "Anything": (
            Column("blur", FLOAT, "Blur of `image`."),
            Column("grain", FLOAT, "Grain."),
            Column("loss", FLOAT, "Loss."),
            Column("blur_threshold", FLOAT, "A limit."),
            Column("per_tap", pa.list_(FLOAT), ""),
            Column("noisy", BOOL, ""),
            Column("below_threshold", BOOL, ""),
            Column("of_late", BOOL, ""),
        ),
    }
    rules = {
        "noisy": "blur < blur_threshold OR grain > 2.5",
        "below_threshold": "loss < limit + 1",
        "of_late": "loss > 3",
    }
    measures, flags = find_measures(groups, rules), find_flags(groups)
    found = [(m.name, m.description, m.low_is_worst, m.threshold) for m in measures]
    assert found == [
        ("blur", "Blur of image.", True, "blur_threshold"),
        ("grain", "Grain.", False, 2.5),
        ("loss", "Loss.", False, None),
    ]
    assert [(f.name, f.good_news, f.words[0]) for f in flags] == [
        ("noisy", False, "noisy"),
        ("below_threshold", True, "float loss below the threshold"),
        ("of_late", None, "of late"),
    ]


def test_rules_of_the_real_schema_are_read() -> None:
    worst_low = {m.name for m in find_measures() if m.low_is_worst}
    assert worst_low == {"displacement_score", "sibling_distance"}
    thresholds = {m.name: m.threshold for m in find_measures()}
    assert thresholds["delivered_loss"] == "loss_threshold"
    assert thresholds["layout_correlation"] == "copy_layout_threshold"
    assert {flag.name for flag in find_flags() if flag.good_news is False} == {*FAULTS}


def test_categories_are_counted() -> None:
    rows = pd.DataFrame(
        {
            "category": ["a", "a", "a", "b", None, "b"],
            "status": ["ok", "ok", "failed", "ok", "ok", "ok"],
            "copy": [True, None, None, False, True, False],
            "flagged": [True, False, False, False, True, False],
            "loss": [1.0, 3.0, None, 5.0, 7.0, 6.0],
        }
    )
    flag = Flag("copy", "", False, ("", "", ""))
    measure = Measure("loss", "loss", "", False, None)
    found = tabulate_categories(rows, (measure,), (flag,))
    assert [(c.name, c.rows, c.good, c.flagged, c.failed) for c in found] == [
        (None, 1, 0, 1, 0),
        ("a", 3, 1, 1, 1),
        ("b", 2, 2, 0, 0),
    ]
    assert [c.medians for c in found] == [(7.0,), (2.0,), (5.5,)]
    assert [c.faults for c in found] == [(1,), (1,), (0,)]
