"""A frozen network and a linear classifier of what it sees: as much as few images can train.

An image is the square roots of the means and standard deviations of the channels of the network's
taps: roots, because few channels are far above the others. The classifier is a ridge regression
on one-hot labels. A photograph and all that was made from it count as one item, so that no class
gains from having more copies.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.transforms import v2

from pipeline import SyntheticTextures
from texsynth import TextureNetwork, load_exemplar
from texsynth.config import REFERENCE_TAPS
from texsynth.images import image_to_tensor, resize

STRENGTHS = 10.0 ** np.arange(-4, 3.5, 0.5)
"""Of the ridge, as multiples of the mean eigenvalue of the training items' Gram matrix."""
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Items:
    """Features [N, D], class indices [N], and the number of the photograph behind each item [N]."""

    features: NDArray[np.float64]
    labels: NDArray[np.int64]
    parents: NDArray[np.int64]

    def __add__(self, more: Items) -> Items:
        pairs = zip(vars(self).values(), vars(more).values(), strict=True)
        return Items(*(np.concatenate(pair) for pair in pairs))


class Features:
    """Means and standard deviations of a network's taps, each image seen `size` px wide, once."""

    def __init__(self, network: TextureNetwork, size: int) -> None:
        self.network, self.size = network, size
        strides = {layer.tap: layer.stride for layer in network.layers}
        self.taps = [tap for tap, s in strides.items() if tap in REFERENCE_TAPS and size // s >= 2]
        self._known: dict[Hashable, Vector] = {}
        self._augment = v2.Compose(
            [
                v2.RandomResizedCrop(size, scale=(0.25, 1.0)),
                v2.RandomHorizontalFlip(),
                v2.RandomVerticalFlip(),
                v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05),
            ]
        )

    def of_file(self, path: Path) -> Vector:
        """Of a photograph: its central square."""
        return self._of(path, lambda: load_exemplar(path, self.size))

    def of_augmented(self, path: Path, draw: int) -> Vector:
        """Of a photograph as classic augmentation changes it."""

        def augment() -> torch.Tensor:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(draw)
                augmented: torch.Tensor = self._augment(load_exemplar(path))
            return augmented

        return self._of((path, draw), augment)

    def of_texture(self, textures: SyntheticTextures, index: int) -> Vector:
        """Of a texture among the items of a data set."""
        task_id = textures.rows["task_id"][index - textures.real_items].as_py()
        return self._of(task_id, lambda: image_to_tensor(textures[index][0]))

    def _of(self, key: Hashable, load: Callable[[], torch.Tensor]) -> Vector:
        if key not in self._known:
            image = resize(load()[None], self.size, self.size)
            with torch.inference_mode():
                maps = [tap[0].flatten(1) for tap in self.network(image, self.taps)]
            parts = [part for tap in maps for part in (tap.mean(1), tap.std(1))]
            self._known[key] = torch.cat(parts).double().sqrt().numpy()
        return self._known[key]


def classify(training: Items, val: Items, queries: Items) -> NDArray[np.int64]:
    """Classes of the queries by a ridge regression, whose strength has the least error on val.

    With weights w, features x scaled to deviation 1 and one-hot y, both less their means, it is
    sum_i w_i |y_i - W x_i|^2 + strength |W|^2, solved in its dual: N unknowns for each class.

    Args:
        training: to fit; must have every class.
        val: to choose the strength.
        queries: whose labels are not looked at.
    """
    weights = 1 / np.bincount(training.parents)[training.parents]
    targets = np.eye(int(training.labels.max()) + 1)
    centre = np.average(training.features, axis=0, weights=weights)
    mean = np.average(targets[training.labels], axis=0, weights=weights)
    variance = np.average(np.square(training.features - centre), axis=0, weights=weights)
    scale = np.sqrt(variance) + 1e-9
    roots = np.sqrt(weights)[:, None]
    fitted = roots * (training.features - centre) / scale
    values, vectors = np.linalg.eigh(fitted @ fitted.T)
    rotated = vectors.T @ (roots * (targets[training.labels] - mean))

    def score(items: Items, strength: float) -> NDArray[np.float64]:
        dual = vectors @ (rotated / (values + strength)[:, None])
        scores: NDArray[np.float64] = (items.features - centre) / scale @ (fitted.T @ dual) + mean
        return scores

    strengths = (STRENGTHS * values.mean()).tolist()
    errors = [np.square(score(val, s) - targets[val.labels]).mean() for s in strengths]
    guesses: NDArray[np.int64] = score(queries, strengths[int(np.argmin(errors))]).argmax(1)
    return guesses
