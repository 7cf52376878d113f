from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.cli.report import report
from pipeline.crops import prepare_crop
from pipeline.report import ReportError, order_worst_first, write_report
from pipeline.report_text import describe_flags, format_number
from pipeline.resume import RunRecord, write_run_record
from pipeline.rundir import RunDirectory
from pipeline.schema import row_schema, rows_to_table
from pipeline.shards import commit_rows

Row = dict[str, Any]
MakeRow = Callable[..., Row]
SIDE = 16
LINKS = {"href", "src", "srcset", "data", "action", "formaction", "poster", "background"}
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """The parts of a page that tests ask for; refuses a page whose tags do not nest."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.images: list[dict[str, str]] = []
        self.links: list[str] = []
        self.headings: list[str] = []
        self.cells: list[str] = []
        self.scripts = 0
        self.text = ""
        self._open: list[str] = []
        self.feed(self.source)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.links += [v for k, v in values.items() if k.split(":")[-1] in LINKS]
        self.scripts += tag == "script"
        if tag == "img":
            self.images.append(values)
        if tag not in VOID:
            self._open.append(tag)
        for name, found in (("h3", self.headings), ("td", self.cells)):
            if tag == name:
                found.append("")

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
        if self._open and self._open[-1] == "h3":
            self.headings[-1] += data.strip()
        if self._open and self._open[-1] == "td":
            self.cells[-1] += data

    def pixels(self, alt: str) -> np.ndarray[Any, Any]:
        (image,) = [image for image in self.images if image["alt"].startswith(alt)]
        return decode(image["src"])


def decode(uri: str) -> np.ndarray[Any, Any]:
    head, data = uri.split(",", 1)
    assert head == "data:image/png;base64"
    image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
    return np.asarray(image.convert("RGB"))


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


def test_worst_first_with_every_picture_in_the_page(
    run: RunDirectory, record: RunRecord, texture: MakeRow, make_png: Callable[[str], bytes]
) -> None:
    commit(run, texture("good", 0, 10.0), texture("bad", 0, 5.0), texture("bad", 1, 900.0))
    commit(run, texture("diverged", 0, None), texture("middling", 0, 70.0))
    page = Page(write_report(run))
    assert page.headings == ["diverged", "bad", "middling", "good"]
    alts = [image["alt"] for image in page.images]
    assert alts[2:5] == [
        "Exemplar bad",
        "Variation 1 of bad, delivered loss 900",
        "Variation 0 of bad, delivered loss 5",
    ]
    assert len(alts) == 9
    assert all(alts)
    for image in page.images:
        assert decode(image["src"]).size
    stored = np.asarray(Image.open(io.BytesIO(make_png("bad-c0-v1"))))
    np.testing.assert_array_equal(page.pixels("Variation 1 of bad"), stored)
    source = Path(record.root) / texture("bad", 1, 900.0)["path"]
    crop = prepare_crop(source.read_bytes(), size=SIDE)
    np.testing.assert_array_equal(page.pixels("Exemplar bad"), crop.pixels)


def test_nothing_is_fetched(run: RunDirectory, texture: MakeRow) -> None:
    commit(run, texture("a", 0, 10.0))
    page = Page(write_report(run))
    assert page.links
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in page.links)
    assert re.findall(r"url\([^#)]", page.source) == []
    assert "@import" not in page.source
    assert "default-src 'none'" in page.source


def test_texts_of_the_manifest_stay_texts(run: RunDirectory, texture: MakeRow) -> None:
    evil = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
    commit(
        run,
        texture(evil, 0, 10.0, category=evil, stop_reason=evil),
        texture("f", 0, None, status="failed", error=evil, error_type=evil, path=evil),
    )
    page = Page(write_report(run))
    assert page.scripts == 1
    assert "alert(1)" in page.headings[0]
    assert page.images[0]["alt"] == f"Exemplar {evil}"
    assert all(image["src"].startswith("data:image/png") for image in page.images)
    assert page.cells[-1] == f"{evil}: {evil}"


QUOTED = """'"></title></dd></div><script>alert(1)</script><img src=x onerror='alert(2)'>"""


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
    for pattern in (r"<script.*?</script>", r"<style.*?</style>", r"<meta[^>]*>"):
        found, wanted = (re.findall(pattern, p.source, re.DOTALL) for p in (page, plain))
        assert found == wanted != []
    text = page.text
    for form in (QUOTED, QUOTED.replace("/", "")[:60], QUOTED.replace("'", r"\'")):
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
        page = Page(write_report(run))
        assert sum(image["alt"].startswith("Exemplar") for image in page.images) == shown
        assert page.text.count("expected --allow-outside-root") == 3 - shown


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"exemplar_sha256": "0" * 64}, "the source file has changed since the run"),
        ({"path": "gone.png"}, "gone.png' cannot be read"),
        ({"crop_side": None}, "the row does not say what was cut"),
    ],
)
def test_an_exemplar_that_cannot_be_cut_again_is_blank(
    run: RunDirectory, texture: MakeRow, change: Row, reason: str
) -> None:
    commit(run, texture("a", 0, 10.0, **change))
    page = Page(write_report(run))
    assert [image["alt"] for image in page.images] == ["Variation 0 of a, delivered loss 10"]
    assert "Exemplar not shown: " in page.text
    assert reason in page.text


def test_failures_are_listed_with_their_errors(
    run: RunDirectory, texture: MakeRow, make_row: MakeRow
) -> None:
    gone = {"error_type": "ImageError", "error": "image 'b.png' is empty", "path": "b.png"}
    commit(run, texture("a", 0, 10.0), make_row("b-c0-v0", status="failed", **gone))
    commit(run, make_row("c-c0-v0", status="timeout", attempts=3, error="no end after 600 s"))
    page = Page(write_report(run))
    assert page.cells[:5] == [
        "b-c0-v0",
        "b.png",
        "failed",
        "1",
        "ImageError: image 'b.png' is empty",
    ]
    assert page.cells[7:] == ["timeout", "3", "no end after 600 s"]
    assert "1 failed, 1 timeout" in page.text


def test_limit_leaves_out_the_best_and_says_so(
    run: RunDirectory, texture: MakeRow, make_row: MakeRow
) -> None:
    commit(run, *(texture(f"e{k}", v, 10.0 * k + v) for k in range(3) for v in range(2)))
    commit(run, *(make_row(f"f{k}-c0-v0", status="failed") for k in range(4)))
    page = Page(write_report(run, limit=3))
    assert page.headings == ["e2", "e1"]
    assert len(page.images) == 2 + 3
    assert "3 of 6 textures" in page.text
    assert "The first 3 of 4." in page.text
    assert "left out" not in Page(write_report(run, limit=6)).text
    with pytest.raises(ReportError, match="limit 0"):
        write_report(run, limit=0)


def test_a_threshold_is_used_where_there_is_one(
    run: RunDirectory, record: RunRecord, texture: MakeRow
) -> None:
    commit(run, texture("a", 0, 1400.0), texture("b", 0, 5000.0))
    page = Page(write_report(run))
    assert "No loss threshold applies." in page.text
    assert "weights hed at 16 x 16 px" in page.text
    assert "float loss: not applicable" in page.text
    assert "threshold 1500" not in page.text
    commit(
        run,
        *(
            texture(e, 0, x, loss_threshold=1500.0, attempts=2)
            for e, x in (("a", 1400.0), ("b", 5000.0))
        ),
    )
    page = Page(write_report(run))
    assert "Losses below 1500 count as good: 1 of 2 textures by the float image, 1" in page.text
    assert "delivered loss above the threshold" in page.text
    assert "threshold 1500" in page.text  # in the histogram's legend
    assert "not applicable" in page.text  # the copy measures


def test_a_report_during_the_run_and_after_it(run: RunDirectory, texture: MakeRow) -> None:
    empty = Page(write_report(run))
    assert "This run is not finished." in empty.text
    assert "There are no textures yet." in empty.text
    commit(run, texture("a", 0, 10.0))
    assert "This run is not finished." in Page(write_report(run)).text
    run.success.touch()
    path = write_report(run)
    assert path == run.path / "report" / "index.html"
    assert "not finished" not in Page(path).text
    assert [file.name for file in path.parent.iterdir()] == ["index.html"]


def test_a_damaged_shard_is_named_and_the_rest_shown(run: RunDirectory, texture: MakeRow) -> None:
    commit(run, texture("a", 0, 10.0))
    (run.shards / "part-0.parquet").write_bytes(b"PAR1")
    page = Page(write_report(run))
    assert "part-0.parquet" in page.text
    assert page.headings == ["a"]


def test_a_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"no run directory: it has no run\.json"):
        write_report(RunDirectory(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_crops_of_one_exemplar_are_told_apart(run: RunDirectory, texture: MakeRow) -> None:
    commit(run, texture("a", 0, 10.0), texture("a", 1, 20.0, crop=1))
    assert Page(write_report(run)).headings == ["a, crop 1", "a, crop 0"]


def test_order_is_total() -> None:
    losses = [1.0, float("nan"), 3.0, float("inf"), 3.0]
    rows = pd.DataFrame({"exemplar_id": list("abcdc"), "crop": 0, "variation": [0, 0, 1, 0, 0]})
    ordered = order_worst_first(rows.assign(delivered_loss=losses))
    assert "".join(ordered["exemplar_id"]) == "bdcca"
    assert list(ordered["variation"])[2:4] == [0, 1]


def test_flags_in_words() -> None:
    row = {"below_threshold": True, "delivered_below_threshold": None, "copy": True}
    assert describe_flags(row) == [
        ("good", "float loss below the threshold"),
        ("none", "delivered loss: not applicable"),
        ("bad", "copy of its exemplar"),
    ]
    assert describe_flags(row | {"copy": False})[2] == ("good", "no copy")


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
