"""Textures of a run as a map-style data set of torch, alone or mixed into a real one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset, Sampler

from pipeline.image_reader import ImageReader
from pipeline.labels import SoftLabels, choose_classes, compute_labels
from pipeline.mixing import RealDataset, draw_rows, refuse_unknown_split
from pipeline.query import as_run
from pipeline.rundir import RunDirectory
from pipeline.selection import Selection, locate_rows, number_groups

BUFFERED_GROUPS = 16
"""Row groups that a process holds: of 64 images of 128 px they take 35 MB, of 256 px 140 MB."""


class SyntheticTextures(Dataset[tuple[Any, Any]]):
    """The chosen textures of a run: items (RGB image, class index).

    Images are read when they are asked for, a row group at a time, of which the last few are held;
    no file stays open. So it can be pickled, and used by workers that are forked or spawned.

    Args:
        run: A run directory, finished or not. What is committed later is not in it.
        partition: Of DTD: splits are those of this partition.
        split: Only textures of exemplars in this split. Needed with `mix_with`, unless all are of
            one split that is not held out, or the run has no splits.
        accepted_only: Leave out textures with a fault.
        transform: Of the image, a PIL one, RGB: one of `torchvision.transforms.v2`, say.
        target_transform: Of the label.
        mix_with: A real data set, without a transform of its own. Its items come first, and both
            transforms are applied to them too.
        ratio: Textures per real item: 1 doubles the data, 0.5 adds half as many. As even as can be
            over the exemplars; drawn by `seed`. All textures if None.
        classes: Names in the order of their indices; if None, those of `mix_with`, else the
            categories of the run, sorted.
        soft_labels: Labels are weights of the classes, float32 [classes], those of both parents in
            a blend, as of `torchvision.transforms.v2.MixUp`; of real items too.
        seed: Of the draw.
        buffered_groups: Row groups that each process holds.

    Attributes:
        classes, class_to_idx: As of `torchvision.datasets.DTD`.
        labels: Class index of every texture, [N].
        rows: What the textures are, in storage order: `pipeline.selection.LOCATED`.

    Raises:
        NotARunError: It is no run directory.
        SelectionError: No texture is chosen, one has an unknown category, or files are damaged.
        ValueError: A ratio without a real data set, or higher than the textures allow; real items
            beside textures whose parents may be held out.
    """

    def __init__(
        self,
        run: RunDirectory | Path | str,
        *,
        partition: int | None = None,
        split: str | None = None,
        accepted_only: bool = True,
        transform: Callable[[Image.Image], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        mix_with: RealDataset | None = None,
        ratio: float | None = None,
        classes: Sequence[str] | None = None,
        soft_labels: bool = False,
        seed: int = 0,
        buffered_groups: int = BUFFERED_GROUPS,
    ) -> None:
        directory = as_run(run)
        selection = Selection(partition=partition, split=split, accepted_only=accepted_only)
        rows = locate_rows(directory, selection)
        if mix_with is not None and split is None:
            refuse_unknown_split(directory, rows)
        if ratio is not None:
            rows = rows.take(draw_rows(rows, mix_with, ratio, seed))
        self.rows = rows.combine_chunks()
        self.classes = choose_classes(directory, classes, mix_with)
        self.class_to_idx = {name: index for index, name in enumerate(self.classes)}
        self.labels = compute_labels(rows, self.classes)
        self._soft = SoftLabels(rows, self.classes) if soft_labels else None
        self.transform, self.target_transform = transform, target_transform
        self.real_items = 0 if mix_with is None else len(mix_with)
        self.buffered_groups = buffered_groups
        self._real = mix_with
        self._images = ImageReader(directory, self.rows, buffered_groups)

    def __len__(self) -> int:
        return self.real_items + len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"item {index}: there are {len(self)}")
        index %= len(self)
        image: Any
        label: Any
        if self._real is not None and index < self.real_items:
            image, label = self._real[index]
            label = label if self._soft is None else self._soft.of_class(label)
        else:
            position = index - self.real_items
            image, label = self._images[position], int(self.labels[position])
            label = label if self._soft is None else self._soft[position]
        if self.transform is not None:
            image = self.transform(image)
        return image, label if self.target_transform is None else self.target_transform(label)


class BufferedShuffle(Sampler[int]):
    """Every item once per epoch, shuffled as far as a buffer of row groups allows.

    The row groups come in random order, and the items of as many as the data set holds are shuffled
    among each other; real items lie anywhere. So each row group is read once per epoch and process,
    where a full shuffle reads a row group for every image.

    Args:
        textures: The data set.
        seed: With the epoch, fixes the order.
    """

    def __init__(self, textures: SyntheticTextures, *, seed: int = 0) -> None:
        self._textures, self._seed, self._epoch = textures, seed, 0
        self._group = number_groups(textures.rows)

    def set_epoch(self, epoch: int) -> None:
        """Give the next pass another order."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._textures)

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng((self._seed, self._epoch))
        groups = int(self._group.max()) + 1
        of_textures = generator.permutation(groups)[self._group]
        of_real = generator.integers(0, groups, self._textures.real_items)
        buffer = np.concatenate([of_real, of_textures]) // self._textures.buffered_groups
        yield from np.lexsort((generator.random(len(buffer)), buffer)).tolist()
