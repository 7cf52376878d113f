"""`RunConfig`: what a run does. Options of commands, YAML files and `run.json` all come from it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from cyclopts import Parameter
from pydantic import BaseModel, ConfigDict, Field, field_validator

from pipeline.blends import BlendCategories
from pipeline.columns import RETRYABLE
from pipeline.crops import CropMode
from pipeline.flags import resolve_rules, validate_rules
from pipeline.schema import row_schema
from texsynth import SynthesisConfig
from texsynth.config import ALGORITHM_VERSION, ConfigError, PresetName
from texsynth.decoding import DEFAULT_MAX_PIXELS
from texsynth.features import Normalisation
from texsynth.shapes import Size
from texsynth.weights import SOURCES

Hidden = Parameter(parse=False)


class RunConfig(BaseModel):
    """Everything about a run but the manifest and the run directory."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    root: str | None = Field(
        None, description="Folder or URI that the manifest's paths are relative to."
    )
    allow_outside_root: Annotated[bool, Parameter(negative="")] = Field(
        False,
        description="Let the manifest's paths leave the root: absolute, with .., or URIs of "
        "another place.",
    )
    preset: PresetName = Field(
        "default",
        description="default: best stored image; reference: the public implementation's steps.",
    )
    weights: str = Field(
        "imagenet",
        description="imagenet, hed, random:SEED, or a .pth or .safetensors file or URI.",
    )
    normalisation: Normalisation | None = Field(
        None, description="Of the network's input; by default what belongs to the weights."
    )
    size: int = Field(256, ge=16, description="Side of exemplars and textures, px.")
    output_size: str | None = Field(
        None,
        description="Of textures, HEIGHTxWIDTH or one side, px; default: --size, as the exemplars.",
    )
    tileable: bool | None = Field(
        None, description="Textures that show no seam side by side; default: preset's, no."
    )
    crop: CropMode = Field(
        "centre", description="Which square of the source; reference: left, or top of a portrait."
    )
    crops: int = Field(1, ge=1, description="Crops per exemplar; more than 1 with --crop random.")
    variations: int = Field(1, ge=1, description="Textures per crop.")
    blends: int = Field(
        0,
        ge=0,
        description="Further textures per crop, each blended with another exemplar of its split.",
    )
    blend_categories: BlendCategories = Field(
        "any", description="Of that other exemplar: any, the same, or other than the first's."
    )
    evaluations: float | None = Field(
        None,
        ge=1,
        description="Budget per texture, in evaluations at full size; default: preset's.",
    )
    partition: int | None = Field(
        None,
        ge=1,
        le=10,
        description="Of DTD's ten: `split` comes from the manifest's column split_N; default: from"
        " its own column split.",
    )
    split: str | None = Field(
        None, description="Take the manifest's rows of this split only, such as train."
    )
    limit: int | None = Field(
        None, ge=1, description="Take the first of these rows only; default: all."
    )
    lanes: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="Textures that an actor works on at once."
    )
    actors: int | str | None = Field(
        None,
        description="Actors, N, or MIN:MAX as machines come and go; default: one per GPU, else per"
        " core as far as memory goes.",
    )
    device: str | None = Field(
        None,
        description="cpu, cuda or cuda:N; default: cuda where there is one, else cpu, but never"
        " on a cluster.",
    )
    seed: int = Field(0, description="Of the run; each task's own seed derives from it.")
    executor: Literal["ray", "inline"] = Field(
        "ray", description="inline: in this process, without Ray, for debugging."
    )
    address: str | None = Field(
        None, description="Of a Ray cluster, such as auto; default: a local one is started."
    )
    wait_for_workers: float = Field(
        1800.0,
        ge=0,
        description="Time without any node for an actor after which a run on a cluster ends, s.",
    )
    retry: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = Field(
        (),
        description="Whose tasks are done again: failed, timeout, quarantined, or flagged (not"
        " accepted; under another seed).",
    )
    retry_flagged: int = Field(
        0,
        ge=0,
        description="New seeds for a texture that is not accepted; the best is kept, all recorded.",
    )
    max_attempts: int = Field(
        3, ge=1, description="Deaths of its process after which a task is quarantined."
    )
    task_timeout: float | None = Field(
        None, gt=0, description="Time on a lane after which the best image so far is kept, s."
    )
    hang_timeout: float = Field(
        900.0, gt=0, description="Silence after which an actor is killed and replaced, s."
    )
    lane_checkpoint_seconds: float = Field(
        300.0, gt=0, description="Between two checkpoints of a texture in the making, s."
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
    flag_rules: Annotated[dict[str, str], Hidden] = Field(
        default_factory=dict, description="Rules of flags that differ from the standing ones."
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

    @field_validator("device")
    @classmethod
    def _is_cpu_or_cuda(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"cpu|cuda(:\d+)?", value):
            raise ValueError("expected cpu, cuda or cuda:N")
        return value

    @field_validator("actors", mode="before")
    @classmethod
    def _is_number_or_bounds(cls, value: Any) -> int | str | None:
        if value is None:
            return None
        bounds = re.fullmatch(r"(\d+)(?::(\d+))?", str(value))
        if bounds is None:
            raise ValueError("expected N or MIN:MAX, such as 4 or 1:8")
        least, most = int(bounds[1]), int(bounds[2] or bounds[1])
        if not 1 <= least <= most:
            raise ValueError("expected at least 1, and MIN:MAX in this order")
        return least if least == most else f"{least}:{most}"

    @property
    def actor_bounds(self) -> tuple[int, int] | None:
        """How many actors there are to be, at least and at most; None leaves it to the machines."""
        if self.actors is None:
            return None
        least, _, most = str(self.actors).partition(":")
        return int(least), int(most or least)

    @field_validator("output_size", mode="before")
    @classmethod
    def _is_height_x_width(cls, value: Any) -> str | None:
        if value is None:
            return None
        sides = re.fullmatch(r"(\d+)(?:x(\d+))?", str(value))
        if sides is None or isinstance(value, bool):
            raise ValueError("expected HEIGHTxWIDTH or one side, px, such as 256x512 or 512")
        height, width = (int(side) for side in (sides[1], sides[2] or sides[1]))
        if min(height, width) < 16:
            raise ValueError("expected sides of at least 16 px")
        return f"{height}x{width}"

    @property
    def texture_size(self) -> Size:
        """(height, width) of the textures, px."""
        if self.output_size is None:
            return self.size, self.size
        height, width = self.output_size.split("x")
        return int(height), int(width)

    @property
    def exemplar_size(self) -> Size:
        """(height, width) of the exemplars, px."""
        return self.size, self.size

    @field_validator("retry", mode="before")
    @classmethod
    def _split_at_commas(cls, value: Any) -> tuple[str, ...]:
        return parse_retry(value)

    def resolve_synthesis(self) -> SynthesisConfig:
        """The preset with this run's changes.

        Raises:
            ConfigError: for an unknown setting or a value out of range.
        """
        config = SynthesisConfig.preset(self.preset).with_values(self.synthesis)
        changes = {
            "evaluations": self.evaluations,
            "tileable": self.tileable,
            "time_limit_s": self.task_timeout,
        }
        return config.with_values({k: v for k, v in changes.items() if v is not None})

    def resolved(self) -> Self:
        """The same run with every setting of the synthesis spelled out.

        Raises:
            ConfigError: as `resolve_synthesis`; if several crops are not random, or something is
                said of blends without any.
            RuleError: for a flag that does not exist, or a rule that is none.
        """
        if self.flag_rules:
            validate_rules(resolve_rules(self.flag_rules), row_schema())
        if self.crops > 1 and self.crop != "random":
            raise ConfigError(
                f"crops is {self.crops} with crop {self.crop!r}, expected crop 'random'"
            )
        if self.blend_categories != "any" and not self.blends:
            raise ConfigError(
                f"blend_categories is {self.blend_categories!r} with blends 0, expected blends"
            )
        synthesis = self.resolve_synthesis().to_dict()
        weights = self.weights
        if weights not in SOURCES and Path(weights).is_file():
            # Workers have working directories of their own.
            weights = str(Path(weights).absolute())
        changes = {
            "weights": weights,
            "synthesis": synthesis,
            "evaluations": synthesis["evaluations"],
            "tileable": synthesis["tileable"],
        }
        return self.model_copy(update=changes)

    def identity(self, weights: str, weights_sha256: str) -> dict[str, Any]:
        """What changes a texture: not lanes, actors, addresses, thresholds or counts.

        Nor time limits: a texture that met one says so in its row. Nor tiles: as lanes, they change
        it by rounding only.
        """
        synthesis = self.resolve_synthesis().to_dict()
        del synthesis["time_limit_s"], synthesis["tile_px"]
        if not synthesis["tileable"]:
            del synthesis["tileable"]
        # As tileable, only where it is another one: runs made before there was a choice go on.
        other_size = self.texture_size != self.exemplar_size
        return {
            "algorithm": ALGORITHM_VERSION,
            "weights": weights,
            "weights_sha256": weights_sha256,
            "normalisation": self.normalisation or "none",
            "preset": self.preset,
            "size": self.size,
            **({"output_size": list(self.texture_size)} if other_size else {}),
            "crop": self.crop,
            "seed": self.seed,
            "synthesis": synthesis,
        }


def parse_retry(value: Any) -> tuple[str, ...]:
    """What is to be done again, from words with commas between them.

    Args:
        value: such a text, or several.

    Raises:
        ConfigError: for a word that is none of RETRYABLE.
    """
    items = [value] if isinstance(value, str) else value
    words = tuple(part for item in items for part in str(item).split(",") if part)
    unknown = set(words) - set(RETRYABLE)
    if unknown:
        raise ConfigError(
            f"unknown status {', '.join(sorted(unknown))}, expected some of {', '.join(RETRYABLE)}"
        )
    return words
