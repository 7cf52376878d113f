"""Training sets with and without textures, on one partition of DTD after another."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torchvision.datasets import DTD

from examples.frozen import Features, Items, Vector, classify
from pipeline import SyntheticTextures
from pipeline.parents import Parent, load_textures
from pipeline.rundir import RunDirectory

ADDED: dict[str, tuple[str, ...]] = {
    "real": (),
    "real + classic": ("classic",),
    "real + textures": ("textures",),
    "real + 2 x classic": ("classic", "more classic"),
    "real + classic + textures": ("classic", "textures"),
}
"""Training sets, and what each adds to the real images."""
BASELINES = {
    "real + classic": "real",
    "real + textures": "real",
    "real + 2 x classic": "real",
    "real + classic + textures": "real + 2 x classic",
}
"""What each is compared with."""


class RefusedError(ValueError):
    """A run and a data set that do not make an honest comparison."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one partition gave.

    Attributes:
        classes: number of them.
        images: real images by split.
        covered: training images that have a texture.
        textures: number of them that were used.
        items: of each training set.
        tested: the test images.
        correct: of each training set, the share of seeds that had a test image right, [n_test].
    """

    classes: int
    images: dict[str, int]
    covered: int
    textures: int
    items: dict[str, int]
    tested: list[Path]
    correct: dict[str, Vector]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What all partitions share.

    Attributes:
        dtd: root of DTD.
        run: whose textures are tried.
        ratio: textures per training image; all if None.
        seeds: of the draws of classic copies and, with a ratio, of textures.
        features: of images.

    Raises:
        RefusedError: No seed, or no DTD.
    """

    dtd: Path
    run: RunDirectory
    ratio: float | None
    seeds: range
    features: Features

    def __post_init__(self) -> None:
        if not self.seeds:
            raise RefusedError(f"{len(self.seeds)} seeds: expected at least 1")
        if not (self.dtd / "dtd" / "dtd").is_dir():
            raise RefusedError(f"'{self.dtd}': expected dtd/dtd in it, as torchvision lays it out")

    @cached_property
    def parents(self) -> Mapping[str, tuple[Parent, ...]]:
        """Of each task of the run that has a texture."""
        textures = load_textures(self.run)
        return dict(zip(textures.rows["task_id"].to_pylist(), textures.parents, strict=True))

    def run_partition(self, partition: int) -> Outcome:
        """Train on every training set, for every seed.

        Raises:
            RefusedError: The run has no texture of a training image, no column of its split, or too
                few for the ratio; or a texture's parent is no training image, whatever it says.
        """
        splits = ("train", "val", "test")
        real = {split: DTD(self.dtd, split, partition, loader=Path) for split in splits}
        if any(data.classes != real["train"].classes for data in real.values()):
            raise RefusedError(f"partition {partition}: its splits do not have the same classes")
        items = {split: self._real_items(data) for split, data in real.items()}
        hits: dict[str, list[Vector]] = {name: [] for name in ADDED}
        for seed in self.seeds:
            added = self._draw(real["train"], partition, seed)
            for name, parts in ADDED.items():
                training = sum((added[part] for part in parts), start=items["train"])
                guesses = classify(training, items["val"], items["test"])
                hits[name].append((guesses == items["test"].labels).astype(float))
        used = added["textures"].parents
        return Outcome(
            classes=len(real["train"].classes),
            images={split: len(data) for split, data in real.items()},
            covered=len(np.unique(used)),
            textures=len(used),
            items={n: len(real["train"]) + len(parts) * len(used) for n, parts in ADDED.items()},
            tested=[real["test"][index][0] for index in range(len(real["test"]))],
            correct={name: np.mean(right, axis=0) for name, right in hits.items()},
        )

    def _real_items(self, data: DTD) -> Items:
        pairs = [data[index] for index in range(len(data))]
        features = np.stack([self.features.of_file(path) for path, _ in pairs])
        return Items(features, np.array([label for _, label in pairs]), np.arange(len(pairs)))

    def _draw(self, train: DTD, partition: int, seed: int) -> dict[str, Items]:
        """What may be added to the training images."""
        try:
            textures = SyntheticTextures(
                self.run,
                partition=partition,
                split="train",
                mix_with=train,
                ratio=self.ratio,
                seed=seed,
            )
        except ValueError as error:
            raise RefusedError(f"partition {partition}: {error}") from error
        tasks = textures.rows["task_id"].to_pylist()
        parents = self._find_parents(tasks, train, partition)
        indices = range(textures.real_items, len(textures))
        features = {"textures": [self.features.of_texture(textures, index) for index in indices]}
        for name in ("classic", "more classic"):
            draws = [zlib.crc32(f"{name} {seed} {task}".encode()) for task in tasks]
            pairs = zip((train[parent][0] for parent in parents), draws, strict=True)
            features[name] = [self.features.of_augmented(path, draw) for path, draw in pairs]
        return {n: Items(np.stack(f), textures.labels, parents) for n, f in features.items()}

    def _find_parents(self, tasks: Sequence[str], train: DTD, partition: int) -> NDArray[np.int64]:
        """The number of the training image that each texture was made from, by its SHA-256."""
        paths = [train[index][0] for index in range(len(train))]
        known = {hashlib.sha256(path.read_bytes()).hexdigest(): n for n, path in enumerate(paths)}
        for task in tasks:
            strangers = [p.exemplar_id for p in self.parents[task] if p.sha256 not in known]
            if strangers:
                raise RefusedError(
                    f"run '{self.run.path}': texture {task!r} was made from "
                    f"{', '.join(strangers)}, which is no training image of partition {partition} "
                    f"in '{self.dtd}'; see texsynth leakcheck and texsynth filter"
                )
        return np.array([known[str(self.parents[task][0].sha256)] for task in tasks])
