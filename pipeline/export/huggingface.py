"""A Hugging Face data set: Parquet files with Image and ClassLabel features, and a card.

`datasets.load_dataset(OUT)` reads it, and so does the Hub
(https://huggingface.co/docs/hub/datasets-cards). The card's head says how many rows each split has,
which `datasets` checks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import islice
from typing import Any

import pyarrow as pa
import yaml

from pipeline.columns import IMAGE
from pipeline.export.card import card_text
from pipeline.export.form import Part, Picture
from pipeline.export.manifest import describe_textures
from pipeline.export.staging import Staging
from pipeline.export.textures import Textures
from pipeline.shards import ROW_GROUP_ROWS, open_row_writer

DATA = "data"
CARD = "README.md"
ONLY_SPLIT = "train"
"""What `datasets` calls the rows of a data set without splits."""


class HuggingFaceDataset:
    """Files OUT/data/SPLIT-00000-of-0000N.parquet and OUT/README.md.

    Args:
        textures: What is exported.
        shard_rows: The most textures in a file.
    """

    def __init__(self, textures: Textures, shard_rows: int) -> None:
        self._textures = textures
        self._description = describe_textures(textures)
        self.paths = [""] * len(textures)
        self.entries = [DATA, CARD]
        self.parts: list[Part] = []
        self._rows_of_split: dict[str, int] = {}
        for split, numbers in textures.numbers_by_split().items():
            name = split if textures.has_splits else ONLY_SPLIT
            self._rows_of_split[name] = len(numbers)
            starts = range(0, len(numbers), shard_rows)
            for index, start in enumerate(starts):
                file = f"{DATA}/{name}-{index:05d}-of-{len(starts):05d}.parquet"
                self._add_file(Part(numbers[start : start + shard_rows], [file]))

    def _add_file(self, part: Part) -> None:
        self.parts.append(part)
        for number in part.numbers:
            self.paths[number] = f"{part.files[0]}/{self._textures.names[number]}.png"

    @property
    def schema(self) -> pa.Schema:
        """Columns of the files; `datasets` derives those features from them that it is not told."""
        fields = [pa.field("image", IMAGE), pa.field("label", pa.int64())]
        fields += [*self._description.schema, pa.field("sha256", pa.string())]
        features = {
            "image": {"_type": "Image"},
            "label": {"names": list(self._textures.classes), "_type": "ClassLabel"},
        }
        metadata = json.dumps({"info": {"features": features}})
        return pa.schema(fields, metadata={b"huggingface": metadata})

    def write(self, part: Part, pictures: Iterable[Picture], staging: Staging) -> None:
        """Write a file, a row group at a time."""
        pictures = iter(pictures)
        schema = self.schema
        with staging.writing(part.files[0]) as path, open_row_writer(path, schema) as writer:
            while group := list(islice(pictures, ROW_GROUP_ROWS)):
                writer.write_table(self._table(group, schema), row_group_size=ROW_GROUP_ROWS)

    def _table(self, pictures: list[Picture], schema: pa.Schema) -> pa.Table:
        names, labels = self._textures.names, self._textures.labels
        numbers = [picture.number for picture in pictures]
        images = [{"bytes": one.png, "path": f"{names[one.number]}.png"} for one in pictures]
        columns = [
            pa.array(images, IMAGE),
            pa.array([labels[number] for number in numbers], pa.int64()),
            *self._description.take(pa.array(numbers)).columns,
            pa.array([picture.sha256 for picture in pictures], pa.string()),
        ]
        return pa.table(columns, schema=schema)

    def finish(self, staging: Staging) -> None:
        """Write the card."""
        with staging.writing(CARD) as path:
            sizes = self._count_bytes(staging)
            head = yaml.safe_dump(self._head(sizes), sort_keys=False, allow_unicode=True)
            text = card_text(self._textures, self._rows_of_split)
            path.write_text(f"---\n{head}---\n\n{text}", encoding="utf-8")

    def _count_bytes(self, staging: Staging) -> dict[str, int]:
        """Bytes of the files of each split; without these `datasets` does not check the rows."""
        sizes = dict.fromkeys(self._rows_of_split, 0)
        for part in self.parts:
            split = part.files[0].removeprefix(f"{DATA}/").partition("-")[0]
            sizes[split] += (staging.out / part.files[0]).stat().st_size
        return sizes

    def _head(self, sizes: dict[str, int]) -> dict[str, Any]:
        """What the Hub and `datasets` read; `sizes` in bytes by split."""
        features = [_feature(field) for field in self.schema]
        features[0]["dtype"] = "image"
        classes = {str(number): name for number, name in enumerate(self._textures.classes)}
        features[1]["dtype"] = {"class_label": {"names": classes}}
        splits = [
            {"name": name, "num_bytes": sizes[name], "num_examples": rows}
            for name, rows in self._rows_of_split.items()
        ]
        files = [
            {"split": name, "path": f"{DATA}/{name}-*.parquet"} for name in self._rows_of_split
        ]
        return {
            "license": "other",
            "license_name": "that-of-the-source-images",
            "task_categories": ["image-classification"],
            "tags": ["synthetic", "texture"],
            "dataset_info": {
                "features": features,
                "splits": splits,
                "download_size": sum(sizes.values()),
                "dataset_size": sum(sizes.values()),
            },
            "configs": [{"config_name": "default", "data_files": files}],
        }


def _feature(field: pa.Field) -> dict[str, Any]:
    """A column as the card's head has it."""
    if pa.types.is_list(field.type) and pa.types.is_struct(field.type.value_type):
        return {"name": field.name, "list": [_feature(part) for part in field.type.value_type]}
    if pa.types.is_list(field.type):
        return {"name": field.name, "sequence": str(field.type.value_type)}
    return {"name": field.name, "dtype": str(field.type)}
