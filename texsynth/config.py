"""What a synthesis does, as frozen values: `SynthesisConfig`, its optimiser, the two presets.

Constants of the loss: Liu, Gousseau, Xia, "Texture Synthesis Through Convolutional Neural Networks
and Spectrum Constraints" (ICPR 2016, arXiv 1605.01141), as set by the public implementation
TextureSynthesisCNN.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

ALGORITHM_VERSION = 4
"""Raised whenever the same settings give other textures; part of a run's fingerprint."""
REFERENCE_TAPS = ("relu1_1", "pool1", "pool2", "pool3", "pool4", "pool5")
REFERENCE_SIDE = 256
"""Side of the images that the published losses speak of, px."""
REFERENCE_SPECTRUM_FACTOR = 1e5
"""Factor of the spectrum term in the public implementation, at every size."""
LARGEST_SPECTRUM_WEIGHT = 1000.0
"""Above it a weight is taken for a factor, which it was in earlier versions."""
REFERENCE_THRESHOLD = 1500.0
"""Reference loss under which the public implementation calls a texture good (`imagenet` weights,
256 px)."""

Spectrum = Literal["none", "gray", "colour"]
Start = Literal["noise", "random_phase"]
LineSearch = Literal["armijo", "none"]
PresetName = Literal["default", "reference"]
Taps = Literal["auto", "reference"] | tuple[str, ...]
TilePx = int | Literal["auto"] | None
Weighting = Literal["none", "sensitivity"]


class ConfigError(ValueError):
    """A setting that cannot be honoured; the message names it, its value and what is allowed."""


@dataclass(frozen=True, kw_only=True)
class LBFGSConfig:
    """How each lane walks downhill (`texsynth.lbfgs`).

    Args:
        history: curvature pairs remembered per lane.
        line_search: `armijo` backtracks until the loss falls enough; `none` takes every step of
            length 1.
        first_step: L1 length of the first step, in the units of the variables; torch.optim.LBFGS
            takes 1.
        curvature_tolerance: a pair (s, y) is kept if s.y > tolerance * |s| |y|.
        sufficient_decrease: the constant c1 of Armijo's rule, Nocedal & Wright (2006), eq. 3.4.
        max_backtracks: rejected steps in a row before the history is dropped and the lane starts
            afresh.
    """

    history: int = 100
    line_search: LineSearch = "armijo"
    first_step: float = 1.0
    curvature_tolerance: float = 1e-10
    sufficient_decrease: float = 1e-4
    max_backtracks: int = 10

    def __post_init__(self) -> None:
        _conform_numbers(self, "optimizer.")
        _require(self.history >= 1, "optimizer.history", self.history, "at least 1")
        _require_choice("optimizer.line_search", self.line_search, ("armijo", "none"))
        _require(self.first_step > 0, "optimizer.first_step", self.first_step, "above 0")
        _require(
            0 <= self.curvature_tolerance < 1,
            "optimizer.curvature_tolerance",
            self.curvature_tolerance,
            "in [0, 1)",
        )
        _require(
            0 < self.sufficient_decrease < 1,
            "optimizer.sufficient_decrease",
            self.sufficient_decrease,
            "in (0, 1)",
        )
        _require(
            self.max_backtracks >= 1, "optimizer.max_backtracks", self.max_backtracks, "at least 1"
        )


@dataclass(frozen=True, kw_only=True)
class SynthesisConfig:
    """Everything that decides what a texture looks like, besides exemplar, weights and seed.

    Args:
        taps: feature maps in the loss: `auto` takes those of relu1_1, pool1 to pool5 that have at
            least 16 positions on both sides; `reference` takes all six at 256 x 256 px and `auto`
            elsewhere; or their names.
        gram_weight: factor of each tap's squared Gram difference.
        spectrum: `gray` constrains the luminance, `colour` the three channels by one common phase.
        spectrum_weight: of half the squared distance to the images that have the exemplar's
            spectrum (`spectrum_factor`): `reference` has the public implementation's factor at
            every size; or a number, where 1 is its balance of spectrum and Gram terms at 256 x 256
            px, which is then that of every size and level.
        clamp: minimise the loss of the image with its pixels clamped to [0, 1], as it is stored;
            the range penalty alone knows where they are, and brings them back.
        range_weight: factor of the squared distance of the pixels to [0, 1]; 0, which needs `clamp`
            false, leaves them free.
        weighting: of the single entries of the loss while it is minimised: `none`, or by
            `sensitivity`, how strongly each answers to the image (`texsynth.sensitivity`): the same
            zeros, reached sooner; where the fall gets slow, all count alike again. No reported loss
            knows it.
        settle: let the pixels settle on 8-bit values a part at a time at the end, where rounding
            all at once would raise what is minimised by more than a tenth (`texsynth.rounding`).
        tileable: let the texture continue at its opposite edge, in the network as in its spectrum,
            so that copies of it side by side show no seam; the reported loss does not know it.
        start: `noise` is sigmoid(N(0, 1)); `random_phase` has the exemplar's spectrum and uniformly
            random phases, and so has the detail that every finer level adds.
        levels: images from coarse to fine, each twice the side of the one before; `auto` begins at
            64 px or above.
        evaluations: budget of a task, in evaluations at full size; one at side s costs (s /
            size)^2.
        plateau_tolerance: stop a level when the loss fell by less than this share of itself ...
        plateau_evaluations: ... over this many evaluations of the level.
        time_limit_s: stop a task after this many seconds on a lane; None is no limit.
        keep_best: return the image of the lowest loss instead of the last one.
        tile_px: longest side of the tiles, without their halos, in which images larger than that
            pass the network (`texsynth.tiling`); `auto` takes 1024 px above 1024 x 1024 px, null
            passes all as a whole. It changes memory and time, and the loss by rounding only.
        optimizer: the step itself.
    """

    taps: Taps = "auto"
    gram_weight: float = 1e9
    spectrum: Spectrum = "colour"
    spectrum_weight: float | Literal["reference"] = "reference"
    clamp: bool = True
    range_weight: float = 1e5
    weighting: Weighting = "sensitivity"
    settle: bool = True
    tileable: bool = False
    start: Start = "random_phase"
    levels: int | Literal["auto"] = "auto"
    evaluations: float = 1000.0
    plateau_tolerance: float = 1e-3
    plateau_evaluations: int = 100
    time_limit_s: float | None = None
    keep_best: bool = True
    tile_px: int | Literal["auto"] | None = "auto"
    optimizer: LBFGSConfig = field(default_factory=LBFGSConfig)

    def __post_init__(self) -> None:
        _conform_numbers(self)
        is_optimizer = isinstance(self.optimizer, LBFGSConfig)
        _require(is_optimizer, "optimizer", self.optimizer, "a mapping of its settings")
        if isinstance(self.taps, str):
            _require_choice("taps", self.taps, ("auto", "reference"))
        else:
            names = isinstance(self.taps, list | tuple) and all(
                isinstance(tap, str) for tap in self.taps
            )
            expected = "'auto', 'reference' or some names"
            _require(names and len(self.taps) > 0, "taps", self.taps, expected)
            object.__setattr__(self, "taps", tuple(self.taps))
        for name in ("gram_weight", "range_weight", "plateau_tolerance"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        if self.spectrum_weight != "reference":
            _require(
                0 <= self.spectrum_weight <= LARGEST_SPECTRUM_WEIGHT,
                "spectrum_weight",
                self.spectrum_weight,
                "'reference', or 0 to 1000 in units of the reference's balance at 256 px; what was "
                "1e5 in earlier versions is 'reference'",
            )
        _require(
            self.range_weight > 0 or not self.clamp,
            "range_weight",
            self.range_weight,
            "above 0 with clamp, or pixels outside [0, 1] would never return",
        )
        _require_choice("spectrum", self.spectrum, ("none", "gray", "colour"))
        _require_choice("weighting", self.weighting, ("none", "sensitivity"))
        _require_choice("start", self.start, ("noise", "random_phase"))
        if self.levels != "auto":
            _require(self.levels >= 1, "levels", self.levels, "'auto' or at least 1")
        _require(self.evaluations >= 1, "evaluations", self.evaluations, "at least 1")
        _require(
            self.plateau_evaluations >= 1,
            "plateau_evaluations",
            self.plateau_evaluations,
            "at least 1",
        )
        if isinstance(self.tile_px, int):
            _require(self.tile_px >= 32, "tile_px", self.tile_px, "'auto', null or at least 32")
        if self.time_limit_s is not None:
            _require(self.time_limit_s > 0, "time_limit_s", self.time_limit_s, "above 0, or null")

    @classmethod
    def preset(cls, name: PresetName, **changes: Any) -> Self:
        """One of the two presets, with single settings changed.

        Args:
            name: `default`, for the best stored image; or `reference`, the public implementation
                step for step: 500 epochs of 20 evaluations, its loss, its start, L-BFGS without a
                    line search, the last image.
            **changes: fields to replace, as in `dataclasses.replace`.

        Raises:
            ConfigError: for an unknown preset or a value out of range.
        """
        _require_choice("preset", name, ("default", "reference"))
        if name == "default":
            return cls(**changes)
        reference: dict[str, Any] = {
            "taps": "reference",
            "spectrum": "gray",
            "spectrum_weight": "reference",
            "clamp": False,
            "range_weight": 0.0,
            "weighting": "none",
            "settle": False,
            "start": "noise",
            "levels": 1,
            "evaluations": 10_000.0,
            "plateau_tolerance": 0.0,
            "keep_best": False,
            "optimizer": LBFGSConfig(line_search="none"),
        }
        return cls(**(reference | changes))

    def spectrum_factor(self, pixels: int) -> float:
        """What the spectrum term is multiplied by in images of so many pixels.

        The term sums over pixels, Gram terms are means: for a balance that no size changes, a
        weight w counts as w * 1e5 * 256^2 / pixels.
        """
        if self.spectrum_weight == "reference":
            return REFERENCE_SPECTRUM_FACTOR
        return self.spectrum_weight * REFERENCE_SPECTRUM_FACTOR * REFERENCE_SIDE**2 / pixels

    def to_dict(self) -> dict[str, Any]:
        """Plain values, nested as the fields are; what `run.json` and a YAML file hold."""
        values = dataclasses.asdict(self)
        if not isinstance(self.taps, str):
            values["taps"] = list(self.taps)
        return values

    def with_values(self, values: Mapping[str, Any]) -> Self:
        """A copy with the given, possibly nested, values replaced.

        Args:
            values: field name to value; `optimizer` may hold a mapping of its own fields.

        Raises:
            ConfigError: for a name that is no field, or a value out of range or of a wrong type.
        """
        changes = dict(values)
        _refuse_unknown(changes, self, "")
        optimizer = changes.get("optimizer")
        if isinstance(optimizer, Mapping):
            _refuse_unknown(optimizer, self.optimizer, "optimizer.")
            changes["optimizer"] = dataclasses.replace(self.optimizer, **optimizer)
        return dataclasses.replace(self, **changes)


def _refuse_unknown(values: Mapping[str, Any], config: object, prefix: str) -> None:
    known = {f.name for f in dataclasses.fields(config)}  # type: ignore[arg-type]
    unknown = sorted(map(str, set(values) - known))
    if unknown:
        names = ", ".join(prefix + name for name in unknown)
        raise ConfigError(f"unknown setting {names}; known: {', '.join(sorted(known))}")


def _conform_numbers(config: object, prefix: str = "") -> None:
    """Check the types of numbers; 5 becomes 5.0 in a field of fractions: one fingerprint."""
    for f in dataclasses.fields(config):  # type: ignore[arg-type]
        kind, value = str(f.type), getattr(config, f.name)
        if (value is None and "None" in kind) or (isinstance(value, str) and repr(value) in kind):
            continue
        number = kind.split(" ")[0]
        if number == "bool":
            _require(isinstance(value, bool), prefix + f.name, value, "true or false")
        elif number in _NUMBERS:
            accepted, convert, expected = _NUMBERS[number]
            if word := kind.partition("Literal")[2].strip("[]"):
                expected += f" or {word}"
            holds = isinstance(value, accepted) and not isinstance(value, bool)
            _require(holds and not math.isinf(value), prefix + f.name, value, expected)
            object.__setattr__(config, f.name, convert(value))


_NUMBERS: dict[str, tuple[type, Callable[[Any], Any], str]] = {
    "float": (numbers.Real, float, "a number"),
    "int": (numbers.Integral, int, "a whole number"),
}


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise ConfigError(f"{name} is {value!r}, expected {expected}")


def _require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    _require(value in choices, name, value, f"one of {', '.join(choices)}")
