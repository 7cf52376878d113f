"""What is measured of a blend, from the measures against each of its two parents.

A copy of either is a copy. What a texture must have like its exemplar (colours, spectrum, wavelets,
fine detail) a blend can have like neither: those measures are null, and with them the flags that
hold them against a threshold are unknown, which is no fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OF_TEXTURE = ("chroma_noise", "clipped_share", "border_contrast", "seam_score", "out_of_range")
OF_NEARER_PARENT = (
    *("layout_correlation", "layout_correlation_shifted"),
    *("phase_correlation_peak", "verbatim_share"),
)
OF_LARGER_PARENT = (
    *("exemplar_chroma_noise", "exemplar_clipped_share"),
    *("exemplar_border_contrast", "exemplar_seam_score"),
)
OF_WORSE_PARENT = (
    *("exemplar_kind", "autocorrelation_peak", "dominant_period_px"),
    *("quadrant_spread", "exemplar_contrast"),
)
KINDS = ("flat", "not_stationary", "too_few_repeats", "regular", "stochastic")
"""Of exemplars, those that make no texture first; as `texsynth.triage` has them."""


def combine_measures(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a blend's row.

    Args:
        first: of the texture against its exemplar, by column.
        second: against its partner.

    Returns:
        `displacement_score` the smaller of both, the other measures of copies and those of the
        exemplars the larger; what describes an exemplar is of the one whose kind comes first in
        KINDS. All that is left out is null.
    """
    values = {name: first[name] for name in OF_TEXTURE if name in first}
    for name in (*OF_NEARER_PARENT, *OF_LARGER_PARENT):
        values[name] = _choose(max, first.get(name), second.get(name))
    name = "displacement_score"
    values[name] = _choose(min, first.get(name), second.get(name))
    kinds = [parent.get("exemplar_kind") for parent in (first, second)]
    if None not in kinds:
        worse = min((first, second), key=lambda parent: KINDS.index(parent["exemplar_kind"]))
        values |= {name: worse.get(name) for name in OF_WORSE_PARENT}
    return values


def _choose(choose: Any, first: float | None, second: float | None) -> float | None:
    known = [value for value in (first, second) if value is not None]
    return choose(known) if known else None
