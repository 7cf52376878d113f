from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cyclopts import CycloptsError

from pipeline.cli import app
from pipeline.config import RunConfig
from pipeline.config_file import config_yaml, load_config
from pipeline.resume import compute_fingerprint
from texsynth import ConfigError, SynthesisConfig


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("preset", ["default", "reference"])
def test_what_config_show_prints_is_read_back(tmp_path: Path, preset: Any) -> None:
    shown = RunConfig(preset=preset).resolved()
    assert load_config(RunConfig(), file=written(tmp_path, config_yaml(shown))) == shown
    assert shown.resolve_synthesis() == SynthesisConfig.preset(preset)


def test_later_sources_win(tmp_path: Path) -> None:
    file = written(tmp_path, "size: 64\nseed: 1\nlanes: 2\nsynthesis: {spectrum: none}\n")
    config = load_config(RunConfig(seed=3), file=file, assignments=["seed=2", "lanes=5"])
    assert (config.size, config.seed, config.lanes) == (64, 3, 5)
    assert config.resolve_synthesis().spectrum == "none"


def test_the_budget_has_one_value_whatever_it_is_called(tmp_path: Path) -> None:
    file = written(tmp_path, config_yaml(RunConfig().resolved()))
    for options, assignments in [
        (RunConfig(evaluations=7), []),
        (RunConfig(), ["evaluations=7"]),
        (RunConfig(), ["synthesis.evaluations=7"]),
        (RunConfig(evaluations=7), ["synthesis.evaluations=9"]),
    ]:
        config = load_config(options, file=file, assignments=assignments)
        assert config.evaluations == config.resolve_synthesis().evaluations == 7
    with pytest.raises(ConfigError, match=r"evaluations is 3 and synthesis\.evaluations 4"):
        load_config(
            RunConfig(), file=written(tmp_path, "evaluations: 3\nsynthesis: {evaluations: 4}\n")
        )


def test_another_preset_than_the_one_spelled_out_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path, config_yaml(RunConfig().resolved()))
    with pytest.raises(ConfigError, match="holds settings of preset 'default'"):
        load_config(RunConfig(preset="reference"), file=file)
    config = load_config(RunConfig(preset="reference"), file=written(tmp_path, "preset: default\n"))
    assert config.resolve_synthesis() == SynthesisConfig.preset("reference")


@pytest.mark.parametrize("text", ["1e9", "1000000000", "1.0e+9"])
def test_numbers_are_numbers_and_equal_ones_have_one_fingerprint(text: str) -> None:
    config = load_config(RunConfig(), assignments=[f"synthesis.gram_weight={text}"])
    values = [c.identity("w", "0") for c in (config, RunConfig().resolved())]
    assert compute_fingerprint(values[0]) == compute_fingerprint(values[1])


@pytest.mark.parametrize(
    "changes",
    [{"size": 64}, {"seed": 1}, {"crop": "random"}, {"evaluations": 5}, {"preset": "reference"}],
)
def test_what_changes_a_texture_is_in_the_identity(changes: dict[str, Any]) -> None:
    assert RunConfig(**changes).identity("w", "0") != RunConfig().identity("w", "0")
    assert RunConfig().identity("w", "1") != RunConfig().identity("w", "0")


def test_what_changes_no_texture_is_not() -> None:
    changes = {"lanes": 3, "actors": 2, "variations": 4, "limit": 5, "loss_threshold": 3.0}
    assert RunConfig(**changes).identity("w", "0") == RunConfig().identity("w", "0")


def test_the_task_timeout_is_the_time_limit_of_the_synthesis_but_no_other_texture() -> None:
    config = RunConfig(task_timeout=7).resolved()
    assert config.resolve_synthesis().time_limit_s == 7
    assert config.identity("w", "0") == RunConfig().identity("w", "0")


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("size", "--set 'size', expected NAME=VALUE, such as size=128"),
        ("=3", "--set '=3', expected NAME=VALUE"),
        ("size=[", r"--set 'size=\[': the value is no YAML"),
        ("size=x", "size is 'x': input should be a valid integer"),
        ("size=3", "size is 3: input should be greater than or equal to 16"),
        ("size.side=3", "size is {'side': 3}: input should be a valid integer"),
        ("colour=red", "unknown setting colour; known: actors, address"),
        ("device=tpu", "device is 'tpu': expected cpu, cuda or cuda:N"),
        ("retry=lost", "retry is 'lost': unknown status lost, expected some of ok, failed"),
        ("evaluations=.inf", "evaluations is inf: input should be a finite number"),
        ("crops=2", "crops is 2 with crop 'centre', expected crop 'random'"),
        ("synthesis=3", "synthesis is 3: input should be a valid dictionary"),
        ("synthesis.spektrum=none", "unknown setting spektrum; known: "),
        ("synthesis.levels=x", "levels is 'x', expected a whole number"),
        ("synthesis.optimizer=3", "optimizer is 3, expected a mapping"),
        ("synthesis.optimizer.history=0", "optimizer.history is 0, expected at least 1"),
    ],
)
def test_a_bad_setting_is_refused_by_name(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(RunConfig(), assignments=[assignment])


def test_all_bad_settings_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(RunConfig(), file=written(tmp_path, "size: 3\nlanes: 0\nfoo: 1\n"))
    assert [line.split()[0] for line in str(caught.value).splitlines()] >= ["size", "lanes"]
    assert "unknown setting foo" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "cannot be read: while parsing"), ("- 1\n", "holds a list, expected a mapping")],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(RunConfig(), file=written(tmp_path, text))
    assert "config.yaml" in str(caught.value)
    with pytest.raises(ConfigError, match="No such file"):
        load_config(RunConfig(), file=tmp_path / "absent.yaml")


def test_retry_is_split_at_commas() -> None:
    assert RunConfig(retry="failed,timeout").retry == ("failed", "timeout")  # type: ignore[arg-type]
    assert RunConfig(retry=("failed", "quarantined")).retry == ("failed", "quarantined")


@pytest.mark.parametrize(
    ("given", "kept", "bounds"),
    [
        (None, None, None),
        (4, 4, (4, 4)),
        ("4", 4, (4, 4)),
        ("3:3", 3, (3, 3)),
        ("1:8", "1:8", (1, 8)),
    ],
)
def test_actors_are_a_number_or_bounds_that_change_no_texture(
    given: Any, kept: Any, bounds: Any
) -> None:
    config = RunConfig(actors=given)
    assert (config.actors, config.actor_bounds) == (kept, bounds)
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config
    assert config.identity("w", "0") == RunConfig(wait_for_workers=1).identity("w", "0")


@pytest.mark.parametrize("given", [0, -1, "0:2", "3:1", "1:", ":2", "1-2", "all", True, 1.5])
def test_other_numbers_of_actors_are_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"^actors is .*expected "):
        load_config(RunConfig(), assignments=[f"actors={given!r}"])


def test_actors_on_the_command_line() -> None:
    for text, bounds in (("2:6", (2, 6)), ("3", (3, 3))):
        words = ["run", "photos.csv", "--out", "out", "--actors", text]
        _, bound, _ = app.parse_args(words, print_error=False, exit_on_error=False)
        assert bound.arguments["options"].actor_bounds == bounds
    with pytest.raises(CycloptsError):
        app.parse_args([*words[:-1], "6:2"], print_error=False, exit_on_error=False)
