"""Thumbnails and pictures at full size, and exemplars cut again from their files."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.crops import prepare_crop
from pipeline.report import write_report
from pipeline.report.pictures import TILE_SIDE, TILES_PER_SIDE, PictureWriter
from pipeline.report.spectra import compute_spectrum_difference, draw_spectrum_difference
from pipeline.resume import RunRecord, write_run_record
from pipeline.rundir import RunDirectory

Row = dict[str, Any]
MakeRow = Callable[..., Row]
OpenReport = Callable[[Path], Any]
Commit = Callable[..., None]
SIDE = 16
LANCZOS = Image.Resampling.LANCZOS


def test_every_picture_is_there(
    run: RunDirectory,
    record: RunRecord,
    texture: MakeRow,
    make_png: Callable[[str], bytes],
    open_report: OpenReport,
    commit: Commit,
) -> None:
    commit(run, texture("good", 0, 10.0), texture("bad", 0, 5.0), texture("bad", 1, 900.0))
    report = open_report(write_report(run))
    row = report.row("bad-c0-v1")
    stored = np.asarray(Image.open(io.BytesIO(make_png("bad-c0-v1"))))
    np.testing.assert_array_equal(report.pixels(row["full"]), stored)
    source = Path(record.root) / texture("bad", 1, 900.0)["path"]
    crop = prepare_crop(source.read_bytes(), size=SIDE)
    exemplar = report.exemplar("bad")
    np.testing.assert_array_equal(report.pixels(exemplar["full"]), crop.pixels)
    assert row["exemplar"] == report.exemplars["exemplar_id"].index("bad")
    tiles = [*report.rows["tile"], *report.exemplars["tile"]]
    assert sorted(tiles) == list(range(5))
    for name, tile in ((row["full"], row["tile"]), (exemplar["full"], exemplar["tile"])):
        small = Image.open(report.assets / name).resize((TILE_SIDE, TILE_SIDE), LANCZOS)
        difference = np.abs(report.tile(tile).astype(float) - np.asarray(small))
        assert difference.mean() < 12


def test_spectra_are_compared_where_sizes_agree(
    run: RunDirectory, texture: MakeRow, open_report: OpenReport, commit: Commit
) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    image = {"bytes": file.getvalue(), "path": "a.png"}
    commit(run, texture("a", 0, 10.0, image=image), texture("a", 1, 10.0))
    report = open_report(write_report(run))
    exemplar = report.pixels(report.exemplar("a")["full"])
    drawn = draw_spectrum_difference(compute_spectrum_difference(pixels, exemplar))
    shown = report.pixels(report.row("a-c0-v0")["spectrum"])
    np.testing.assert_array_equal(shown, np.asarray(drawn.convert("RGB")))
    assert report.row("a-c0-v1")["spectrum"] == ""


def test_tiles_go_on_in_the_next_sheet(tmp_path: Path) -> None:
    writer = PictureWriter(tmp_path)
    colours = np.random.default_rng(0).integers(0, 256, (TILES_PER_SIDE**2 + 3, 3), np.uint8)
    pictures = [np.full((9, 9, 3), colour, np.uint8) for colour in colours]
    tiles = [writer.add_thumbnail(Image.fromarray(picture)) for picture in pictures]
    writer.flush()
    writer.flush()
    assert tiles == list(range(len(pictures)))
    sheets = [np.asarray(Image.open(tmp_path / f"sheet-{k}.jpg")) for k in range(2)]
    for tile, colour in enumerate(colours):
        sheet, place = divmod(tile, TILES_PER_SIDE**2)
        y, x = (TILE_SIDE * k + TILE_SIDE // 2 for k in divmod(place, TILES_PER_SIDE))
        assert np.abs(sheets[sheet][y, x].astype(int) - colour).max() <= 4


def test_equal_pictures_are_one_file(
    run: RunDirectory, texture: MakeRow, open_report: OpenReport, commit: Commit
) -> None:
    image = texture("a", 0, 1.0)["image"]
    commit(run, *(texture("a", k, 10.0, image=image) for k in range(3)))
    report = open_report(write_report(run))
    assert len(set(report.rows["full"])) == 1
    assert len(list(report.assets.glob("*.png"))) == 2


def test_exemplars_and_siblings_lie_together_whatever_the_batch(
    run: RunDirectory,
    texture: MakeRow,
    monkeypatch: pytest.MonkeyPatch,
    open_report: OpenReport,
    commit: Commit,
) -> None:
    commit(run, *(texture(f"e{k}", v, 10.0 * k) for v in (1, 0) for k in range(5)))
    whole = open_report(write_report(run))
    monkeypatch.setattr("pipeline.report.gallery.BATCH_ROWS", 3)
    parts = open_report(write_report(run))
    for name in ("tile", "full", "exemplar", "task"):
        assert parts.rows[name] == whole.rows[name]
    for number, tile in enumerate(whole.exemplars["tile"]):
        members = [k for k, e in enumerate(whole.rows["exemplar"]) if e == number]
        assert [whole.rows["tile"][k] for k in members] == [tile + 1, tile + 2]


def test_exemplars_outside_the_root_are_shown_where_the_run_allowed_it(
    run: RunDirectory, record: RunRecord, texture: MakeRow, open_report: OpenReport, commit: Commit
) -> None:
    root = Path(record.root)
    row = texture("a", 0, 10.0)
    (root / "inner").mkdir()
    (root / "inner/link.png").symlink_to(root / row["path"])
    paths = {"a": f"../{row['path']}", "b": "link.png", "c": str(root / row["path"])}
    for name, path in paths.items():
        other = texture("a", 0, 10.0, path=path)
        commit(run, other | {"exemplar_id": name, "task_id": f"{name}-c0-v0"})
    record = dataclasses.replace(record, root=str(root / "inner"))
    for allowed, shown in ((None, 0), (False, 0), (True, 3)):
        config = {} if allowed is None else {"allow_outside_root": allowed}
        write_run_record(run, dataclasses.replace(record, config=config))
        exemplars = open_report(write_report(run)).exemplars
        assert sum(tile >= 0 for tile in exemplars["tile"]) == shown
        said = ["expected --allow-outside-root" in text for text in exemplars["problem"]]
        assert said.count(True) == 3 - shown


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"exemplar_sha256": "0" * 64}, "the source file has changed since the run"),
        ({"path": "gone.png"}, "gone.png' cannot be read"),
        ({"crop_side": None}, "do not say what was cut"),
    ],
)
def test_an_exemplar_that_cannot_be_cut_again_is_blank(
    run: RunDirectory,
    texture: MakeRow,
    change: Row,
    reason: str,
    open_report: OpenReport,
    commit: Commit,
) -> None:
    commit(run, texture("a", 0, 10.0, **change))
    report = open_report(write_report(run))
    exemplar, row = report.exemplar("a"), report.row("a-c0-v0")
    assert (exemplar["tile"], exemplar["full"], row["spectrum"]) == (-1, "", "")
    assert reason in exemplar["problem"]
    assert row["tile"] >= 0
    assert row["full"]


def test_an_exemplar_is_cut_by_the_row_that_knows_how(
    run: RunDirectory, texture: MakeRow, open_report: OpenReport, commit: Commit
) -> None:
    failed = {"status": "failed", "crop_side": None, "width": None, "image": None}
    commit(run, texture("a", 0, None, **failed), texture("a", 1, 10.0))
    assert open_report(write_report(run)).exemplar("a")["tile"] >= 0


def test_crops_of_one_exemplar_are_told_apart(
    run: RunDirectory, texture: MakeRow, open_report: OpenReport, commit: Commit
) -> None:
    commit(run, texture("a", 0, 10.0), texture("a", 1, 20.0, crop=1))
    exemplars = open_report(write_report(run)).exemplars
    assert (exemplars["exemplar_id"], exemplars["crop"]) == (["a", "a"], [0, 1])
