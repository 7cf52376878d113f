from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest

from texsynth import ConfigError, LBFGSConfig, SynthesisConfig

SPECTRUM_WEIGHT_RANGE = (
    "'reference', or 0 to 1000 in units of the reference's balance at 256 px; what was 1e5 in "
    "earlier versions is 'reference'"
)


def test_reference_preset_is_the_public_implementation() -> None:
    config = SynthesisConfig.preset("reference")
    assert config == SynthesisConfig(
        taps="reference",
        gram_weight=1e9,
        spectrum="gray",
        spectrum_weight="reference",
        clamp=False,
        range_weight=0.0,
        weighting="none",
        settle=False,
        start="noise",
        levels=1,
        evaluations=500 * 20,
        plateau_tolerance=0.0,
        keep_best=False,
        optimizer=LBFGSConfig(history=100, line_search="none", first_step=1.0),
    )


def test_default_preset_is_the_default() -> None:
    config = SynthesisConfig.preset("default")
    assert config == SynthesisConfig()
    assert (config.taps, config.spectrum, config.start) == ("auto", "colour", "random_phase")
    assert (config.range_weight, config.gram_weight) == (1e5, 1e9)
    assert config.spectrum_weight == "reference"
    assert config.levels == "auto"
    assert config.keep_best
    assert config.clamp
    assert (config.optimizer.line_search, config.optimizer.history) == ("armijo", 100)


@pytest.mark.parametrize("preset", ["default", "reference"])
def test_preset_with_changes(preset: Any) -> None:
    config = SynthesisConfig.preset(preset, evaluations=7, spectrum="none")
    unchanged = SynthesisConfig.preset(preset)
    assert config == dataclasses.replace(unchanged, evaluations=7, spectrum="none")


def test_unknown_preset_names_the_presets() -> None:
    with pytest.raises(ConfigError, match="preset is 'fast', expected one of default, reference"):
        SynthesisConfig.preset("fast")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("taps", "all", "one of auto, reference"),
        ("taps", (), "'auto', 'reference' or some names"),
        ("gram_weight", -1.0, "at least 0"),
        ("spectrum_weight", -1e-9, SPECTRUM_WEIGHT_RANGE),
        ("spectrum_weight", math.nan, SPECTRUM_WEIGHT_RANGE),
        ("spectrum_weight", 1e5, SPECTRUM_WEIGHT_RANGE),
        ("range_weight", -1.0, "at least 0"),
        (
            "range_weight",
            0.0,
            "above 0 with clamp, or pixels outside [0, 1] would never return",
        ),
        ("plateau_tolerance", -0.1, "at least 0"),
        ("spectrum", "color", "one of none, gray, colour"),
        ("start", "exemplar", "one of noise, random_phase"),
        ("levels", 0, "'auto' or at least 1"),
        ("evaluations", 0.5, "at least 1"),
        ("evaluations", math.nan, "at least 1"),
        ("plateau_evaluations", 0, "at least 1"),
        ("time_limit_s", 0.0, "above 0, or null"),
    ],
)
def test_settings_out_of_range_name_field_value_and_range(
    field: str, value: Any, expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        SynthesisConfig(**{field: value})
    assert str(caught.value) == f"{field} is {value!r}, expected {expected}"


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("history", 0, "at least 1"),
        ("line_search", "wolfe", "one of armijo, none"),
        ("first_step", 0.0, "above 0"),
        ("curvature_tolerance", 1.0, "in [0, 1)"),
        ("curvature_tolerance", -1e-12, "in [0, 1)"),
        ("sufficient_decrease", 0.0, "in (0, 1)"),
        ("sufficient_decrease", 1.0, "in (0, 1)"),
        ("max_backtracks", 0, "at least 1"),
    ],
)
def test_optimizer_settings_out_of_range(field: str, value: Any, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        LBFGSConfig(**{field: value})
    assert str(caught.value) == f"optimizer.{field} is {value!r}, expected {expected}"


def test_configs_are_frozen_and_keyword_only() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SynthesisConfig().evaluations = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        SynthesisConfig("auto")  # type: ignore[misc]
    with pytest.raises(TypeError):
        LBFGSConfig(100)  # type: ignore[misc]


def test_taps_become_a_tuple() -> None:
    config = SynthesisConfig(taps=["pool1", "pool2"])  # type: ignore[arg-type]
    assert config.taps == ("pool1", "pool2")
    assert hash(config) == hash(SynthesisConfig(taps=("pool1", "pool2")))


@pytest.mark.parametrize("taps", ["auto", "reference", ("relu1_1", "pool2")])
def test_to_dict_survives_json(taps: Any) -> None:
    optimizer = LBFGSConfig(history=7, line_search="none")
    config = SynthesisConfig(taps=taps, levels=2, time_limit_s=9.5, optimizer=optimizer)
    values = json.loads(json.dumps(config.to_dict()))
    assert SynthesisConfig().with_values(values) == config
    assert values["optimizer"]["history"] == 7


def test_with_values_changes_what_is_named_and_nothing_else() -> None:
    reference = SynthesisConfig.preset("reference")
    changed = reference.with_values({"spectrum": "none", "optimizer": {"history": 5}})
    assert changed.optimizer == dataclasses.replace(reference.optimizer, history=5)
    assert changed == dataclasses.replace(reference, spectrum="none", optimizer=changed.optimizer)
    assert reference == SynthesisConfig.preset("reference")


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"evaluation": 3}, "evaluation"),
        ({"optimizer": {"histroy": 3}}, "optimizer.histroy"),
        ({"b": 1, "a": 1}, "a, b"),
    ],
)
def test_unknown_settings_are_refused_by_name(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown setting {named}; known: .*"):
        SynthesisConfig().with_values(values)


def test_with_values_validates() -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.history is 0"):
        SynthesisConfig().with_values({"optimizer": {"history": 0}})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"evaluations": "x"}, "evaluations is 'x', expected a number"),
        ({"evaluations": None}, "evaluations is None, expected a number"),
        ({"evaluations": math.inf}, "evaluations is inf, expected a number"),
        ({"gram_weight": True}, "gram_weight is True, expected a number"),
        ({"plateau_evaluations": 2.5}, "plateau_evaluations is 2.5, expected a whole number"),
        ({"levels": "coarse"}, "levels is 'coarse', expected a whole number or 'auto'"),
        (
            {"spectrum_weight": "auto"},
            "spectrum_weight is 'auto', expected a number or 'reference'",
        ),
        ({"gram_weight": "reference"}, "gram_weight is 'reference', expected a number"),
        ({"levels": [2]}, r"levels is \[2\], expected a whole number"),
        ({"time_limit_s": "1h"}, "time_limit_s is '1h', expected a number"),
        ({"keep_best": "yes"}, "keep_best is 'yes', expected true or false"),
        ({"taps": 3}, "taps is 3, expected 'auto', 'reference' or some names"),
        ({"taps": [1]}, r"taps is \[1\], expected 'auto', 'reference' or some names"),
        ({"optimizer": 3}, "optimizer is 3, expected a mapping of its settings"),
        ({"optimizer": {"history": "x"}}, "optimizer.history is 'x', expected a whole number"),
        ({3: 4, "a": 5}, "unknown setting 3, a; known: "),
    ],
)
def test_values_of_a_wrong_type_are_refused_by_name(values: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SynthesisConfig().with_values(values)


def test_equal_numbers_are_one_value() -> None:
    config = SynthesisConfig().with_values({"evaluations": 5, "time_limit_s": 2})
    assert json.dumps(config.to_dict()) == json.dumps(
        SynthesisConfig(evaluations=5.0, time_limit_s=2.0).to_dict()
    )
