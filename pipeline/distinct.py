"""How many different texts there are, in columns as long as the tasks of a run."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.table_stream import BATCH_ROWS


def count_distinct_texts(texts: pa.ChunkedArray) -> int:
    """How many different texts there are, null aside.

    Many are counted by DuckDB: Arrow takes twice the memory (measured: 0.8 GiB for 5 million ids).
    """
    if len(texts) <= BATCH_ROWS:
        return int(pc.count_distinct(texts).as_py())
    import duckdb

    with duckdb.connect() as connection:
        connection.execute("SET enable_progress_bar = false")
        connection.register("texts", pa.table({"text": texts}))
        rows = connection.execute("SELECT count(DISTINCT text) FROM texts").fetchall()
    return int(rows[0][0])
