from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import table_stream
from pipeline.table_stream import TableStream, stream_parquet, stream_table, write_stream_atomic

CUTS = st.lists(st.integers(0, 4), max_size=6)


def stream_of(pieces: Sequence[pa.Table]) -> TableStream:
    schema = pa.schema([("n", pa.int64()), ("text", pa.string())])
    return TableStream(
        schema,
        lambda columns: (piece if columns is None else piece.select(columns) for piece in pieces),
    )


def cut(cuts: Sequence[int], first: int = 0) -> list[pa.Table]:
    pieces = []
    for count in cuts:
        numbers = range(first, first + count)
        text = pa.array([f"t{number}" for number in numbers], pa.string())
        pieces.append(pa.table({"n": pa.array(numbers, pa.int64()), "text": text}))
        first += count
    return pieces


@given(one=CUTS, other=CUTS)
def test_the_same_rows_are_the_same_however_they_are_cut(one: list[int], other: list[int]) -> None:
    assert stream_of(cut(one)).holds(cut(other)) == (sum(one) == sum(other))
    if sum(other):
        assert not stream_of(cut(one, first=1)).holds(cut(other))


@given(cuts=CUTS, rows=st.none() | st.integers(1, 9))
def test_the_first_rows_and_no_more_batches_than_they_need(
    cuts: list[int], rows: int | None
) -> None:
    whole = stream_of(cut(cuts)).read()
    first = list(stream_of(cut(cuts)).first(rows))
    assert pa.concat_tables([whole.slice(0, 0), *first]).equals(whole.slice(0, rows))
    if rows is not None and first:
        assert sum(len(batch) for batch in first[:-1]) < rows


def test_columns_pieces_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_stream, "BATCH_ROWS", 4)
    (table,) = cut([10])
    stream = stream_table(table)
    assert [len(batch) for batch in stream] == [4, 4, 2]
    assert [len(piece) for piece in stream.cut(3)] == [3, 1, 3, 1, 2]
    doubled = stream.map(lambda batch: batch.append_column("again", batch["n"]))
    assert doubled.read(["again"])["again"].to_pylist() == list(range(10))
    path = tmp_path / "table.parquet"
    write_stream_atomic(path, doubled)
    stored = stream_parquet(lambda: pq.ParquetFile(path))
    assert stored.schema == doubled.schema
    assert [len(batch) for batch in stored] == [4, 4, 2]
    assert stored.read(["text"]).equals(table.select(["text"]))
    assert stored.holds(doubled)
    write_stream_atomic(path, table.slice(0, 0))
    assert stream_parquet(lambda: pq.ParquetFile(path)).read().equals(table.slice(0, 0))


def test_a_file_whose_writing_breaks_off_is_not_there(tmp_path: Path) -> None:
    (table,) = cut([3])

    def fail(columns: object) -> object:
        yield table
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_stream_atomic(tmp_path / "t.parquet", TableStream(table.schema, fail))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
