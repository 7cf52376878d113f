"""Gram matrices of feature maps and their squared differences, per lane.

G = F F^T / (4 N M), F of shape [N, M]: Gatys, Ecker, Bethge, "Texture Synthesis Using Convolutional
Neural Networks" (NeurIPS 2015, eq. 2), normalised as in the public reference implementation.
"""

from __future__ import annotations

from texsynth.shapes import FeatureMap, GramMatrix, PerLane


def compute_gram(features: FeatureMap) -> GramMatrix:
    """G = F F^T / (4 N M) of each lane.

    Args:
        features: [B, N, H, W]; M = H * W positions.

    Returns:
        [B, N, N], symmetric, positive semidefinite, blind to the order of the positions.
    """
    lanes, channels, height, width = features.shape
    flat = features.reshape(lanes, channels, height * width)
    return flat @ flat.mT / (4 * channels * height * width)


def gram_term(features: FeatureMap, target: GramMatrix) -> PerLane:
    """sum((G - G_exemplar)^2) of each lane, without weight: [B], at least 0.

    Args:
        features: [B, N, H, W] of the textures.
        target: [B, N, N] of the exemplars.
    """
    return (compute_gram(features) - target).square().sum((1, 2))
