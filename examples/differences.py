"""How much one training set is better than another, over partitions that deal the same images.

The unit is the photograph: d_i is the mean difference over the seeds and over the partitions that
test it, and the interval is Student's over all n of these, mean(d) +- t(0.975, n - 1) s / sqrt(n).
Over partitions it would be too narrow, because they test the same photographs again. That they
also train on the same ones is not in it; a test simulates how often it holds all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from examples.ablation import BASELINES, Outcome
from examples.frozen import Vector
from pipeline.compare import compute_interval


@dataclass(frozen=True)
class Difference:
    """Of the accuracies of two training sets, in points of a percentage.

    Attributes:
        name: of the training set.
        against: that it is compared with.
        points: mean over photographs.
        low, high: of the interval.
    """

    name: str
    against: str
    points: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """What the interval says."""
        numbers = (
            f"({self.points:+.1f} points against {self.against}, 95 % interval "
            f"{self.low:+.1f} to {self.high:+.1f})"
        )
        if self.low > 0:
            return f"better {numbers}"
        return (
            f"worse {numbers}" if self.high < 0 else f"no difference that this can show {numbers}"
        )


def compute_differences(outcomes: Sequence[Outcome]) -> list[Difference]:
    """Every training set against its baseline, on the same partitions, seeds and photographs."""
    found = []
    for name, against in BASELINES.items():
        by_photograph = 100 * (
            average_by_photograph(outcomes, name) - average_by_photograph(outcomes, against)
        )
        low, high = compute_interval(by_photograph) or (-np.inf, np.inf)
        found.append(Difference(name, against, float(by_photograph.mean()), low, high))
    return found


def average_by_photograph(outcomes: Sequence[Outcome], name: str) -> Vector:
    """How often each photograph was right as a test image, mean over partitions, [n] in [0, 1]."""
    paths = [path for outcome in outcomes for path in outcome.tested]
    correct = np.concatenate([outcome.correct[name] for outcome in outcomes])
    _, photograph = np.unique([str(path) for path in paths], return_inverse=True)
    means: Vector = np.bincount(photograph, correct) / np.bincount(photograph)
    return means
