"""Wrong values of rows are found, and their tasks named."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.columns import STATUSES
from pipeline.flags import RULES as FLAGS

Story = Any
ProblemsOf = Callable[..., dict[str, str]]
Rewrite = Callable[[Path, Callable[[pa.Table], pa.Table]], None]
SetColumn = Callable[[str, Any], Callable[[pa.Table], pa.Table]]


WRONG_VALUES: list[tuple[str, dict[str, Any], str]] = [
    ("identity", {"config_fingerprint": "f"}, "config_fingerprint is 'f', expected"),
    ("identity", {"weights_sha256": "f"}, "weights_sha256 is 'f', expected abab"),
    ("identity", {"weights_sha256": None}, "weights_sha256 is None"),
    ("seeds", {"seed": 5}, "seed is 5, expected that of run seed 7"),
    ("values", {"image": None}, "image is None, expected PNG bytes"),
    ("values", {"image": {"bytes": None, "path": "a"}}, "expected PNG bytes"),
    ("values", {"status": "timeout", "image": None}, "image is None, expected PNG bytes"),
    ("values", {"float_loss": None}, "float_loss is None, expected a finite number"),
    ("values", {"delivered_loss": math.inf}, "delivered_loss is inf"),
    ("values", {"objective_loss": math.nan}, "objective_loss is nan"),
    ("values", {"status": "failed", "error_type": None}, "error_type is None"),
    ("values", {"status": "quarantined", "error": None}, "error is None"),
    ("images", {"height": 9}, "PNG of 8x8 px, the row says 8x9"),
    ("images", {"width": None}, "PNG of 8x8 px, the row says Nonex8"),
    ("exemplars", {"exemplar_sha256": "00"}, "'images/t03.jpg': sha256 is "),
]


@pytest.mark.parametrize(("check", "values", "text"), WRONG_VALUES)
def test_a_wrong_value_is_found_and_its_task_named(
    story: Story, check: str, values: dict[str, Any], text: str, problems_of: ProblemsOf
) -> None:
    story.commit([task for task in story.ids if task != "t03"])
    path = story.commit(["t03"], **values)
    problems = problems_of(story.run)
    assert text in problems[check]
    if check != "exemplars":
        assert list(problems) == [check]
        assert problems[check].startswith(f"shards/{path.name}: task 't03': ")


UNFLAGGED: dict[str, Any] = {
    **{"displacement_score": 0.9, "copy_displacement_threshold": 0.5, "verbatim_share": 0.0},
    **{"layout_correlation": 0.1, "copy_layout_threshold": 0.8, "phase_correlation_peak": 0.0},
    **{"loss_threshold": 1e12, "stop_reason": "budget", "exemplar_kind": "regular"},
    **{"clipped_share": 0.0, "exemplar_clipped_share": 0.0, "high_frequency_ratio": 1.0},
    **{"chroma_noise": 0.0, "exemplar_chroma_noise": 0.0, "colour_mean_distance": 0.0},
    **{"sliced_wasserstein": 0.0, "held_out_gram_error": 0.0, "sibling_distance": 1.0},
    **{"wavelet_kl": 0.1, "exemplar_border_contrast": 0.1},
}
"""Numbers of a texture without a fault."""


def test_rules_that_are_none_are_found(
    story: Story, problems_of: ProblemsOf, rewrite: Rewrite, set_column: SetColumn
) -> None:
    path = story.commit(story.ids, **UNFLAGGED)
    rewrite(path, set_column("flag_rules", [{"flag": "copy", "rule": "a <"}]))
    assert "flag_rules" in problems_of(story.run)["flags"]


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("known", [True, False])
def test_a_flag_must_agree_with_its_numbers(
    story: Story,
    name: str,
    known: bool,
    problems_of: ProblemsOf,
    rewrite: Rewrite,
    set_column: SetColumn,
) -> None:
    path = story.commit(story.ids, **UNFLAGGED)
    assert problems_of(story.run) == {}
    right = name in ("below_threshold", "delivered_below_threshold", "accepted")
    value = (not right) if known else None
    rewrite(path, set_column(name, value))
    problems = problems_of(story.run)
    assert list(problems) == ["flags"]
    assert f"task 't00': {name} is {value}, expected what its numbers" in problems["flags"]


def test_values_that_no_row_has_are_found(
    story: Story, problems_of: ProblemsOf, rewrite: Rewrite, set_column: SetColumn
) -> None:
    path = story.commit(story.ids)
    for name, value in (("status", "done"), ("status", None), ("preset", None), ("seed", None)):
        saved = path.read_bytes()
        rewrite(path, set_column(name, value))
        assert f"{name} is {value!r}" in problems_of(story.run)["values"]
        path.write_bytes(saved)
    assert "quarantined" in STATUSES
