"""Each lane's curvature pairs and the product of its inverse Hessian approximation with a vector.

Nocedal and Wright, "Numerical Optimization" (2006), algorithm 7.4, the two-loop recursion, in the
form of Byrd, Nocedal and Schnabel (Mathematical Programming 63, 1994, theorem 2.2): with S = [s_i],
Y = [y_i] from oldest to newest, R = the upper triangle of S^T Y, D = its diagonal,

    a = R^-1 S^T g                                  first loop
    c = R^-T (D a - gamma (Y^T g - Y^T Y a))        second loop, c_i = alpha_i - beta_i
    H g = gamma (g - Y a) + S c,      gamma = s.y / y.y of the newest pair

so that a step reads the history twice, in large matrix products, and recurs over K x K scalars
only.
Those are kept in float64: y is a difference of nearly equal vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from texsynth.shapes import LaneCount, LaneIndex, LaneMask, PerLane

Flat = Float[Tensor, "B D"]


@dataclass
class CurvatureHistory:
    """A ring of K pairs per lane; the vectors are written in place.

    Args:
        s, y: [B, K, D], steps and differences of gradients, in the slots of the ring.
        sy, yy: [B, K, K] in float64, s_i.y_j (where j is not older than i) and y_i.y_j.
        head: [B], the slot that the next pair takes.
        stored: [B], pairs in use, at most K.
        touched: slots that any lane may have written; the rest is not read.
    """

    s: Float[Tensor, "B K D"]
    y: Float[Tensor, "B K D"]
    sy: Float[Tensor, "B K K"]
    yy: Float[Tensor, "B K K"]
    head: LaneCount
    stored: LaneCount
    touched: int

    @classmethod
    def empty(cls, vectors: Flat, pairs: int) -> CurvatureHistory:
        """No pairs yet, room for `pairs`, for lanes and unknowns as `vectors` has them."""
        lanes, unknowns = vectors.shape
        scalars = vectors.new_zeros((lanes, pairs, pairs), dtype=torch.float64)
        count = torch.zeros(lanes, dtype=torch.int64, device=vectors.device)
        return cls(
            s=vectors.new_zeros((lanes, pairs, unknowns)),
            y=vectors.new_zeros((lanes, pairs, unknowns)),
            sy=scalars,
            yy=scalars.clone(),
            head=count,
            stored=count.clone(),
            touched=0,
        )

    def push(self, step: Flat, change: Flat, accepted: LaneMask) -> None:
        """Remember (s, y) in the accepted lanes; the oldest pair of a full ring is forgotten."""
        pairs = self.s.shape[1]
        self.touched = min(pairs, self.touched + 1)
        lane = torch.arange(len(step), device=step.device)
        for ring, vector in ((self.s, step), (self.y, change)):
            ring[lane, self.head] = torch.where(accepted[:, None], vector, ring[lane, self.head])
        used = slice(0, self.touched)
        for scalars, ring in ((self.sy, self.s), (self.yy, self.y)):
            column = torch.zeros_like(scalars[:, 0])
            column[:, used] = _dots(ring[:, used], change)
            kept = torch.where(accepted[:, None], column, scalars[lane, :, self.head])
            scalars[lane, :, self.head] = kept
        row = torch.where(accepted[:, None], self.yy[lane, :, self.head], self.yy[lane, self.head])
        self.yy[lane, self.head] = row
        self.head = torch.where(accepted, (self.head + 1) % pairs, self.head)
        self.stored = torch.where(accepted, (self.stored + 1).clamp(max=pairs), self.stored)

    def forget(self, lanes: LaneMask) -> None:
        """Drop all pairs of some lanes."""
        self.stored = torch.where(lanes, 0, self.stored)

    def clear(self, lanes: LaneIndex) -> None:
        """Make some lanes as they were at first; the vectors are not touched, nor read again."""
        self.stored = self.stored.index_fill(0, lanes, 0)
        self.head = self.head.index_fill(0, lanes, 0)

    def inverse_hessian_product(self, vector: Flat) -> Flat:
        """H v of each lane, [B, D]; v itself where a lane has no pairs."""
        if self.touched == 0:
            return vector.clone()
        order, valid = self._age_order()
        upper, square, gamma = self._sorted_scalars(order, valid)
        used = slice(0, self.touched)
        s_dot, y_dot = (
            torch.where(valid, _dots(ring[:, used], vector).gather(1, order), 0)
            for ring in (self.s, self.y)
        )
        diagonal = upper.diagonal(dim1=1, dim2=2)
        alpha = _solve(upper, s_dot, transposed=False)
        inner = gamma * (y_dot - (square @ alpha[..., None])[..., 0])
        difference = _solve(upper, diagonal * alpha - inner, transposed=True)
        y_part = _unsorted(gamma * torch.where(valid, alpha, 0), order)
        s_part = _unsorted(torch.where(valid, difference, 0), order)
        product = gamma.to(vector.dtype) * vector
        product -= _combine(self.y[:, used], y_part)
        return product + _combine(self.s[:, used], s_part)

    def _age_order(self) -> tuple[Tensor, Tensor]:
        """Slots from oldest to newest [B, touched] and which of those places hold a pair."""
        place = torch.arange(self.touched, device=self.head.device)
        pairs = self.s.shape[1]
        order = (self.head[:, None] - self.stored[:, None] + place) % pairs
        valid = place < self.stored[:, None]
        return torch.where(valid, order, 0), valid

    def _sorted_scalars(self, order: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, PerLane]:
        """R with a unit diagonal where there is no pair, Y^T Y, and gamma [B, 1]; by age."""
        both = valid[:, :, None] & valid[:, None, :]
        lane = torch.arange(len(order), device=order.device)[:, None, None]
        upper, square = (
            torch.where(both, scalars[lane, order[:, :, None], order[:, None, :]], 0)
            for scalars in (self.sy, self.yy)
        )
        newest = (self.stored - 1).clamp(min=0)[:, None]
        s_dot_y = upper.diagonal(dim1=1, dim2=2).gather(1, newest)
        y_dot_y = square.diagonal(dim1=1, dim2=2).gather(1, newest)
        gamma = torch.where(self.stored[:, None] > 0, s_dot_y / y_dot_y, 1)
        return upper.triu() + torch.diag_embed((~valid).to(upper.dtype)), square, gamma


def dot(a: Flat, b: Flat) -> PerLane:
    """Inner product of each lane, accumulated in float64: [B]."""
    product: Tensor = torch.linalg.vecdot(a.double(), b.double())
    return product


def _dots(ring: Float[Tensor, "B K D"], vector: Flat) -> Float[Tensor, "B K"]:
    # As a row: with the vector as a column the CPU's batched product is slower.
    return (vector[:, None, :] @ ring.mT)[:, 0].double()


def _combine(ring: Float[Tensor, "B K D"], weights: Float[Tensor, "B K"]) -> Flat:
    return (weights.to(ring.dtype)[:, None, :] @ ring)[:, 0]


def _unsorted(values: Tensor, order: Tensor) -> Tensor:
    """Values by age put back into their slots; places without a pair hold zeros and add nothing."""
    return torch.zeros_like(values).scatter_add_(1, order, values)


def _solve(upper: Tensor, right: Tensor, *, transposed: bool) -> Tensor:
    matrix = upper.mT if transposed else upper
    solved: Tensor = torch.linalg.solve_triangular(matrix, right[..., None], upper=not transposed)
    return solved[..., 0]
