"""Gram matrices of feature maps and their squared differences, per lane.

G = F F^T / (4 N M), F of shape [N, M]: Gatys, Ecker, Bethge, "Texture Synthesis Using Convolutional
Neural Networks" (NeurIPS 2015, eq. 2), normalised as in the public reference implementation.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from texsynth.shapes import FeatureMap, GramMatrix, PerLane


class GramMetric(NamedTuple):
    """How much each entry of a Gram difference counts, in a basis of its own, per lane.

    Args:
        basis: U, [B, N, N], orthogonal; the columns are its vectors.
        weight: W, [B, N, N], symmetric, in (0, 1].
    """

    basis: GramMatrix
    weight: GramMatrix

    def apply(self, difference: GramMatrix) -> GramMatrix:
        """U (W o (U^T D U)) U^T of each lane, [B, N, N]."""
        inner = self.basis.mT @ difference @ self.basis
        return self.basis @ (self.weight * inner) @ self.basis.mT


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


def gram_distance(
    gram: GramMatrix, target: GramMatrix, metric: GramMetric | None = None
) -> PerLane:
    """`gram_term` of Gram matrices, [B, N, N], instead of features; differentiable by them."""
    difference = gram - target
    weighted = difference if metric is None else metric.apply(difference)
    return (weighted * difference).sum((1, 2))


def gram_term(
    features: FeatureMap, target: GramMatrix, metric: GramMetric | None = None
) -> PerLane:
    """sum((G - G_exemplar)^2) of each lane, without weight: [B], at least 0.

    With a metric, sum(W o (U^T (G - G_exemplar) U)^2) of it: the same zeros, other slopes.

    Args:
        features: [B, N, H, W] of the textures.
        target: [B, N, N] of the exemplars; no gradient flows to it.
        metric: of the same lanes and tap; None is the plain sum.
    """
    term: PerLane = _GramTerm.apply(features, target, metric)
    return term


class _GramTerm(torch.autograd.Function):
    """The term with its gradient 4 R F / (4 N M), R the difference under the metric.

    The closed form takes one product with F where autograd would take two, one for each factor of
    F F^T, and keeps no copy of F.
    """

    @staticmethod
    def forward(
        ctx: Any, features: FeatureMap, target: GramMatrix, metric: GramMetric | None
    ) -> PerLane:
        difference = compute_gram(features) - target
        weighted = difference if metric is None else metric.apply(difference)
        ctx.save_for_backward(features, weighted)
        return (weighted * difference).sum((1, 2))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: PerLane) -> tuple[FeatureMap, None, None]:
        features, weighted = ctx.saved_tensors
        flat = features.flatten(2)
        scale = slope[:, None, None] / (flat.shape[1] * flat.shape[2])
        return ((scale * weighted) @ flat).view_as(features), None, None
