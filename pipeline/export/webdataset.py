"""WebDataset shards: tar files with KEY.png, KEY.cls and KEY.json for each texture.

The format is that of https://github.com/webdataset/webdataset: files of one key are neighbours, and
a key has no dot. Each shard has textures of all categories, as far as it goes, because a loader
shuffles shards and what is in a buffer, and no more.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable

from pipeline.export.form import Part, Picture
from pipeline.export.manifest import describe_textures
from pipeline.export.staging import Staging
from pipeline.export.textures import Textures

ALL = "textures"
"""Of the names of shards where there are no splits."""
CLASSES = "classes.json"


class TarShards:
    """Shards OUT/SPLIT-000000.tar; KEY.cls is the number of the category in the run's.

    Args:
        textures: What is exported.
        shard_rows: The most textures in a shard.
    """

    def __init__(self, textures: Textures, shard_rows: int) -> None:
        self._textures = textures
        self._description = describe_textures(textures)
        self.paths = [""] * len(textures)
        self.entries = [CLASSES]
        self.parts: list[Part] = []
        for split, numbers in textures.numbers_by_split().items():
            shards = -(-len(numbers) // shard_rows)
            for shard in range(shards):
                name = f"{split if textures.has_splits else ALL}-{shard:06d}.tar"
                self._add_shard(name, Part(numbers[shard::shards], [name]))

    def _add_shard(self, name: str, part: Part) -> None:
        self.entries.append(name)
        self.parts.append(part)
        for number in part.numbers:
            self.paths[number] = f"{name}/{self._textures.names[number]}.png"

    def write(self, part: Part, pictures: Iterable[Picture], staging: Staging) -> None:
        """Write a shard; the same textures make the same bytes."""
        rows = self._description.take(part.numbers).to_pylist()
        with staging.writing(part.files[0]) as path, tarfile.open(path, "w") as shard:
            for picture, row in zip(pictures, rows, strict=True):
                key = self._textures.names[picture.number]
                values = {**row, "sha256": picture.sha256}
                _add_file(shard, f"{key}.png", picture.png)
                _add_file(shard, f"{key}.cls", str(self._textures.labels[picture.number]).encode())
                _add_file(shard, f"{key}.json", json.dumps(values).encode())

    def finish(self, staging: Staging) -> None:
        """Write the categories, in the order of their numbers, one JSON list."""
        with staging.writing(CLASSES) as path:
            text = json.dumps(self._textures.classes, indent=2, ensure_ascii=False)
            path.write_text(f"{text}\n", encoding="utf-8")


def _add_file(shard: tarfile.TarFile, name: str, data: bytes) -> None:
    # No time, owner or place of this machine.
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    shard.addfile(entry, io.BytesIO(data))
