"""Textures of a run as a stream, divided over the workers of a loader and the ranks of a training.

Each reads row groups of its own, one after another, and shuffles within a buffer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import distributed
from torch.utils.data import IterableDataset, get_worker_info

from pipeline.image_reader import decode_texture
from pipeline.labels import SoftLabels, choose_classes, compute_labels
from pipeline.query import as_run
from pipeline.rundir import RunDirectory
from pipeline.selection import Selection, locate_rows, number_groups, read_stretches

BUFFER = 1024
"""Images to shuffle among: as PNG, of 128 px, they take 35 MB."""
Item = TypeVar("Item")


class StreamedTextures(IterableDataset[tuple[Any, Any]]):
    """The chosen textures of a run: (RGB image, class index), each once per epoch over all ranks.

    The row groups, in random order, are cut into one piece of equal length per rank, and that into
    one per worker: lengths differ by one at most. All ranks must give the same arguments.

    Args:
        run: A run directory, finished or not. What is committed later is not in it.
        partition, split, accepted_only, transform, target_transform, classes, soft_labels: As of
            `SyntheticTextures`.
        buffer: Images to shuffle among; 0: none, and row groups in the order of storage.
        seed: With the epoch, fixes the order.
        rank, world_size: Of this process; if None, as `torch.distributed` says, else 0 of 1.
        even: What makes all ranks equally long: `drop` up to `world_size` - 1 textures, others in
            each epoch, or `pad` with as many that come twice. None: nothing.

    Attributes:
        classes, class_to_idx: As of `torchvision.datasets.DTD`.
        labels: Class index of every texture, [N], of all ranks.
        rows: What the textures are, in storage order: `pipeline.selection.LOCATED`.

    Raises:
        NotARunError: It is no run directory.
        SelectionError: No texture is chosen, one has an unknown category, or files are damaged.
        ValueError: No such rank, or fewer textures than ranks with `even="drop"`.
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
        classes: Sequence[str] | None = None,
        soft_labels: bool = False,
        buffer: int = BUFFER,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        even: Literal["drop", "pad"] | None = None,
    ) -> None:
        self._run = as_run(run)
        selection = Selection(partition=partition, split=split, accepted_only=accepted_only)
        self.rows = locate_rows(self._run, selection).combine_chunks()
        self.classes = choose_classes(self._run, classes)
        self.class_to_idx = {name: index for index, name in enumerate(self.classes)}
        self.labels = compute_labels(self.rows, self.classes)
        self._soft = SoftLabels(self.rows, self.classes) if soft_labels else None
        self.transform, self.target_transform = transform, target_transform
        self._buffer, self._seed, self._even = buffer, seed, even
        self._rank, self._world_size = _resolve_rank(rank, world_size)
        if even == "drop" and len(self.rows) < self._world_size:
            got = f"{len(self.rows)} textures for {self._world_size} ranks"
            raise ValueError(f"even 'drop': {got}, all would be left out; expected more, or 'pad'")
        self._group = number_groups(self.rows)
        # Shared, because workers that persist have a copy of everything else.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Give the next pass another order, also in workers that persist."""
        self._epoch.fill_(epoch)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        epoch = int(self._epoch)
        ours = self._order(np.random.default_rng((self._seed, epoch)))
        mine = np.array_split(ours, workers)[number]
        generator = np.random.default_rng((self._seed, epoch, self._rank, number))
        for task_id, position, png in shuffle(self._read(mine), self._buffer, generator):
            image: Any = decode_texture(png, task_id)
            if self.transform is not None:
                image = self.transform(image)
            label: Any = int(self.labels[position])
            label = label if self._soft is None else self._soft[position]
            yield image, label if self.target_transform is None else self.target_transform(label)

    def _read(self, positions: NDArray[np.int64]) -> Iterator[tuple[str, int, bytes]]:
        """Task id, position and PNG of some rows."""
        rows = self.rows.select(["task_id", "file", "row_group", "row"]).take(positions)
        placed = rows.append_column("position", pa.array(positions))
        for part, pngs in read_stretches(self._run, placed):
            columns = (part[name].to_pylist() for name in ("task_id", "position"))
            yield from zip(*columns, pngs.to_pylist(), strict=True)

    def _order(self, generator: np.random.Generator) -> NDArray[np.int64]:
        """Numbers of the rows of this rank, group by group."""
        order = np.arange(len(self._group))
        if self._buffer:
            groups = generator.permutation(int(self._group.max()) + 1)
            order = np.argsort(groups[self._group], kind="stable")
        if self._even is not None:
            spare = len(order) % self._world_size
            missing = self._world_size - spare if spare and self._even == "pad" else -spare
            order = np.resize(order, len(order) + missing)
        return np.array_split(order, self._world_size)[self._rank]


def shuffle(items: Iterable[Item], buffer: int, generator: np.random.Generator) -> Iterator[Item]:
    """All items, each drawn from a buffer that the following ones fill up; in order if it is 0."""
    held: list[Item] = []
    for item in items:
        if len(held) < buffer:
            held.append(item)
            continue
        if held:
            drawn = int(generator.integers(buffer))
            item, held[drawn] = held[drawn], item
        yield item
    for drawn in generator.permutation(len(held)):
        yield held[drawn]


def _resolve_rank(rank: int | None, world_size: int | None) -> tuple[int, int]:
    if rank is None and world_size is None:
        if distributed.is_available() and distributed.is_initialized():
            return distributed.get_rank(), distributed.get_world_size()
        return 0, 1
    if rank is None or world_size is None or not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} of {world_size}: expected both, from 0 to world_size - 1")
    return rank, world_size
