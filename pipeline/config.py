"""`RunConfig`: what a run does. Command-line options, YAML files and `run.json` all come from it.

Later wins: the preset, a `--config` file, `--set a.b=c`, the other options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from cyclopts import Parameter
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pipeline.columns import STATUSES
from pipeline.crops import DEFAULT_MAX_PIXELS, CropMode
from texsynth import SynthesisConfig
from texsynth.config import ALGORITHM_VERSION, ConfigError, PresetName
from texsynth.features import Normalisation

Hidden = Parameter(parse=False)


class RunConfig(BaseModel):
    """Everything about a run but the manifest and the run directory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    root: str | None = Field(
        None, description="Folder or URI that the manifest's paths are relative to."
    )
    preset: PresetName = Field(
        "default",
        description="default: best stored image; reference: the public implementation's steps.",
    )
    weights: str = Field(
        "imagenet", description="imagenet, hed, random:SEED, or a .pth or .safetensors file."
    )
    normalisation: Normalisation | None = Field(
        None, description="Of the network's input; by default what belongs to the weights."
    )
    size: int = Field(256, ge=16, description="Side of exemplars and textures, px.")
    crop: CropMode = Field(
        "centre", description="Which square of the source; reference: left, or top of a portrait."
    )
    crops: int = Field(1, ge=1, description="Crops per exemplar; more than 1 with --crop random.")
    variations: int = Field(1, ge=1, description="Textures per crop.")
    evaluations: float | None = Field(
        None,
        ge=1,
        description="Budget per texture, in evaluations at full size; default: preset's.",
    )
    limit: int | None = Field(None, ge=1, description="Take the manifest's first rows only.")
    lanes: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="Textures that an actor works on at once."
    )
    actors: int | None = Field(
        None, ge=1, description="Actors; default: one per GPU, else one on the CPU cores."
    )
    device: str | None = Field(None, description="cpu or cuda; default: cuda where there is one.")
    seed: int = Field(0, description="Of the run; each task's own seed derives from it.")
    executor: Literal["ray", "inline"] = Field(
        "ray", description="inline: in this process, without Ray, for debugging."
    )
    address: str | None = Field(
        None, description="Of a Ray cluster, such as auto; default: a local one is started."
    )
    retry: Annotated[tuple[str, ...], Parameter(negative=())] = Field(
        (), description="Statuses whose tasks are done again, such as failed,timeout."
    )
    loss_threshold: float | None = Field(
        None, gt=0, description="Loss called good; default: 1500 where that applies, else none."
    )
    copy_displacement_threshold: float = Field(
        0.5, ge=0, le=1, description="A displacement score below this makes a copy."
    )
    copy_layout_threshold: float = Field(
        0.8, ge=-1, le=1, description="A layout correlation above this makes a copy."
    )
    max_pixels: int = Field(
        DEFAULT_MAX_PIXELS, ge=1, description="Larger sources are refused before decoding."
    )
    flush_seconds: float = Field(
        10.0, gt=0, description="Longest time that a finished texture is in memory only, s."
    )
    synthesis: Annotated[dict[str, Any], Hidden] = Field(
        default_factory=dict, description="Settings of the synthesis that differ from the preset."
    )

    @field_validator("retry", mode="before")
    @classmethod
    def _split_at_commas(cls, value: Any) -> tuple[str, ...]:
        items = [value] if isinstance(value, str) else value
        statuses = tuple(part for item in items for part in str(item).split(",") if part)
        unknown = set(statuses) - set(STATUSES)
        if unknown:
            raise ValueError(f"unknown status {sorted(unknown)}, expected some of {STATUSES}")
        return statuses

    def resolve_synthesis(self) -> SynthesisConfig:
        """The preset with this run's changes.

        Raises:
            ConfigError: for an unknown setting or a value out of range.
        """
        config = SynthesisConfig.preset(self.preset).with_values(self.synthesis)
        if self.evaluations is None:
            return config
        return config.with_values({"evaluations": self.evaluations})

    def resolved(self) -> Self:
        """The same run with every setting of the synthesis spelled out.

        Raises:
            ConfigError: as `resolve_synthesis`, or if several crops are not random.
        """
        if self.crops > 1 and self.crop != "random":
            raise ConfigError(
                f"crops is {self.crops} with crop {self.crop!r}, expected crop 'random'"
            )
        synthesis = self.resolve_synthesis().to_dict()
        changes = {"synthesis": synthesis, "evaluations": synthesis["evaluations"]}
        return self.model_copy(update=changes)

    def identity(self, weights: str, weights_sha256: str) -> dict[str, Any]:
        """What changes a texture: not lanes, actors, addresses, thresholds or counts."""
        return {
            "algorithm": ALGORITHM_VERSION,
            "weights": weights,
            "weights_sha256": weights_sha256,
            "normalisation": self.normalisation or "none",
            "preset": self.preset,
            "size": self.size,
            "crop": self.crop,
            "seed": self.seed,
            "synthesis": self.resolve_synthesis().to_dict(),
        }


def load_config(
    options: RunConfig, *, file: Path | None = None, assignments: Sequence[str] = ()
) -> RunConfig:
    """Merge a YAML file, `a.b=c` assignments and explicit options, later ones winning.

    Args:
        options: as parsed; only fields that were set count.
        file: YAML mapping of fields of `RunConfig`; as `texsynth config show` prints.
        assignments: `name=value` or `synthesis.name=value`, the value in YAML.

    Raises:
        ConfigError: for an unreadable file, an unknown name or a value out of range.
    """
    values: dict[str, Any] = {}
    if file is not None:
        _merge(values, _read_yaml(file))
    for assignment in assignments:
        _merge(values, _parse_assignment(assignment))
    _merge(values, options.model_dump(exclude_unset=True))
    try:
        return RunConfig.model_validate(values).resolved()
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, issue['loc']))} is {issue['input']!r}: {issue['msg']}"
            for issue in error.errors()
        ]
        raise ConfigError("\n".join(lines)) from error


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


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
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
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {assignment!r}: the value is no YAML: {error}") from error
    nested: dict[str, Any] = {}
    inner = nested
    *parents, last = name.split(".")
    for parent in parents:
        inner = inner.setdefault(parent, {})
    inner[last] = value
    return nested
