"""A run's configuration from its sources, and as a file that is one of them.

Later wins: the preset, a `--config` file, `--set a.b=c`, the other options.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.config import RunConfig
from texsynth.config import ConfigError

TWICE_NAMED = ("evaluations", "tileable")
"""Settings of the synthesis that are options of a run as well."""


def load_config(
    options: RunConfig, *, file: Path | None = None, assignments: Sequence[str] = ()
) -> RunConfig:
    """Merge a YAML file, `a.b=c` assignments and explicit options, later ones winning.

    Args:
        options: as parsed; only fields that were set count.
        file: YAML mapping of fields of `RunConfig`; as `texsynth config show` prints.
        assignments: `name=value` or `synthesis.name=value`, the value in YAML.

    Raises:
        ConfigError: for an unreadable file, an unknown name or a value out of range; or for a
            preset other than the one whose settings the file spells out.
    """
    values = {} if file is None else _read_yaml(file)
    spelled_out = values.get("preset") if values.get("synthesis") else None
    values = _with_one_name(values)
    for assignment in assignments:
        _merge(values, _with_one_name(_parse_assignment(assignment)))
    _merge(values, options.model_dump(exclude_unset=True))
    if spelled_out not in (None, values.get("preset")):
        raise ConfigError(
            f"preset is {values['preset']!r}, but config file {str(file)!r} holds settings of "
            f"preset {spelled_out!r}; take its preset, or remove 'synthesis' from it"
        )
    try:
        return RunConfig.model_validate(values).resolved()
    except ValidationError as error:
        raise ConfigError(describe_validation(error)) from error


def describe_validation(error: ValidationError) -> str:
    """What is wrong with the fields of a `RunConfig`, one line each."""
    lines = []
    for issue in error.errors():
        name = str(issue["loc"][0]) if issue["loc"] else "config"
        if issue["type"] == "extra_forbidden":
            line = f"unknown setting {name}; known: {', '.join(sorted(RunConfig.model_fields))}"
        else:
            reason = issue["msg"].removeprefix("Value error, ")
            line = f"{name} is {issue['input']!r}: {reason[:1].lower()}{reason[1:]}"
        lines.append(line)
    return "\n".join(lines)


def config_yaml(config: RunConfig) -> str:
    """The configuration as a YAML file that `--config` reads."""
    text: str = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    return text


def _merge(values: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for name, value in changes.items():
        if isinstance(value, Mapping) and isinstance(values.get(name), dict):
            _merge(values[name], value)
        else:
            values[name] = dict(value) if isinstance(value, Mapping) else value


def _with_one_name(values: dict[str, Any]) -> dict[str, Any]:
    """`synthesis.evaluations` is `evaluations` by another name: later ones win over both."""
    synthesis = values.get("synthesis")
    if not isinstance(synthesis, Mapping):
        return values
    synthesis, values = dict(synthesis), dict(values)
    for name in TWICE_NAMED:
        if name not in synthesis:
            continue
        inner = synthesis.pop(name)
        if values.get(name) not in (None, inner):
            raise ConfigError(
                f"{name} is {values[name]!r} and synthesis.{name} {inner!r}, expected one of them"
            )
        values[name] = inner
    return values | {"synthesis": synthesis}


class _YamlLoader(yaml.SafeLoader):
    """YAML in which 1e9 is a number, as in YAML 1.2 and JSON."""


_YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml.load(file.read_text(encoding="utf-8"), _YamlLoader)  # noqa: S506 (a SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"config file {str(file)!r} cannot be read: {error}") from error
    if not isinstance(values, dict):
        got = type(values).__name__
        raise ConfigError(f"config file {str(file)!r} holds a {got}, expected a mapping")
    return values


def _parse_assignment(assignment: str) -> dict[str, Any]:
    name, equals, text = assignment.partition("=")
    if not name or not equals:
        raise ConfigError(f"--set {assignment!r}, expected NAME=VALUE, such as size=128")
    try:
        value = yaml.load(text, _YamlLoader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {assignment!r}: the value is no YAML: {error}") from error
    nested: dict[str, Any] = {}
    inner = nested
    *parents, last = name.split(".")
    for parent in parents:
        inner = inner.setdefault(parent, {})
    inner[last] = value
    return nested
