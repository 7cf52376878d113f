"""Which columns of a row are measures and which are flags, read off the row schema.

A new float column of a group that is not listed in NOT_MEASURED is a measure, a new boolean column
is a flag; nothing here needs to know its name. The rule of a flag stands in its description, as in
"`float_loss` < `loss_threshold`".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from pipeline.columns import BOOL, GROUPS, Column

NOT_MEASURED = frozenset({"Task", "Texture", "Source", "Provenance"})
THRESHOLD_SUFFIX = "_threshold"
RULE = re.compile(rf"`(\w+)` ([<>]) `(\w+{THRESHOLD_SUFFIX})`")
# Flags that are good news when they are true; all others are faults.
GOOD_NEWS = frozenset({"below_threshold", "delivered_below_threshold", "converged", "accepted"})
# What a flag says when it is true, false and null, where its name does not say it well.
FLAG_WORDS = {
    "below_threshold": (
        "float loss below the threshold",
        "float loss above the threshold",
        "float loss: not applicable",
    ),
    "delivered_below_threshold": (
        "delivered loss below the threshold",
        "delivered loss above the threshold",
        "delivered loss: not applicable",
    ),
    "copy": ("copy of its exemplar", "no copy", "copy: not applicable"),
    "upscaled": ("exemplar upscaled", "exemplar not upscaled", "upscaled: not known"),
}


@dataclass(frozen=True)
class Rule:
    """A comparison that makes a flag true.

    Attributes:
        measure: Name of the column that is compared.
        above: Whether the flag is true above the threshold; else below it.
        threshold: Name of the column that holds the threshold.
    """

    measure: str
    above: bool
    threshold: str


@dataclass(frozen=True)
class Flag:
    """A boolean column.

    Attributes:
        name: Name of the column.
        description: Its description in the schema.
        good_news: Whether true is good.
        words: What it says when it is true, false and null.
        rules: Those that its description names.
    """

    name: str
    description: str
    good_news: bool
    words: tuple[str, str, str]
    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class Measure:
    """A column of numbers that textures can be sorted by.

    Attributes:
        name: Name of the column.
        label: The name in words.
        description: Its description in the schema.
        low_is_worst: Whether small values are the bad ones; taken from the rules of the flags, and
            False where none speaks of it.
        threshold: Column of the threshold that it is held against, if there is one.
    """

    name: str
    label: str
    description: str
    low_is_worst: bool
    threshold: str | None


def find_flags(groups: Mapping[str, tuple[Column, ...]] = GROUPS) -> tuple[Flag, ...]:
    """The boolean columns, in the order of the schema."""
    columns = [column for group in groups.values() for column in group if column.type == BOOL]
    return tuple(map(_flag, columns))


def find_measures(groups: Mapping[str, tuple[Column, ...]] = GROUPS) -> tuple[Measure, ...]:
    """The columns of numbers that say something of a texture, in the order of the schema."""
    rules = {rule.measure: (rule, flag) for flag in find_flags(groups) for rule in flag.rules}
    columns = [
        column
        for group, members in groups.items()
        if group not in NOT_MEASURED
        for column in members
        if _is_number(column.type) and not column.name.endswith(THRESHOLD_SUFFIX)
    ]
    measures = []
    for column in columns:
        rule, flag = rules.get(column.name, (None, None))
        low = rule is not None and flag is not None and rule.above == flag.good_news
        threshold = None if rule is None else rule.threshold
        said = _plain(column.description)
        measures.append(Measure(column.name, label_of(column.name), said, low, threshold))
    return tuple(measures)


def label_of(name: str) -> str:
    """A column's name in words."""
    return name.replace("_", " ")


def _flag(column: Column) -> Flag:
    name, label = column.name, label_of(column.name)
    found = RULE.findall(column.description)
    rules = tuple(Rule(measure, sign == ">", threshold) for measure, sign, threshold in found)
    words = FLAG_WORDS.get(name, (label, f"not {label}", f"{label}: not applicable"))
    return Flag(name, _plain(column.description), name in GOOD_NEWS, words, rules)


def _plain(description: str) -> str:
    return description.replace("`", "")


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def columns_of(measures: tuple[Measure, ...], flags: tuple[Flag, ...]) -> list[str]:
    """The columns of measures and flags, and those that the rules of the flags compare."""
    compared = [x for flag in flags for rule in flag.rules for x in (rule.measure, rule.threshold)]
    names = [*(measure.name for measure in measures), *(flag.name for flag in flags), *compared]
    return list(dict.fromkeys(names))
