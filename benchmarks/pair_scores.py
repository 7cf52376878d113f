"""Every measure of a texture beside its exemplar, the flags it would get, and what is better."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import torch
from torch import Tensor

from benchmarks.copies import DISPLACEMENT_THRESHOLD, LAYOUT_THRESHOLD
from pipeline.flags import FAULTS, RULES, evaluate_rules
from pipeline.rows import MEASURED
from pipeline.schema import row_schema
from texsynth import (
    QualityMeasures,
    SynthesisConfig,
    TextureNetwork,
    TextureObjective,
    measure_fit,
    score,
    triage_exemplars,
)
from texsynth.config import REFERENCE_SPECTRUM_FACTOR
from texsynth.images import luminance
from texsynth.precision import exact_arithmetic
from texsynth.spectrum import compute_spectrum, gray_spectrum_term

Verdict = Literal["published", "ours", "equal", ""]


@dataclass(frozen=True)
class Goal:
    """What is good in a measure, as docs/quality.md has it.

    Args:
        words: for the table; empty where it is the exemplar's own value.
        shortfall: how far a value is from good, given the exemplar's own; None where there is no
            better or worse without knowing the exemplar.
    """

    words: str
    shortfall: Callable[[float, float], float] | None


LOW = Goal("0", lambda value, own: abs(value))
AS_EXEMPLAR = Goal("", lambda value, own: abs(value - own))
NO_VERDICT = Goal("", None)
NETWORK_GOALS: dict[str, Goal] = {
    "delivered_loss": LOW,
    "gram_error": LOW,
    "held_out_gram_error": Goal("another crop's", LOW.shortfall),
}
"""Of what is measured with a network; a measure of a tap has the tap behind its name."""
IMAGE_GOALS: dict[str, Goal] = {
    "spectrum_loss": LOW,
    "spectrum_error": LOW,
    "colour_spectrum_error": LOW,
    "autocorrelation_error": LOW,
    "wavelet_kl": LOW,
    "colour_mean_distance": LOW,
    "colour_covariance_distance": LOW,
    "sliced_wasserstein": LOW,
    "high_frequency_ratio": Goal(
        "1", lambda value, own: abs(math.log(value)) if value > 0 else math.inf
    ),
    "chroma_noise": AS_EXEMPLAR,
    "clipped_share": AS_EXEMPLAR,
    "out_of_range_share": LOW,
    "local_mean_drift": LOW,
    "local_contrast_drift": LOW,
    "border_contrast": AS_EXEMPLAR,
    "seam_score": NO_VERDICT,
    "displacement_score": Goal("above 0.7", lambda value, own: max(0.7 - value, 0)),
    "verbatim_share": LOW,
    "layout_correlation": Goal("below 0.5", lambda value, own: max(value - 0.5, 0)),
    "layout_correlation_shifted": NO_VERDICT,
    "phase_correlation_peak": Goal("below 0.2", lambda value, own: max(value - 0.2, 0)),
}
"""Of what needs no network."""
GOALS = IMAGE_GOALS | NETWORK_GOALS
JUDGED = " by the judge"
"""Behind the name of a measure that the second network has."""


@dataclass(frozen=True)
class Scores:
    """Of one texture.

    Args:
        values: by measure: those without a network, those with it, those of the judge.
        own: of the exemplar itself, where it has such a value.
        faults: flags of the standing rules that speak against the texture.
        skipped: why a measure is missing.
    """

    values: Mapping[str, float]
    own: Mapping[str, float]
    faults: tuple[str, ...]
    skipped: Mapping[str, str]


def score_texture(
    texture: Tensor, exemplar: Tensor, network: TextureNetwork, judge: TextureNetwork | None
) -> Scores:
    """All measures of a texture [3, H, W] in [0, 1].

    Args:
        texture: as stored, in 8 bits.
        exemplar: of the same size.
        network: for losses, Gram errors and the flags.
        judge: another one, for losses and Gram errors by its taps as well.
    """
    measures = score(texture, exemplar, network)
    found = dataclasses.asdict(measures) | {"spectrum_loss": _spectrum_loss(texture, exemplar)}
    values = {name: found[name] for name in IMAGE_GOALS if found[name] is not None}
    values |= _measure_network(texture[None], exemplar[None], network)
    if judge is not None:
        judged = _measure_network(texture[None], exemplar[None], judge)
        values |= {name + JUDGED: value for name, value in judged.items()}
    own = {name: found.get(f"exemplar_{name}") for name in values}
    return Scores(
        values=values,
        own={name: value for name, value in own.items() if value is not None},
        faults=find_faults(measures, exemplar),
        skipped=measures.skipped,
    )


def _spectrum_loss(texture: Tensor, exemplar: Tensor) -> float:
    """The spectrum term of the reference loss, weight included; it needs no network."""
    gray, exemplar_gray = (luminance(image[None]) for image in (texture, exemplar))
    term = gray_spectrum_term(gray, compute_spectrum(exemplar_gray).abs())
    return REFERENCE_SPECTRUM_FACTOR * term.item()


def _measure_network(
    textures: Tensor, exemplars: Tensor, network: TextureNetwork
) -> dict[str, float]:
    """The reference loss and the relative Gram errors of one pair."""
    textures, exemplars = textures.to(network.device), exemplars.to(network.device)
    config = SynthesisConfig.preset("reference")
    with torch.no_grad(), exact_arithmetic():
        loss = TextureObjective(network, exemplars, config)(textures)
        fit = measure_fit(network, textures, exemplars)
    values = {"delivered_loss": loss.total.item()}
    values |= {f"gram_error {tap}": error.item() for tap, error in fit.errors.items()}
    if fit.held_out_error is not None:
        values[f"held_out_gram_error {fit.held_out_tap}"] = fit.held_out_error.item()
    return values


def find_faults(measures: QualityMeasures, exemplar: Tensor) -> tuple[str, ...]:
    """The flags that a row with these measures would get from the standing rules of a run."""
    (kind,) = triage_exemplars(exemplar[None])
    row = {name: getattr(measures, name) for name in MEASURED} | {
        "copy_displacement_threshold": DISPLACEMENT_THRESHOLD,
        "copy_layout_threshold": LAYOUT_THRESHOLD,
        "exemplar_kind": kind.kind,
        "status": "ok",
    }
    flags = evaluate_rules(pa.Table.from_pylist([row], schema=row_schema()), RULES)
    return tuple(fault for fault in FAULTS if flags[fault][0].as_py())


def measure_of(name: str) -> str:
    """The entry of GOALS that a row of the table belongs to."""
    return name.split(" ")[0]


def find_better(name: str, published: float, ours: float, own: float | None) -> Verdict:
    """Which of the two values is nearer to what is good; empty where nothing says so.

    Args:
        name: of the measure.
        published: value of the one texture.
        ours: of the other.
        own: the exemplar's value, where it has one.
    """
    shortfall = GOALS[measure_of(name)].shortfall
    if shortfall is None:
        return ""
    reference = math.nan if own is None else own
    theirs, mine = shortfall(published, reference), shortfall(ours, reference)
    if theirs == mine:
        return "equal"
    return "ours" if mine < theirs else "published"
