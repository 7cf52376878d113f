"""The end of a descent: pixels settle on 8-bit values a part at a time, the others make up for it.

Rounding all pixels at once adds noise that strong parts of the loss answer to; where the loss is
low, most of what the stored image has comes from that. So three quarters of the free pixels take
their nearest value, the rest descend further beside them, and so on, until what is left to be
rounded is too little to matter. It is how Zhou et al., "Incremental Network Quantization" (ICLR
2017), quantise the weights of a network.
"""

from __future__ import annotations

import torch
from torch import Tensor

from texsynth.images import round_to_8_bits
from texsynth.lbfgs import Evaluate
from texsynth.shapes import Images, LaneIndex, PerLane

STAGES = 4
"""Times that a part of the pixels settles."""
SHARE = 0.75
"""Of the free pixels that settle each time; in the end one of 256 is left to be rounded."""
STAGE_EVALUATIONS = 10
"""Evaluations after each time, at most."""
LARGEST_PART = 0.25
"""Of a level's evaluations that may go to all stages together."""
TOLERANCE = 0.1
"""Relative rise of what is minimised up to which pixels are rounded at once."""
ORDER_SEED = 0
"""The order is the same for all lanes, so that no lane depends on its neighbours."""


class SettledPixels:
    """Which pixels of each lane have settled, and on what.

    Args:
        images: [B, 3, H, W], of the lanes' shape, dtype and device; all pixels are free at first.
    """

    def __init__(self, images: Images) -> None:
        self._values = torch.full_like(images, torch.nan)
        generator = torch.Generator().manual_seed(ORDER_SEED)
        self._order = torch.rand(images.shape[1:], generator=generator).to(images.device)

    def apply(self, images: Images) -> Images:
        """The images with the settled pixels on their values, [B, 3, H, W]."""
        return torch.where(self._values.isnan(), images, self._values)

    def hold(self, evaluate: Evaluate) -> Evaluate:
        """An objective of the free pixels alone: it sees the settled ones where they are."""

        def evaluate_free(images: Images) -> tuple[PerLane, Images]:
            value, gradient = evaluate(self.apply(images))
            return value, torch.where(self._values.isnan(), gradient, 0)

        return evaluate_free

    def settle(self, lane: int, image: Tensor, stage: int) -> Tensor:
        """Let the pixels of one lane settle that are due.

        Args:
            lane: its number.
            image: [3, H, W], where it is, earlier pixels settled.
            stage: from 1 to STAGES.

        Returns:
            The image with all settled pixels on their values, [3, H, W].
        """
        due = self._order > (1 - SHARE) ** stage
        # What has settled before is rounded to itself.
        rounded = round_values(image[None])[0]
        self._values[lane] = torch.where(due, rounded, torch.nan)
        return torch.where(due, rounded, image)

    def release(self, lanes: LaneIndex) -> None:
        """Make all pixels of some lanes free."""
        self._values.index_fill_(0, lanes, torch.nan)

    def select(self, lanes: LaneIndex) -> None:
        """Keep some lanes, in the order given."""
        self._values = self._values[lanes]


def round_values(images: Images) -> Images:
    """The nearest 8-bit values, as floats in [0, 1]."""
    return round_to_8_bits(images).to(images.dtype) / 255


def count_stage_evaluations(evaluations: int) -> int:
    """Evaluations of a stage where a level has so many left; 0 is too few for any stage.

    The first of a stage only sees where the pixels have settled.
    """
    count = min(STAGE_EVALUATIONS, int(LARGEST_PART * evaluations / STAGES))
    return count if count > 1 else 0
