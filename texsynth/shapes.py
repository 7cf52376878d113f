"""Axis letters and the array types built from them, fixed once for the whole package.

B  lane             one slot of a batch; always dimension 0
C  colour channel   3, in the order R, G, B
H, W  height, width of an image or of a feature map, px
L  tap              one feature map that enters the loss
M  positions        H * W of a feature map
N  feature channel  of a tap
D  unknowns         C * H * W of a lane, flattened
K  history          curvature pairs that L-BFGS remembers
"""

from __future__ import annotations

from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

Size = tuple[int, int]
"""(height, width), px."""

Images = Float[Tensor, "B 3 H W"]
Image8 = UInt8[Tensor, "3 H W"]
Luminance = Float[Tensor, "B H W"]
FeatureMap = Float[Tensor, "B N H W"]
GramMatrix = Float[Tensor, "B N N"]
PerLane = Float[Tensor, "B"]
PerTap = Float[Tensor, "B L"]
LaneMask = Bool[Tensor, "B"]
LaneCount = Int[Tensor, "B"]
LaneIndex = Int[Tensor, "lanes"]
"""Indices of lanes, in any order."""
Variables = Float[Tensor, "B ..."]
"""What L-BFGS minimises over: any shape behind the lane."""

__all__ = [
    "FeatureMap",
    "GramMatrix",
    "Image8",
    "Images",
    "LaneCount",
    "LaneIndex",
    "LaneMask",
    "Luminance",
    "PerLane",
    "PerTap",
    "Size",
    "Variables",
]
