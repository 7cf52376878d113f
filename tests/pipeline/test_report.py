from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from filelock import FileLock
from PIL import Image

from pipeline.cli.report import report
from pipeline.columns import BOOL, FLOAT, INT64, Column
from pipeline.crops import prepare_crop
from pipeline.flags import FAULTS, RULES
from pipeline.report import ReportError, order_worst_first, write_report
from pipeline.report.categories import tabulate_categories
from pipeline.report.measures import Flag, Measure, find_flags, find_measures
from pipeline.report.pictures import TILE_SIDE, TILES_PER_SIDE, PictureWriter
from pipeline.report.plots import _levels, curves_svg, measure_svg
from pipeline.report.reasons import describe_faults
from pipeline.report.spectra import compute_spectrum_difference, draw_spectrum_difference
from pipeline.report.text import format_number
from pipeline.resume import RunRecord, write_run_record
from pipeline.rundir import RunDirectory
from pipeline.schema import row_schema, rows_to_table
from pipeline.shards import commit_rows

Row = dict[str, Any]
MakeRow = Callable[..., Row]
SIDE = 16
LINKS = {"href", "src", "srcset", "data", "action", "formaction", "poster", "background"}
VOID = {"meta", "img", "br", "link", "input"}
LANCZOS = Image.Resampling.LANCZOS


class Page(HTMLParser):
    """The parts of a page that tests ask for; refuses a page whose tags do not nest."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.links: list[str] = []
        self.cells: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(self.source)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [v or "" for k, v in attrs if k.split(":")[-1] in LINKS]
        if tag not in VOID:
            self._open.append(tag)
        if tag == "td":
            self.cells.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("script", "style"):
            return
        self.text += data
        if self._open and self._open[-1] == "td":
            self.cells[-1] += data


class Report:
    """A report as the browser gets it: the page, and the object that `data.js` assigns."""

    def __init__(self, path: Path) -> None:
        self.page = Page(path)
        (self.assets,) = path.parent.glob("assets-*")
        head, literal = (self.assets / "data.js").read_text(encoding="utf-8").split("(", 1)
        assert head == "const texsynthReport = JSON.parse"
        assert literal.endswith(");\n")
        self.data = json.loads(json.loads(literal[:-3]))
        self.rows, self.exemplars = self.data["rows"], self.data["exemplars"]

    def row(self, task_id: str) -> dict[str, Any]:
        number = self.rows["task"].index(task_id)
        return {name: column[number] for name, column in self.rows.items() if is_list(column)}

    def exemplar(self, exemplar_id: str) -> dict[str, Any]:
        number = self.exemplars["exemplar_id"].index(exemplar_id)
        return {name: column[number] for name, column in self.exemplars.items()}

    def pixels(self, name: str) -> np.ndarray[Any, Any]:
        return np.asarray(Image.open(self.assets / name).convert("RGB"))

    def tile(self, tile: int) -> np.ndarray[Any, Any]:
        sheet, place = divmod(tile, TILES_PER_SIDE**2)
        row, column = (TILE_SIDE * k for k in divmod(place, TILES_PER_SIDE))
        sheet_pixels = self.pixels(f"sheet-{sheet}.jpg")
        return sheet_pixels[row : row + TILE_SIDE, column : column + TILE_SIDE]


def is_list(value: Any) -> bool:
    return isinstance(value, list)


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    return RunRecord(
        config={},
        identity={"seed": 0},
        versions={"ray": "2.60.0"},
        weights="hed",
        weights_sha256="ab" * 32,
        manifest="textures.csv",
        manifest_sha256="cd" * 32,
        root=str(tmp_path / "images"),
        carried=pa.schema([]),
        created_at="2026-01-02T03:04:05+00:00",
    )


@pytest.fixture
def run(run: RunDirectory, record: RunRecord) -> RunDirectory:
    write_run_record(run, record)
    return run


@pytest.fixture
def texture(record: RunRecord, make_row: MakeRow) -> MakeRow:
    """Makes an ok row whose source file lies in the root."""
    root = Path(record.root)
    root.mkdir()

    def make(exemplar_id: str, variation: int, loss: float | None, **values: Any) -> Row:
        name = f"{hashlib.sha256(exemplar_id.encode()).hexdigest()}.png"
        generator = np.random.default_rng(list(exemplar_id.encode()))
        pixels = generator.integers(0, 256, (40, 60, 3), np.uint8)
        Image.fromarray(pixels).save(root / name)
        crop = prepare_crop((root / name).read_bytes(), size=SIDE)
        made = {
            **{"exemplar_id": exemplar_id, "variation": variation, "path": name},
            **{"delivered_loss": loss, "float_loss": loss, "height": SIDE, "width": SIDE},
            **{"crop_left": crop.left, "crop_top": crop.top, "crop_side": crop.side},
            **{"exemplar_sha256": crop.sha256, "evaluations": 10.0, "stop_reason": "plateau"},
        }
        return make_row(f"{exemplar_id}-c0-v{variation}", **(made | values))

    return make


def commit(run: RunDirectory, *rows: Row) -> None:
    commit_rows(run, rows_to_table(rows, row_schema()))


def test_every_picture_is_there(
    run: RunDirectory, record: RunRecord, texture: MakeRow, make_png: Callable[[str], bytes]
) -> None:
    commit(run, texture("good", 0, 10.0), texture("bad", 0, 5.0), texture("bad", 1, 900.0))
    report = Report(write_report(run))
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


def test_spectra_are_compared_where_sizes_agree(run: RunDirectory, texture: MakeRow) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    image = {"bytes": file.getvalue(), "path": "a.png"}
    commit(run, texture("a", 0, 10.0, image=image), texture("a", 1, 10.0))
    report = Report(write_report(run))
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


def test_equal_pictures_are_one_file(run: RunDirectory, texture: MakeRow) -> None:
    image = texture("a", 0, 1.0)["image"]
    commit(run, *(texture("a", k, 10.0, image=image) for k in range(3)))
    report = Report(write_report(run))
    assert len(set(report.rows["full"])) == 1
    assert len(list(report.assets.glob("*.png"))) == 2


def test_exemplars_and_siblings_lie_together_whatever_the_batch(
    run: RunDirectory, texture: MakeRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(run, *(texture(f"e{k}", v, 10.0 * k) for v in (1, 0) for k in range(5)))
    whole = Report(write_report(run))
    monkeypatch.setattr("pipeline.report.gallery.BATCH_ROWS", 3)
    parts = Report(write_report(run))
    for name in ("tile", "full", "exemplar", "task"):
        assert parts.rows[name] == whole.rows[name]
    for number, tile in enumerate(whole.exemplars["tile"]):
        members = [k for k, e in enumerate(whole.rows["exemplar"]) if e == number]
        assert [whole.rows["tile"][k] for k in members] == [tile + 1, tile + 2]


def test_nothing_is_fetched(run: RunDirectory, texture: MakeRow) -> None:
    commit(run, texture("a", 0, 10.0))
    report = Report(write_report(run))
    folder = report.assets.name
    assert f"{folder}/report.js" in report.page.links
    assert all(link.startswith((f"{folder}/", "#")) for link in report.page.links)
    assert all((run.report / link).is_file() for link in report.page.links if "/" in link)
    style = (report.assets / "report.css").read_text()
    assert re.findall(r"url\([^#)]", report.page.source + style) == []
    assert "@import" not in report.page.source + style
    policy = re.findall(r'Content-Security-Policy" content="([^"]*)"', report.page.source)
    assert "default-src 'none'" in policy[0]
    assert not re.search(r"https?:|\*|data:|script-src[^;]*unsafe", policy[0])


def test_texts_of_the_manifest_are_data_in_the_script(run: RunDirectory, texture: MakeRow) -> None:
    evil = '"></script><script>alert(1)</script>\0\u2028`${alert(2)}`'
    commit(
        run,
        texture(evil, 0, 10.0, category=evil, stop_reason=evil),
        texture("f", 0, None, status="failed", error=evil, error_type=evil, path=evil),
    )
    report = Report(write_report(run))
    assert report.exemplar(evil)["category"] == evil
    assert report.row(f"{evil}-c0-v0")["stopReason"] == evil
    assert f"{evil}: {evil}" in report.rows["error"].values()
    assert (report.assets / "data.js").read_bytes().isascii()
    names = {path.name for path in report.assets.iterdir()}
    plain = r"[0-9a-f]{20}\.png|sheet-0\.jpg|data\.js|report\.(js|css)"
    assert all(re.fullmatch(plain, name) for name in names)


QUOTED = """'"></title></dd></div><script>alert(1)</script><img src=x onerror='alert(2)'>\0"""


def test_texts_stay_texts_wherever_they_stand(
    tmp_path: Path, record: RunRecord, texture: MakeRow
) -> None:
    def page_with(text: str) -> Page:
        name = text.replace("/", "")[:60]
        run = RunDirectory(tmp_path / name)
        run.create()
        versions = {text: text}
        write_run_record(
            run, dataclasses.replace(record, weights=text, manifest=text, versions=versions)
        )
        both = dict.fromkeys(("category", "path", "preset", "texsynth_version", "device"), text)
        failed = {"status": "failed", "error": text, "error_type": text}
        commit(run, texture(text, 0, 10.0, stop_reason=text, **both))
        commit(run, texture("f", 0, None, **failed, **both))
        (run.shards / f"{name}.parquet").write_bytes(b"PAR1")
        return Page(write_report(run))

    page, plain = page_with(QUOTED), page_with("plain")
    assert tags_of(page) == tags_of(plain)
    assert "\0" not in page.source
    for pattern in (r"<script.*?</script>", r"<style.*?</style>", r"<meta[^>]*>"):
        found, wanted = (
            re.findall(pattern, re.sub(r"assets-\w+", "", p.source), re.DOTALL)
            for p in (page, plain)
        )
        assert found == wanted != []
    text = page.text
    for form in (
        QUOTED.replace("\0", "\N{SYMBOL FOR NULL}"),
        QUOTED.replace("/", "")[:60],
    ):
        assert form in text
        text = text.replace(form, "plain")
    assert text == plain.text


def tags_of(page: Page) -> list[tuple[str, list[str]]]:
    """Every tag of a page with the names of its attributes, in order."""
    found: list[tuple[str, list[str]]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: found.append((tag, [k for k, _ in attrs]))  # type: ignore[method-assign]
    parser.feed(page.source)
    return found


def test_exemplars_outside_the_root_are_shown_where_the_run_allowed_it(
    run: RunDirectory, record: RunRecord, texture: MakeRow
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
        exemplars = Report(write_report(run)).exemplars
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
    run: RunDirectory, texture: MakeRow, change: Row, reason: str
) -> None:
    commit(run, texture("a", 0, 10.0, **change))
    report = Report(write_report(run))
    exemplar, row = report.exemplar("a"), report.row("a-c0-v0")
    assert (exemplar["tile"], exemplar["full"], row["spectrum"]) == (-1, "", "")
    assert reason in exemplar["problem"]
    assert row["tile"] >= 0
    assert row["full"]


def test_an_exemplar_is_cut_by_the_row_that_knows_how(run: RunDirectory, texture: MakeRow) -> None:
    failed = {"status": "failed", "crop_side": None, "width": None, "image": None}
    commit(run, texture("a", 0, None, **failed), texture("a", 1, 10.0))
    assert Report(write_report(run)).exemplar("a")["tile"] >= 0


def test_failures_are_listed_with_their_errors(
    run: RunDirectory, texture: MakeRow, make_row: MakeRow
) -> None:
    gone = {"error_type": "ImageError", "error": "image 'b.png' is empty\nmore", "path": "b.png"}
    commit(run, texture("a", 0, 10.0), make_row("b-c0-v0", status="failed", **gone))
    commit(run, make_row("c-c0-v0", status="timeout", attempts=3, error="no end after 600 s"))
    report = Report(write_report(run))
    cells = report.page.cells[-8:]
    assert cells[:3] == ["1", "failed", "ImageError: image 'b.png' is empty"]
    assert cells[4:7] == ["1", "timeout", "no end after 600 s"]
    assert "1 failed, 1 timeout" in report.page.text
    assert "ImageError: image 'b.png' is empty\nmore" in report.rows["error"].values()


def test_limit_leaves_the_best_as_thumbnails_and_says_so(
    run: RunDirectory, texture: MakeRow, make_row: MakeRow
) -> None:
    commit(run, *(texture(f"e{k}", v, 10.0 * k + v) for k in range(3) for v in range(2)))
    commit(run, *(make_row(f"f{k}-c0-v0", status="failed") for k in range(4)))
    report = Report(write_report(run, limit=3))
    rows = zip(report.rows["task"], report.rows["full"], strict=True)
    assert [task for task, full in rows if full] == ["e1-c0-v1", "e2-c0-v0", "e2-c0-v1"]
    assert [bool(full) for full in report.exemplars["full"][:3]] == [False, True, True]
    assert sum(tile >= 0 for tile in report.rows["tile"]) == 6
    assert len(list(report.assets.glob("*.png"))) == 3 + 2
    assert "3 of 6 textures, the worst by delivered loss, are here at full size" in report.page.text
    assert "are here at full size" not in Report(write_report(run, limit=6)).page.text
    with pytest.raises(ReportError, match="limit 0"):
        write_report(run, limit=0)


def test_a_threshold_is_used_where_there_is_one(
    run: RunDirectory, record: RunRecord, texture: MakeRow
) -> None:
    commit(run, texture("a", 0, 1400.0), texture("b", 0, 5000.0))
    report = Report(write_report(run))
    assert "No loss threshold applies." in report.page.text
    assert "weights hed at 16 x 16 px" in report.page.text
    assert "threshold 1500" not in report.page.text
    assert "below_threshold" not in {flag["name"] for flag in report.data["flags"]}
    commit(
        run,
        *(
            texture(e, 0, x, loss_threshold=1500.0, attempts=2)
            for e, x in (("a", 1400.0), ("b", 5000.0))
        ),
    )
    report = Report(write_report(run))
    text = report.page.text
    assert "Losses below 1500 count as good: 1 of 2 textures by the float image, 1" in text
    assert "threshold 1500" in text  # in the histogram's legend
    assert report.rows["flags"]["below_threshold"] == [1, 0]
    assert report.rows["flagged"] == [0, 1]
    assert report.rows["reasons"] == [
        [],
        [
            "float loss above the threshold: float loss 5,000 is not below 1,500",
            "delivered loss above the threshold: delivered loss 5,000 is not below 1,500",
        ],
    ]


def test_a_report_during_the_run_and_after_it(run: RunDirectory, texture: MakeRow) -> None:
    empty = Page(write_report(run))
    assert "This run is not finished." in empty.text
    assert "There are no textures yet." in empty.text
    commit(run, texture("a", 0, 10.0))
    assert "This run is not finished." in Page(write_report(run)).text
    run.success.touch()
    (run.report / "sheet.jpg").touch()
    path = write_report(run)
    assert path == run.path / "report" / "index.html"
    report = Report(path)
    assert "not finished" not in report.page.text
    names = {file.name for file in path.parent.iterdir() if not file.name.startswith(".")}
    assert names == {"index.html", "sheet.jpg", report.assets.name}


@pytest.mark.parametrize("where", ["add_full", "flush"])
def test_a_report_that_is_broken_off_leaves_the_last_one_whole(
    run: RunDirectory, texture: MakeRow, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    commit(run, texture("a", 0, 10.0))
    before = Report(write_report(run))
    commit(run, texture("b", 0, 20.0))

    def fill_disk(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(PictureWriter, where, fill_disk)
        with pytest.raises(OSError, match="No space left"):
            write_report(run)
    after = Report(run.report / "index.html")
    assert (after.page.source, after.data) == (before.page.source, before.data)
    assert Report(write_report(run)).exemplars["exemplar_id"] == ["a", "b"]


def test_a_killed_report_is_cleared_away_by_the_next(run: RunDirectory, texture: MakeRow) -> None:
    commit(run, texture("a", 0, 10.0))
    (run.report / "assets-0badf00d").mkdir(parents=True)
    (run.report / "assets-0badf00d/data.js").write_text("const half")
    (run.report / "_tmp-index.html.1.tmp").write_text("<!doctype")
    report = Report(write_report(run))
    assert report.assets.name in report.page.source
    assert not list(run.report.glob("_tmp-*"))


def test_one_report_at_a_time(run: RunDirectory, texture: MakeRow) -> None:
    commit(run, texture("a", 0, 10.0))
    run.report.mkdir()
    with FileLock(run.report / ".lock"), pytest.raises(ReportError, match="another process"):
        write_report(run)
    assert [path.name for path in run.report.iterdir()] == [".lock"]


def test_a_damaged_shard_is_named_and_the_rest_shown(run: RunDirectory, texture: MakeRow) -> None:
    commit(run, texture("a", 0, 10.0))
    (run.shards / "part-0.parquet").write_bytes(b"PAR1")
    report = Report(write_report(run))
    assert "part-0.parquet" in report.page.text
    assert report.exemplars["exemplar_id"] == ["a"]


def test_a_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"no run directory: it has no run\.json"):
        write_report(RunDirectory(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_crops_of_one_exemplar_are_told_apart(run: RunDirectory, texture: MakeRow) -> None:
    commit(run, texture("a", 0, 10.0), texture("a", 1, 20.0, crop=1))
    exemplars = Report(write_report(run)).exemplars
    assert (exemplars["exemplar_id"], exemplars["crop"]) == (["a", "a"], [0, 1])


def test_order_is_total() -> None:
    losses = [1.0, float("nan"), 3.0, float("inf"), 3.0]
    rows = pd.DataFrame({"exemplar_id": list("abcdc"), "crop": 0, "variation": [0, 0, 1, 0, 0]})
    ordered = order_worst_first(rows.assign(delivered_loss=losses))
    assert "".join(ordered["exemplar_id"]) == "bdcca"
    assert list(ordered["variation"])[2:4] == [0, 1]


def test_faults_in_words(make_row: MakeRow) -> None:
    numbers = {
        "good": {"float_loss": 12.0, "delivered_loss": 13.0, "loss_threshold": 1500.0},
        "high": {"float_loss": 12.0, "delivered_loss": 1500.0, "loss_threshold": 1500.0},
        "unrated": {"float_loss": 12.0, "delivered_loss": 9e9},
        "copy": {
            **{"displacement_score": 0.41, "copy_displacement_threshold": 0.5},
            **{"layout_correlation": 0.9, "copy_layout_threshold": 0.8},
        },
        "noisy": {"chroma_noise": 0.05, "exemplar_chroma_noise": 0.001},
    }
    rows = [make_row(f"{name}-c0-v0", **values) for name, values in numbers.items()]
    failed = make_row("f-c0-v0", status="failed", **numbers["copy"])
    table = rows_to_table([*rows, failed], row_schema())
    assert describe_faults(table, find_flags())[:-1] == [
        [],
        ["delivered loss above the threshold: delivered loss 1,500 is not below 1,500"],
        [],
        ["copy of its exemplar: displacement score 0.41 < 0.5; layout correlation 0.9 > 0.8"],
        ["noisy: chroma noise 0.05 > 3 * exemplar chroma noise 0.001 + 0.01"],
    ]


def test_faults_go_by_the_rules_of_the_row(make_row: MakeRow) -> None:
    changed = RULES | {"copy": "(seconds > 1 OR seconds < -1) AND seconds > 2 OR status = 'ok'"}
    rules = [{"flag": name, "rule": rule} for name, rule in changed.items()]
    rows = [
        make_row("a-c0-v0", seconds=3.0, flag_rules=rules),
        make_row("b-c0-v0", seconds=1.5, flag_rules=rules),
        make_row("c-c0-v0", seconds=3.0),
    ]
    table = rows_to_table(rows, row_schema())
    assert describe_faults(table, find_flags()) == [
        [
            "copy of its exemplar: (seconds 3 > 1 OR seconds 3 < -1) AND seconds 3 > 2;"
            " status = 'ok'"
        ],
        ["copy of its exemplar: status = 'ok'"],
        [],
    ]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("status = 'a OR b' OR status = 'ok'", "status = 'a OR b' OR status = 'ok'"),
        ("CASE WHEN seconds > 1 OR seconds < 0 THEN true END", "CASE WHEN seconds 3 > 1 OR"),
        ("seconds > 1 -- OR so", "seconds 3 > 1 -- OR so"),
        ("evaluations > 1 OR seconds > 1", "seconds 3 > 1"),
    ],
)
def test_a_rule_that_cannot_be_taken_apart_stands_whole(
    make_row: MakeRow, rule: str, said: str
) -> None:
    rules = [{"flag": name, "rule": r} for name, r in (RULES | {"noisy": rule}).items()]
    table = rows_to_table([make_row("a-c0-v0", seconds=3.0, flag_rules=rules)], row_schema())
    ((text,),) = describe_faults(table, find_flags())
    assert text.startswith(f"noisy: {said}")


def test_measures_and_flags_come_from_the_schema() -> None:
    groups = {
        "Task": (Column("seed", INT64, ""),),
        "Anything": (
            Column("blur", FLOAT, "Blur of `image`."),
            Column("grain", FLOAT, "Grain."),
            Column("loss", FLOAT, "Loss."),
            Column("blur_threshold", FLOAT, "A limit."),
            Column("per_tap", pa.list_(FLOAT), ""),
            Column("noisy", BOOL, ""),
            Column("below_threshold", BOOL, ""),
            Column("of_late", BOOL, ""),
        ),
    }
    rules = {
        "noisy": "blur < blur_threshold OR grain > 2.5",
        "below_threshold": "loss < limit + 1",
        "of_late": "loss > 3",
    }
    measures, flags = find_measures(groups, rules), find_flags(groups)
    found = [(m.name, m.description, m.low_is_worst, m.threshold) for m in measures]
    assert found == [
        ("blur", "Blur of image.", True, "blur_threshold"),
        ("grain", "Grain.", False, 2.5),
        ("loss", "Loss.", False, None),
    ]
    assert [(f.name, f.good_news, f.words[0]) for f in flags] == [
        ("noisy", False, "noisy"),
        ("below_threshold", True, "float loss below the threshold"),
        ("of_late", None, "of late"),
    ]


def test_rules_of_the_real_schema_are_read() -> None:
    worst_low = {m.name for m in find_measures() if m.low_is_worst}
    assert worst_low == {"displacement_score"}
    thresholds = {m.name: m.threshold for m in find_measures()}
    assert thresholds["delivered_loss"] == "loss_threshold"
    assert thresholds["layout_correlation"] == "copy_layout_threshold"
    assert {flag.name for flag in find_flags() if flag.good_news is False} == {*FAULTS}


def test_categories_are_counted() -> None:
    rows = pd.DataFrame(
        {
            "category": ["a", "a", "a", "b", None, "b"],
            "status": ["ok", "ok", "failed", "ok", "ok", "ok"],
            "copy": [True, None, None, False, True, False],
            "flagged": [True, False, False, False, True, False],
            "loss": [1.0, 3.0, None, 5.0, 7.0, 6.0],
        }
    )
    flag = Flag("copy", "", False, ("", "", ""))
    measure = Measure("loss", "loss", "", False, None)
    found = tabulate_categories(rows, (measure,), (flag,))
    assert [(c.name, c.rows, c.good, c.flagged, c.failed) for c in found] == [
        (None, 1, 0, 1, 0),
        ("a", 3, 1, 1, 1),
        ("b", 2, 2, 0, 0),
    ]
    assert [c.medians for c in found] == [(7.0,), (2.0,), (5.5,)]
    assert [c.faults for c in found] == [(1,), (1,), (0,)]


def test_the_difference_of_spectra_by_its_definition() -> None:
    generator = np.random.default_rng(0)
    texture, exemplar = generator.integers(0, 256, (2, 6, 6, 3), np.uint8)
    powers = []
    for image in (texture, exemplar):
        power = np.zeros((6, 6))
        for channel in range(3):
            for v, u in np.ndindex(6, 6):
                y, x = np.indices((6, 6))
                wave = np.exp(-2j * np.pi * (u * x + v * y) / 6)
                power[(v + 3) % 6, (u + 3) % 6] += (
                    abs((image[..., channel] / 255 * wave).sum()) ** 2
                )
        powers.append(power + 3 * 36 / 12 / 255**2)
    expected = 10 * np.log10(powers[0] / powers[1])
    found = compute_spectrum_difference(texture, exemplar)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    shifted = np.roll(texture, (2, 3), (0, 1))
    np.testing.assert_allclose(compute_spectrum_difference(shifted, texture), 0, atol=1e-9)
    with pytest.raises(ValueError, match="expected one shape"):
        compute_spectrum_difference(texture, exemplar[:5])


def test_a_difference_of_spectra_is_red_where_there_is_more() -> None:
    steps = np.array([[-50.0, -20.0, 0.0, 20.0]])
    image = draw_spectrum_difference(steps)
    pixels = np.asarray(image.convert("RGB")).astype(int)[0]
    assert image.mode == "P"
    assert (pixels[0] == pixels[1]).all()
    assert pixels[1, 2] > pixels[1, 0]
    assert pixels[3, 0] > pixels[3, 2]
    assert np.ptp(pixels[2]) < 8


def test_large_spectra_are_averaged_over_blocks() -> None:
    image = np.random.default_rng(0).integers(0, 256, (300, 260, 3), np.uint8)
    assert compute_spectrum_difference(image, image[::-1]).shape == (100, 86)


@pytest.mark.parametrize("values", [[0.0], [3.0, 3.0], [-1.0, 1e9], [1e-9, 1e9], [np.nan, np.inf]])
def test_any_values_have_a_histogram(values: list[float]) -> None:
    svg = measure_svg(np.array(values), 2.0)
    assert svg.startswith("<svg") == bool(np.isfinite(values).any())


def test_curves_break_between_levels() -> None:
    curve = [{"evaluations": float(k), "loss": 10.0 - k, "side": 64 << (k > 2)} for k in range(6)]
    assert list(_levels(curve)) == [
        ([0.0, 1.0, 2.0], [10.0, 9.0, 8.0]),
        ([3.0, 4.0, 5.0], [7.0, 6.0, 5.0]),
    ]
    assert curves_svg([[{"evaluations": 1.0, "loss": 0.0, "side": 8}]]) == ""
    assert curves_svg([curve] * 9).startswith("<svg")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (float("nan"), "-"),
        (1234567.8, "1,234,568"),
        (0.83119, "0.8312"),
        (97.055, "97.06"),
    ],
)
def test_numbers_read_well(value: float | None, text: str) -> None:
    assert format_number(value) == text


def test_the_command_prints_where_the_page_is(
    run: RunDirectory, texture: MakeRow, capsys: pytest.CaptureFixture[str]
) -> None:
    commit(run, texture("a", 0, 10.0))
    report(run.path)
    assert Path(capsys.readouterr().out.strip()) == run.report / "index.html"
