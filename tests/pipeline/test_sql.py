from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.finalize import finalize
from pipeline.rundir import NotARunError, RunDirectory
from pipeline.schema import metrics_schema
from pipeline.shards import commit_rows
from pipeline.sql import QueryError, name_runs, open_metrics

MakeTable = Callable[..., pa.Table]
IDS = [f"t{number:03d}" for number in range(20)]


def ask(sql: str, *runs: RunDirectory) -> list[dict[str, object]]:
    with open_metrics(runs) as database:
        assert database.problems == ()
        rows: list[dict[str, object]] = database.select(sql).table().to_pylist()
    return rows


@pytest.fixture
def finished(run: RunDirectory, make_table: MakeTable) -> RunDirectory:
    commit_rows(run, make_table(IDS))
    finalize(run, pa.array(IDS))
    return run


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[[str], RunDirectory]:
    def make(name: str) -> RunDirectory:
        directory = RunDirectory(tmp_path / name)
        directory.create()
        return directory

    return make


def test_metrics_during_the_run_after_it_and_later(
    run: RunDirectory, make_table: MakeTable
) -> None:
    sql = "SELECT count(*) AS n, max(attempts) AS attempts FROM metrics"
    assert ask(sql, run) == [{"n": 0, "attempts": None}]
    commit_rows(run, make_table(IDS))
    assert ask(sql, run) == [{"n": 20, "attempts": 1}]
    finalize(run, pa.array(IDS))
    assert ask(sql, run) == [{"n": 20, "attempts": 1}]
    commit_rows(run, make_table(IDS[:1], attempts=2))
    assert ask(sql, run) == [{"n": 20, "attempts": 2}]


def test_a_finished_run_is_read_from_one_file(
    finished: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("pipeline.sql.read_committed")
    assert ask("SELECT sum(float_loss) AS s FROM metrics", finished) == [{"s": 20_000.0}]


def test_metrics_have_every_column_of_the_schema_and_no_image(run: RunDirectory) -> None:
    names = [row["column_name"] for row in ask("DESCRIBE metrics", run)]
    assert names == ["run", *metrics_schema().names]


def test_runs_of_other_schema_versions_are_matched_by_name(
    finished: RunDirectory, make_run: Callable[[str], RunDirectory]
) -> None:
    old = make_run("old")
    table = pq.read_table(finished.metrics).drop_columns(["chroma_noise"])
    table = table.append_column("retired", pa.array([7] * len(table)))
    metadata = {b"texsynth_schema_version": b"1"}
    pq.write_table(table.replace_schema_metadata(metadata), old.metrics)
    sql = (
        "SELECT run, count(*) AS n, count(chroma_noise) AS noises, sum(retired) AS retired "
        "FROM metrics GROUP BY run ORDER BY run"
    )
    assert ask(sql, finished, old) == [
        {"run": "old", "n": 20, "noises": 0, "retired": 140},
        {"run": "run", "n": 20, "noises": 0, "retired": None},
    ]


def test_carried_columns_of_either_run_are_there(
    make_run: Callable[[str], RunDirectory], make_table: MakeTable
) -> None:
    a, b = make_run("a"), make_run("b")
    commit_rows(a, make_table(["x"], pa.schema([("Run", pa.string())]), Run="first"))
    commit_rows(b, make_table(["x"], pa.schema([("note", pa.int64())]), note=3))
    rows = ask("SELECT run, manifest_run, note FROM metrics ORDER BY run", a, b)
    assert rows == [
        {"run": "a", "manifest_run": "first", "note": None},
        {"run": "b", "manifest_run": None, "note": 3},
    ]


def test_flags_and_measures_hold_every_column_of_their_type(
    run: RunDirectory, make_table: MakeTable
) -> None:
    carried = pa.schema([("indoors", pa.bool_()), ("contrast", pa.float64())])
    commit_rows(run, make_table(["a"], carried, indoors=True, contrast=0.5, loss_threshold=1500.0))
    fields = [*metrics_schema(carried)]
    flags = {row["flag"]: row["value"] for row in ask("SELECT flag, value FROM flags", run)}
    assert set(flags) == {field.name for field in fields if field.type == pa.bool_()}
    assert (flags["indoors"], flags["below_threshold"], flags["copy"]) == (True, True, None)
    measures = ask("SELECT run, task_id, measure, value FROM measures", run)
    floats = {field.name for field in fields if field.type == pa.float64()}
    assert {row["measure"] for row in measures} == floats
    expected = {"run": "run", "task_id": "a", "measure": "contrast", "value": 0.5}
    assert expected in measures


def test_names_tell_runs_apart(tmp_path: Path) -> None:
    def names(*paths: str) -> list[str]:
        return name_runs([tmp_path / path for path in paths])

    assert names("a/photos") == ["photos"]
    assert names("a/photos", "b/photos", "c") == ["a/photos", "b/photos", f"{tmp_path.name}/c"]
    with pytest.raises(QueryError, match="given twice"):
        names("a", "b/../a")


@pytest.mark.parametrize("name", ["it's", 'a "b"', "a; DROP VIEW metrics"])
def test_names_of_directories_are_no_sql(
    make_run: Callable[[str], RunDirectory], make_table: MakeTable, name: str
) -> None:
    run = make_run(name)
    commit_rows(run, make_table(["a"]))
    assert ask("SELECT run FROM metrics", run) == [{"run": name}]


@pytest.mark.parametrize(
    "sql",
    [
        "",
        "SELECT 1; SELECT 2",
        "CREATE TABLE x AS SELECT 1",
        "DROP VIEW metrics",
        "INSERT INTO run_0 SELECT * FROM run_0",
        "COPY metrics TO 'stolen.csv'",
        "ATTACH 'other.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "PRAGMA database_list",
        "EXPORT DATABASE 'stolen'",
    ],
)
def test_only_one_statement_that_reads_is_taken(
    finished: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sql: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(QueryError, match="expected one SELECT"):
        ask(sql, finished)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "source",
    [
        "read_text('{path}')",
        "read_csv('{path}')",
        "read_blob('{path}')",
        "read_parquet('{metrics}')",
        "glob('{path}*')",
        "'{path}'",
        "'{metrics}'",
        "sniff_csv('{path}')",
        "read_text('https://example.invalid/x')",
        "metrics_of_python",
    ],
)
def test_no_other_file_is_read(finished: RunDirectory, tmp_path: Path, source: str) -> None:
    metrics_of_python = pa.table({"a": [1]})
    assert len(metrics_of_python) == 1
    path = tmp_path / "secret.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(QueryError, match=r"Permission Error|Catalog Error"):
        ask(f"SELECT * FROM {source.format(path=path, metrics=finished.metrics)}", finished)


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELECT nothing FROM metrics", 'column "nothing" not found'),
        ("SELECT FROM metrics WHERE", "Parser Error"),
        ("SELECT status::INTEGER FROM metrics", "Could not convert string 'ok'"),
    ],
)
def test_errors_of_sql_are_ours(finished: RunDirectory, sql: str, said: str) -> None:
    with pytest.raises(QueryError, match=said):
        ask(sql, finished)


def test_a_flipped_bit_is_an_error_and_no_number(finished: RunDirectory) -> None:
    group = pq.read_metadata(finished.metrics).row_group(0)
    (chunk,) = [
        group.column(index)
        for index in range(group.num_columns)
        if group.column(index).path_in_schema == "float_loss"
    ]
    data = bytearray(finished.metrics.read_bytes())
    end_of_dictionary = chunk.data_page_offset - 1
    assert end_of_dictionary > chunk.dictionary_page_offset
    data[end_of_dictionary] ^= 1
    finished.metrics.write_bytes(data)
    assert ask("SELECT count(seed) AS n FROM metrics", finished) == [{"n": 20}]
    with pytest.raises(QueryError, match="CRC checksum"):
        ask("SELECT sum(float_loss) FROM metrics", finished)


def test_a_damaged_file_is_named_and_the_rows_are_read(finished: RunDirectory) -> None:
    finished.metrics.write_bytes(b"no Parquet")
    with open_metrics([finished]) as database:
        assert [problem.path for problem in database.problems] == [finished.metrics]
        assert database.select("SELECT count(*) AS n FROM metrics").table()["n"].to_pylist() == [20]


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotARunError), open_metrics([tmp_path / "absent"]):
        pass


def test_times_are_in_utc(finished: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    sql = "SELECT min(finished_at)::VARCHAR AS t FROM metrics"
    assert ask(sql, finished) == [{"t": "2026-01-02 03:04:05+00"}]
