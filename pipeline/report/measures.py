"""Which columns of a row are measures and which are flags, read off the row schema.

A column of numbers in a group that is not listed in NOT_MEASURED is a measure, a boolean column is
a flag; nothing here needs to know their names. The rules of the flags say at which end of a measure
the bad textures are, and where its threshold is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from pipeline.columns import BOOL, GROUPS, Column
from pipeline.flags import FAULTS, RULES, find_comparisons

NOT_MEASURED = frozenset({"Task", "Texture", "Source", "Provenance"})
THRESHOLD_SUFFIX = "_threshold"
ACCEPTED = "accepted"
GOOD_NEWS = frozenset({"below_threshold", "delivered_below_threshold", ACCEPTED})
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
    "copy": ("copy of its exemplar", "no copy", "copy: not known"),
    "shifted_copy": ("shifted copy", "no shifted copy", "shifted copy: not known"),
    "sibling_duplicate": (
        "duplicate of an earlier texture",
        "no duplicate of an earlier texture",
        "duplicate of an earlier texture: not known",
    ),
    "not_a_texture": (
        "exemplar is not a texture",
        "exemplar is a texture",
        "exemplar: not known whether a texture",
    ),
    "upscaled": ("exemplar upscaled", "exemplar not upscaled", "upscaled: not known"),
}


@dataclass(frozen=True)
class Flag:
    """A boolean column.

    Attributes:
        name: Name of the column.
        description: Its description in the schema.
        good_news: Whether true is good; None where neither value is good or bad.
        words: What it says when it is true, false and null.
    """

    name: str
    description: str
    good_news: bool | None
    words: tuple[str, str, str]


@dataclass(frozen=True)
class Measure:
    """A column of numbers that textures can be sorted by.

    Attributes:
        name: Name of the column.
        label: The name in words.
        description: Its description in the schema.
        low_is_worst: Whether small values are the bad ones; False where no rule tells.
        threshold: What a rule compares it with, a number or the name of a column.
    """

    name: str
    label: str
    description: str
    low_is_worst: bool
    threshold: float | str | None


def find_flags(groups: Mapping[str, tuple[Column, ...]] = GROUPS) -> tuple[Flag, ...]:
    """The boolean columns, in the order of the schema."""
    columns = [column for group in groups.values() for column in group if column.type == BOOL]
    return tuple(map(_flag, columns))


def find_measures(
    groups: Mapping[str, tuple[Column, ...]] = GROUPS, rules: Mapping[str, str] = RULES
) -> tuple[Measure, ...]:
    """The columns of numbers that say something of a texture, in the order of the schema.

    Args:
        groups: Columns by group.
        rules: Expression by flag.
    """
    compared = _comparisons(find_flags(groups), rules)
    return tuple(
        Measure(
            column.name,
            label_of(column.name),
            _plain(column.description),
            *compared.get(column.name, (False, None)),
        )
        for group, columns in groups.items()
        if group not in NOT_MEASURED
        for column in columns
        if _is_number(column.type) and not column.name.endswith(THRESHOLD_SUFFIX)
    )


def label_of(name: str) -> str:
    """A column's name in words."""
    return name.replace("_", " ")


def _comparisons(
    flags: tuple[Flag, ...], rules: Mapping[str, str]
) -> dict[str, tuple[bool, float | str]]:
    """By measure: whether low is worst, and the threshold."""
    rated = {flag.name: flag.good_news for flag in flags if flag.good_news is not None}
    return {
        one.measure: (one.is_below != rated[one.flag], one.threshold)
        for one in find_comparisons(rules)
        if one.flag in rated and one.flag != ACCEPTED
    }


def _flag(column: Column) -> Flag:
    name, label = column.name, label_of(column.name)
    good_news = True if name in GOOD_NEWS else False if name in FAULTS else None
    words = FLAG_WORDS.get(name, (label, f"not {label}", f"{label}: not known"))
    return Flag(name, _plain(column.description), good_news, words)


def _plain(description: str) -> str:
    return description.replace("`", "")


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))
