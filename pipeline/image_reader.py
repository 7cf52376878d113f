"""Images of located textures, decoded when they are asked for, in any order.

No file stays open between two reads, so that a process can be forked at any time.
"""

from __future__ import annotations

import io
from functools import lru_cache, partial
from typing import Any

import pyarrow as pa
from PIL import Image

from pipeline.rundir import RunDirectory
from pipeline.selection import moved, read_group


class ImageReader:
    """Images of located rows, decoded when asked for; the last row groups are held, as PNG.

    Args:
        run: The run directory.
        rows: Of `LOCATED`, a chunk per column.
        groups: How many row groups to hold.
    """

    def __init__(self, run: RunDirectory, rows: pa.Table, groups: int) -> None:
        self._run, self._groups = run, groups
        self._task_ids = rows["task_id"].combine_chunks()
        files = rows["file"].combine_chunks().dictionary_encode()
        self._files: list[str] = files.dictionary.to_pylist()
        self._file = files.indices.to_numpy()
        self._row_group, self._row = rows["row_group"].to_numpy(), rows["row"].to_numpy()
        self._read = lru_cache(groups)(partial(read_group, run))

    def __getitem__(self, position: int) -> Image.Image:
        file, row = self._files[self._file[position]], int(self._row[position])
        task_ids, pngs = self._read(file, int(self._row_group[position]))
        task_id = self._task_ids[position].as_py()
        if row >= len(task_ids) or task_ids[row].as_py() != task_id:
            raise moved(self._run, file)
        return decode_texture(pngs[row].as_py(), task_id)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_read"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._read = lru_cache(self._groups)(partial(read_group, self._run))


def decode_texture(png: bytes, task_id: str) -> Image.Image:
    """The RGB image in the bytes of a texture.

    Raises:
        OSError: They are no whole PNG.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(png), formats=("PNG",))
        image.load()
    except (OSError, SyntaxError) as error:
        raise OSError(f"texture of task {task_id!r}: {error}") from error
    return image if image.mode == "RGB" else image.convert("RGB")
