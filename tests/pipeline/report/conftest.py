"""Reports to test with: a run whose exemplars lie on the disk, and pages read back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.crops import prepare_crop
from pipeline.report.pictures import TILE_SIDE, TILES_PER_SIDE
from pipeline.resume import RunRecord, write_run_record
from pipeline.rundir import RunDirectory
from pipeline.schema import row_schema, rows_to_table
from pipeline.shards import commit_rows

Row = dict[str, Any]
MakeRow = Callable[..., Row]
SIDE = 16
LINKS = {"href", "src", "srcset", "data", "action", "formaction", "poster", "background"}
VOID = {"meta", "img", "br", "link", "input"}


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


@pytest.fixture
def open_page() -> Callable[[Path], Page]:
    return Page


@pytest.fixture
def open_report() -> Callable[[Path], Report]:
    return Report


@pytest.fixture
def commit() -> Callable[..., None]:
    def commit(run: RunDirectory, *rows: Row) -> None:
        commit_rows(run, rows_to_table(rows, row_schema()))

    return commit
