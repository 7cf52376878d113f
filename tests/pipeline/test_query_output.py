from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.query_output import TABLE_ROWS, OutputFormat, write_selection
from pipeline.sql import QueryError, Selection

KINDS = """
SELECT 1 AS whole, 0.1::DOUBLE AS real, 'NaN'::DOUBLE AS odd, '-inf'::DOUBLE AS endless,
    NULL::DOUBLE AS absent, TRUE AS flag, 'a,"b"' || chr(10) || 'c' AS words,
    [{'x': 1.5, 'y': NULL}] AS curve, sum(170141183460469231731687303715884105727) AS large,
    1.50::DECIMAL(5, 2) AS fixed, TIMESTAMPTZ '2026-01-02 03:04:05+00' AS moment
"""


def select(sql: str) -> Selection:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    table = connection.sql(sql).to_arrow_table()
    return Selection(table.schema, iter(table.to_batches(max_chunksize=7)))


def written(sql: str, output: OutputFormat, tmp_path: Path) -> str:
    path = tmp_path / "answer"
    write_selection(select(sql), output, path)
    return path.read_text(encoding="utf-8")


def test_csv(tmp_path: Path) -> None:
    names, values = csv.reader(io.StringIO(written(KINDS, "csv", tmp_path)))
    row = dict(zip(names, values, strict=True))
    assert row == {
        "whole": "1",
        "real": "0.1",
        "odd": "nan",
        "endless": "-inf",
        "absent": "",
        "flag": "true",
        "words": 'a,"b"\nc',
        "curve": '[{"x": 1.5, "y": null}]',
        "large": "170141183460469231731687303715884105727",
        "fixed": "1.5",
        "moment": "2026-01-02T03:04:05+00:00",
    }


def test_json_is_an_object_per_line(tmp_path: Path) -> None:
    (line,) = written(KINDS, "json", tmp_path).splitlines()
    assert json.loads(line) == {
        "whole": 1,
        "real": 0.1,
        "odd": None,
        "endless": None,
        "absent": None,
        "flag": True,
        "words": 'a,"b"\nc',
        "curve": [{"x": 1.5, "y": None}],
        "large": 170141183460469231731687303715884105727,
        "fixed": 1.5,
        "moment": "2026-01-02T03:04:05+00:00",
    }


def test_numbers_come_back_bit_by_bit(tmp_path: Path) -> None:
    sql = "SELECT random() * exp(i) AS x FROM range(100) t(i)"
    table = select(sql).table()
    for output in ("csv", "json", "parquet"):
        path = tmp_path / f"x.{output}"
        write_selection(Selection(table.schema, iter(table.to_batches())), output, path)
        if output == "parquet":
            found = pq.read_table(path)["x"].to_pylist()
        elif output == "csv":
            found = [float(line) for line in path.read_text().splitlines()[1:]]
        else:
            found = [json.loads(line)["x"] for line in path.read_text().splitlines()]
        assert found == table["x"].to_pylist()


def test_parquet_keeps_types_and_has_checksums(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    sql = "SELECT 'NaN'::DOUBLE AS x, [1] AS many, NULL::BOOLEAN AS flag"
    write_selection(select(sql), "parquet", path)
    table = pq.read_table(path, page_checksum_verification=True)
    assert table.schema.field("flag").type == pa.bool_()
    assert math.isnan(table["x"][0].as_py())
    assert table["many"].to_pylist() == [[1]]


@pytest.mark.parametrize("output", ["json", "parquet"])
def test_columns_named_twice_are_refused(output: OutputFormat, tmp_path: Path) -> None:
    schema = pa.schema([("a", pa.int64()), ("a", pa.int64())])
    with pytest.raises(QueryError, match=r"\['a'\]: named twice"):
        write_selection(Selection(schema, iter([])), output, tmp_path / "x")


def test_an_answer_without_rows_has_its_columns(tmp_path: Path) -> None:
    sql = "SELECT 1 AS a, 'x' AS b WHERE FALSE"
    assert written(sql, "csv", tmp_path) == "a,b\n"
    assert written(sql, "json", tmp_path) == ""
    assert written(sql, "table", tmp_path).split()[:2] == ["a", "b"]
    write_selection(select(sql), "parquet", tmp_path / "x")
    assert pq.read_schema(tmp_path / "x").names == ["a", "b"]


def test_a_query_that_fails_half_way_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("before")
    batch = pa.record_batch({"a": [1]})

    def broken() -> object:
        yield batch
        raise QueryError("half way")

    for output in ("table", "csv", "json", "parquet"):
        with pytest.raises(QueryError, match="half way"):
            write_selection(Selection(batch.schema, broken()), output, path)  # type: ignore[arg-type]
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("x.csv", "before")]


def test_a_table_has_the_first_rows_and_says_how_many_there_are(tmp_path: Path) -> None:
    text = written(f"SELECT i FROM range({TABLE_ROWS + 1234}) t(i)", "table", tmp_path)
    assert len(text.splitlines()) == TABLE_ROWS + 3
    assert text.endswith("200 of 1,434 rows; --format csv has them all\n")


def test_a_table_is_not_cut_and_obeys_no_escape_sequence(tmp_path: Path) -> None:
    wide = "x" * 70
    sql = f"SELECT '{wide}' AS a, '{wide}' AS b, chr(27) || '[2J' || chr(10) AS \"[bold]c\""
    text = written(sql, "table", tmp_path)
    assert text.count(wide) == 2
    assert "\x1b" not in text
    assert r"\x1b[2J\n" in text
    assert "[bold]c" in text.splitlines()[0]


def test_long_cells_of_a_table_are_shortened(tmp_path: Path) -> None:
    text = written("SELECT repeat('long', 100) AS a, range(500) AS b", "table", tmp_path)
    assert "long..." not in text
    assert "..." in text
    assert len(text.splitlines()[2]) < 200
