"""How much one training set is better than another, over partitions that share their images.

Partitions deal the same images, so that their differences d_1 ... d_J are not independent. The
interval allows for that: mean(d) +- t(0.975, J - 1) s sqrt(1 / J + n_test / n_train), with the
standard deviation s of the d_j (Nadeau and Bengio, "Inference for the Generalization Error",
Machine Learning 52, 2003). Of one partition it is Student's, over test images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from examples.ablation import BASELINES, Outcome
from pipeline.compare import CONFIDENCE, compute_interval


@dataclass(frozen=True)
class Difference:
    """Of the accuracies of two training sets, in points of a percentage.

    Attributes:
        name: of the training set.
        against: that it is compared with.
        points: mean over partitions.
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
    """Every training set against its baseline, on the same partitions, seeds and test images."""
    found = []
    for name, against in BASELINES.items():
        by_image = [100 * (o.correct[name] - o.correct[against]) for o in outcomes]
        by_partition = [float(differences.mean()) for differences in by_image]
        if len(outcomes) == 1:
            interval = compute_interval(by_image[0])
        else:
            test_share = outcomes[0].images["test"] / outcomes[0].images["train"]
            interval = correct_interval(by_partition, test_share)
        low, high = interval or (-math.inf, math.inf)
        found.append(Difference(name, against, float(np.mean(by_partition)), low, high))
    return found


def correct_interval(differences: Sequence[float], test_share: float) -> tuple[float, float]:
    """The interval of the mean of dependent differences.

    Args:
        differences: of two partitions or more.
        test_share: test images per training image.
    """
    count = len(differences)
    variance = float(np.var(differences, ddof=1)) * (1 / count + test_share)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * math.sqrt(variance)
    mean = float(np.mean(differences))
    return mean - half, mean + half
