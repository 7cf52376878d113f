"""Any table, CSV text or damaged Parquet file gives a checked manifest or a ManifestError."""

from __future__ import annotations

import csv
import io
import posixpath
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.manifest import Manifest, ManifestError, load_manifest, write_manifest
from pipeline.manifest.checks import MANIFEST_COLUMNS, MAX_ID_BYTES

stable = settings(derandomize=True, deadline=None, max_examples=150)

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
STRANGE = st.sampled_from(
    [
        *("", " ", "a", "a/b", "a\\b", "\x00", "\x85", "\u00a0a", "a\u2003", "\u200b", ".", ".."),
        *('"', '""', "a,b", "two\nlines", "two\r\nlines", "\r", "NA", "null", "001", "\ufeff", "é"),
        *("../up.png", "a/../../up.png", "/etc/passwd", "file:///etc/passwd", "s3://b/a.png"),
        *("C:\\a.png", "\\\\host\\a.png", "..\\a.png", "%2e%2e/a.png", "~/a.png", "x" * 300),
        *("0" * 64, "12", "-3", "1e3", "9999999999", "\ud7ff", "\U0010ffff", "\u202e", "e\u0301"),
    ]
)
PLAIN = st.from_regex(r"[a-z0-9]{2,9}(/[a-z]|\.png)?", fullmatch=True)
CELL = PLAIN | PLAIN | PLAIN | TEXT | STRANGE
NAME = st.sampled_from([*MANIFEST_COLUMNS[:4], "sha256", "width", "note", " ", ""]) | TEXT
URI_ROOT = "file:///data/set"


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def load(path: Path, **options: Any) -> Manifest | None:
    """The manifest, held against what every manifest promises; None if it is refused."""
    try:
        manifest = load_manifest(path, **options)
    except ManifestError:
        return None
    ids = manifest.table["exemplar_id"].to_pylist()
    assert ids
    assert len(set(ids)) == len(ids)
    for exemplar_id in ids:
        assert exemplar_id == exemplar_id.strip() != ""
        assert len(exemplar_id.encode()) <= MAX_ID_BYTES
        Path(path.parent, f"{exemplar_id}-c0-v0.png").touch(exist_ok=False)
    for image in manifest.table["path"].to_pylist():
        assert stays_below(image, manifest.root)
    return manifest


def stays_below(path: str, root: str) -> bool:
    """Written without a look at `find_escape`: by where the joined path ends up."""
    if "://" in root:
        path = path.removeprefix(f"{root}/")
        path = re.sub("%2e", ".", re.sub("%25", "%", path, flags=re.I), flags=re.I)
    if "://" in path or not path.strip():
        return False
    for separated in (path, path.replace("\\", "/")):
        joined = posixpath.normpath(posixpath.join("/a/b", separated))
        if joined != "/a/b" and not joined.startswith("/a/b/"):
            return False
    return True


@stable
@given(data=st.data(), root=st.sampled_from([None, URI_ROOT]))
def test_any_csv_table(data: st.DataObject, root: str | None) -> None:
    others = data.draw(st.lists(NAME, max_size=3))
    names = data.draw(st.permutations(["exemplar_id", "path", *others]))
    width = data.draw(st.sampled_from([None, *[len(names)] * 4]))
    row = st.lists(CELL, min_size=width or 1, max_size=width)
    rows = data.draw(st.lists(row, max_size=3))
    text = io.StringIO()
    csv.writer(text).writerows([names, *rows])
    with folder() as place:
        (place / "m.csv").write_bytes(text.getvalue().encode())
        load(place / "m.csv", root=root)


@stable
@given(
    head=st.sampled_from([b"exemplar_id,path\n", b"exemplar_id,path,width\r\n", b""]),
    rest=st.binary(max_size=80) | st.lists(CELL).map(lambda cells: ",".join(cells).encode()),
)
def test_any_bytes_as_csv(head: bytes, rest: bytes) -> None:
    with folder() as place:
        (place / "m.csv").write_bytes(head + rest)
        load(place / "m.csv")


@stable
@given(
    ids=st.lists(CELL | st.none(), min_size=1, max_size=3),
    data=st.data(),
    root=st.sampled_from([None, URI_ROOT]),
)
def test_any_text_in_parquet(ids: list[str | None], data: st.DataObject, root: str | None) -> None:
    kinds = st.sampled_from(
        [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
    )
    columns = {}
    for name in ["path", *data.draw(st.lists(NAME.filter(lambda n: n != "path"), unique=True))]:
        cells = st.lists(CELL | st.none(), min_size=len(ids), max_size=len(ids))
        columns[name] = pa.array(data.draw(cells), data.draw(kinds))
    columns["exemplar_id"] = pa.array(ids, data.draw(kinds))
    with folder() as place:
        pq.write_table(pa.table(columns), place / "m.parquet")
        load(place / "m.parquet", root=root)


@stable
@given(column=st.sampled_from(["exemplar_id", "path", "width", "sha256", "note"]), data=st.data())
def test_columns_of_any_type_in_parquet(column: str, data: st.DataObject) -> None:
    values = [
        *([1, 2], [1.5, float("nan")], [True, None], [b"\xff", b""], [[1], []], [{"a": 1}, None]),
        *(pa.array([0, 1], pa.timestamp("us")), pa.nulls(2), pa.array([2**63, 1], pa.uint64())),
        *(pa.array(["1", "x"], pa.large_string()), pa.array([1, 2], pa.decimal128(5, 1))),
        pa.DictionaryArray.from_arrays([0, None], ["a"]),
        pa.StringArray.from_buffers(
            2, pa.py_buffer(bytes([0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0])), BAD
        ),
    ]
    columns: dict[str, Any] = {"exemplar_id": ["a", "b"], "path": ["a.png", "b.png"]}
    columns[column] = data.draw(st.sampled_from(values))
    with folder() as place:
        pq.write_table(pa.table(columns), place / "m.parquet")
        load(place / "m.parquet")


BAD = pa.py_buffer(b"\xff\xfe")


@stable
@given(place_of_damage=st.floats(0, 1, exclude_max=True), noise=st.binary(min_size=1, max_size=8))
def test_a_damaged_parquet_file(place_of_damage: float, noise: bytes) -> None:
    file = io.BytesIO()
    pq.write_table(pa.table({"exemplar_id": ["a", "b"], "path": ["a.png", "é.png"]}), file)
    data = bytearray(file.getvalue())
    start = int(place_of_damage * len(data))
    data[start : start + len(noise)] = noise
    with folder() as place:
        (place / "m.parquet").write_bytes(data)
        load(place / "m.parquet")


@stable
@given(cells=st.lists(st.tuples(CELL, CELL, CELL), min_size=1, max_size=5))
def test_strange_text_survives_a_csv(cells: list[tuple[str, str, str]]) -> None:
    table = pa.table(
        {
            "exemplar_id": [f"id{number}" for number in range(len(cells))],
            "path": [f"{number}.png" for number in range(len(cells))],
            **{
                name: [row[k] or None for row in cells]
                for k, name in enumerate(("category", "split", "note"))
            },
        },
        schema=pa.schema(
            [(n, pa.string()) for n in ("exemplar_id", "path", "category", "split", "note")]
        ),
    )
    with folder() as place:
        write_manifest(table, place / "m.csv")
        manifest = load(place / "m.csv")
    assert manifest is not None
    assert manifest.table.equals(table)


@pytest.mark.parametrize("space", ["\u00a0", "\u2003", "\u3000"])
def test_white_space_of_any_script_is_refused_at_the_ends_of_an_id(space: str) -> None:
    for exemplar_id in (f"{space}a", f"a{space}", space):
        with folder() as place:
            table = pa.table({"exemplar_id": [exemplar_id], "path": ["a.png"]})
            write_manifest(table, place / "m.csv")
            assert load(place / "m.csv") is None
