"""What the gallery of a report shows: rows, exemplars, and the pictures of both, written as files.

Images are read a few hundred at a time, an exemplar with all its textures at once and in the order
of the stored files, so that memory grows with the numbers of a run alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from pipeline.committed import FileProblem, Scan, read_rows
from pipeline.report.exemplars import encode_png, recut_exemplar
from pipeline.report.measures import ACCEPTED, Flag, Measure, find_flags, find_measures
from pipeline.report.pictures import PictureWriter
from pipeline.report.reasons import describe_faults
from pipeline.report.spectra import compute_spectrum_difference, draw_spectrum_difference
from pipeline.resume import RunRecord
from pipeline.schema import row_schema
from texsynth.decoding import ImageError, load_image

BATCH_ROWS = 256
"""With PNGs of 256 px this is 40 MB of files and 50 MB of decoded pictures."""
WORKERS = min(8, os.cpu_count() or 1)
"""Threads that read source files and decode; both let others run meanwhile."""
NO_TILE = -1


@dataclass
class Exemplar:
    """A crop that textures were made from.

    Attributes:
        first: A row of it, a null is None.
        tile: Of its thumbnail, or NO_TILE.
        full: File of the picture at full size, or empty.
        problem: Why there is no picture.
    """

    first: dict[str, Any]
    tile: int = NO_TILE
    full: str = ""
    problem: str = ""


@dataclass
class Texture:
    """The pictures of a row: its tile, or NO_TILE; files at full size, or empty texts."""

    tile: int = NO_TILE
    full: str = ""
    spectrum: str = ""


@dataclass(frozen=True)
class Gallery:
    """Rows and exemplars with the places of their pictures.

    Attributes:
        rows: One row per task in stored order; `exemplar` is the index into `exemplars`.
            `flagged` says of a texture whether it is not accepted.
        reasons: What is wrong with each row, in words.
        measures, flags: Those that any row has.
        textures: Of each row.
        exemplars: In stored order.
        problems: Files of the run that could not be read.
        curves: Loss curves of the rows at full size, by the number of the row.
    """

    rows: pd.DataFrame
    reasons: list[list[str]]
    measures: tuple[Measure, ...]
    flags: tuple[Flag, ...]
    textures: list[Texture]
    exemplars: list[Exemplar]
    problems: tuple[FileProblem, ...]
    curves: dict[int, list[dict[str, float]]] = field(default_factory=dict)


def build_gallery(
    scan: Scan,
    record: RunRecord,
    writer: PictureWriter,
    limit: int,
) -> Gallery:
    """Read the committed rows and write their pictures.

    Args:
        scan: What the files of the run hold.
        record: Says where the source images lie.
        writer: Takes the pictures.
        limit: How many textures are written at full size at most, the worst of them.
    """
    table = _read_numbers(scan)
    reasons = describe_faults(table, find_flags())
    rows: pd.DataFrame = table.drop_columns("flag_rules").to_pandas()
    rows["exemplar"] = rows.groupby(["exemplar_id", "crop"], sort=False).ngroup()
    rows["flagged"] = (rows["status"] == "ok") & (rows[ACCEPTED] == False)  # noqa: E712 - or null
    worst = order_worst_first(rows[rows["status"] == "ok"]).head(limit).index
    gallery = Gallery(
        rows,
        reasons,
        tuple(measure for measure in find_measures() if rows[measure.name].notna().any()),
        tuple(flag for flag in find_flags() if rows[flag.name].notna().any()),
        [Texture() for _ in range(len(rows))],
        [Exemplar(first) for first in to_records(rows.drop_duplicates("exemplar"))],
        scan.problems,
        _read_curves(scan, np.sort(worst.to_numpy())),
    )
    placing = _Placing(gallery, frozenset(worst.tolist()), record, writer)
    with ThreadPoolExecutor(WORKERS) as pool:
        for batch in _batches(rows["exemplar"].to_numpy()):
            placing.place_batch(batch, _read_pngs(scan, batch), pool)
    writer.flush()
    return gallery


def order_worst_first(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows by the highest delivered loss of their exemplar and crop, then by their own."""
    loss = rows["delivered_loss"].fillna(float("inf"))
    worst = loss.groupby([rows["exemplar_id"], rows["crop"]]).transform("max")
    keys = {"worst": False, "exemplar_id": True, "crop": True, "loss": False, "variation": True}
    ordered = rows.assign(worst=worst, loss=loss).sort_values(
        list(keys), ascending=list(keys.values())
    )
    return ordered.drop(columns=["worst", "loss"])


def to_records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries in which every null is None."""
    records = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return [{str(name): value for name, value in record.items()} for record in records]


@dataclass(frozen=True)
class _Placing:
    """Puts the pictures of exemplars and textures in their places."""

    gallery: Gallery
    at_full_size: frozenset[int]
    record: RunRecord
    writer: PictureWriter

    def place_batch(
        self, batch: NDArray[np.int64], pngs: list[bytes | None], pool: ThreadPoolExecutor
    ) -> None:
        """Place some exemplars, then the textures of each.

        Args:
            batch: Numbers of rows, every exemplar whole, one after the other.
            pngs: The stored images of these rows.
            pool: Decodes them.
        """
        exemplar_of_row = self.gallery.rows["exemplar"].to_numpy()[batch].tolist()
        numbers = list(dict.fromkeys(exemplar_of_row))
        known = self._first_with_crop(batch)
        recut = pool.map(self._recut, [known.get(number) for number in numbers])
        sources = dict(zip(numbers, recut, strict=True))
        placed: set[int] = set()
        rows = zip(batch.tolist(), exemplar_of_row, pngs, pool.map(_decode, pngs), strict=True)
        for row, number, png, image in rows:
            source = sources[number]
            if number not in placed:
                placed.add(number)
                self._place_exemplar(self.gallery.exemplars[number], source)
            if png is not None and image is not None:
                texture = self.gallery.textures[row]
                texture.tile = self.writer.add_thumbnail(image)
                if row in self.at_full_size:
                    texture.full = self.writer.add_full(png)
                    self._place_pair(self.gallery.exemplars[number], texture, source, image)

    def _first_with_crop(self, batch: NDArray[np.int64]) -> dict[int, dict[str, Any]]:
        """By exemplar, a row that says what was cut; a failed one may not."""
        rows = self.gallery.rows.iloc[batch]
        rows = rows.dropna(subset=["crop_side", "width"]).drop_duplicates("exemplar")
        return {record["exemplar"]: record for record in to_records(rows)}

    def _recut(self, row: dict[str, Any] | None) -> Image.Image | str:
        """An exemplar, or why there is none."""
        if row is None:
            return "the rows do not say what was cut"
        outside = self.record.config.get("allow_outside_root") is True
        try:
            size = self.record.config.get("size")
            return recut_exemplar(row, self.record.root, size=size, allow_outside_root=outside)
        except ImageError as error:
            return str(error)

    def _place_exemplar(self, exemplar: Exemplar, source: Image.Image | str) -> None:
        if isinstance(source, str):
            exemplar.problem = source
        else:
            exemplar.tile = self.writer.add_thumbnail(source)

    def _place_pair(
        self, exemplar: Exemplar, texture: Texture, source: Image.Image | str, image: Image.Image
    ) -> None:
        """Write an exemplar at full size, and how the spectrum of a texture differs from its."""
        if isinstance(source, str):
            return
        if not exemplar.full:
            exemplar.full = self.writer.add_full(encode_png(source))
        if image.size == source.size:
            difference = compute_spectrum_difference(np.asarray(image), np.asarray(source))
            png = encode_png(draw_spectrum_difference(difference))
            texture.spectrum = self.writer.add_full(png)


def _batches(exemplar_of_row: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Numbers of rows, every exemplar whole; BATCH_ROWS or more at a time but for the last."""
    order = np.argsort(exemplar_of_row, kind="stable")
    ends = np.flatnonzero(np.diff(exemplar_of_row[order], append=-1)) + 1
    begin = 0
    for end in ends.tolist():
        if end - begin >= BATCH_ROWS or end == len(order):
            yield order[begin:end]
            begin = end


def _read_numbers(scan: Scan) -> pa.Table:
    """The rows without images, curves and other lists; the rules of their flags stay."""
    plain = [field.name for field in row_schema() if not pa.types.is_nested(field.type)]
    return read_rows(scan, scan.winners, [*plain, "flag_rules"])


def _read_pngs(scan: Scan, rows: NDArray[np.int64]) -> list[bytes | None]:
    column = read_rows(scan, scan.winners.take(pa.array(rows)), ["image"])["image"]
    pngs: list[bytes | None] = pc.struct_field(column, "bytes").to_pylist()
    return pngs


def _read_curves(scan: Scan, rows: NDArray[np.int64]) -> dict[int, list[dict[str, float]]]:
    """The loss curves of some rows that have one, by the number of the row."""
    located = scan.winners.take(pa.array(rows, pa.int64()))
    curves = read_rows(scan, located, ["loss_curve"])["loss_curve"].to_pylist()
    return {row: curve for row, curve in zip(rows.tolist(), curves, strict=True) if curve}


def _decode(png: bytes | None) -> Image.Image | None:
    """The picture of a row; None where there is none, or one that nothing can decode."""
    try:
        return None if png is None else load_image(png)
    except ImageError:
        return None
