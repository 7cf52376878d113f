"""Whether a texture is its exemplar again, by the thresholds that `texsynth run` has by default."""

from __future__ import annotations

from typing import NamedTuple

import torch

from texsynth import displacement_score, layout_correlation
from texsynth.shapes import Images

DISPLACEMENT_THRESHOLD, LAYOUT_THRESHOLD = 0.5, 0.8
"""The defaults of `texsynth run`."""


class CopyMeasures(NamedTuple):
    """Of one texture.

    Args:
        displacement: low for copies of patches.
        layout: correlation at zero shift, high for copies of the layout.
        shifted: the largest over all shifts.
    """

    displacement: float
    layout: float
    shifted: float

    @property
    def is_copy(self) -> bool:
        """Over one of the thresholds."""
        return self.displacement < DISPLACEMENT_THRESHOLD or self.layout > LAYOUT_THRESHOLD


def measure_copies(textures: Images, exemplars: Images) -> list[CopyMeasures]:
    """Measures of every pair of images [B, 3, H, W] in [0, 1]."""
    measures = (displacement_score(textures, exemplars), *layout_correlation(textures, exemplars))
    return [CopyMeasures(*row) for row in torch.stack(measures, dim=1).tolist()]
