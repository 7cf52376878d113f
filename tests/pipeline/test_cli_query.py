"""`texsynth query` and `texsynth compare`, from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.named_queries import QUERIES
from pipeline.rundir import RunDirectory
from pipeline.shards import commit_rows

MakeTable = Callable[..., pa.Table]
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def two(tmp_path: Path, make_table: MakeTable) -> list[RunDirectory]:
    runs = [RunDirectory(tmp_path / name) for name in ("a", "b")]
    for factor, run in enumerate(runs, start=1):
        run.create()
        for name in ("x", "y"):
            commit_rows(run, make_table([name], delivered_loss=100.0 / factor))
    return runs


def test_sql_over_two_runs(call: Call, two: list[RunDirectory]) -> None:
    sql = "SELECT run, sum(delivered_loss) AS s FROM metrics GROUP BY run ORDER BY run"
    code, out, err = call("query", two[0].path, two[1].path, sql, "--format", "csv")
    assert (code, out, err) == (0, "run,s\na,200.0\nb,100.0\n", "")


def test_a_file_for_the_answer(call: Call, two: list[RunDirectory], tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    arguments = ("query", two[0].path, "SELECT task_id FROM metrics", "--format", "parquet")
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert "expected a file" in err
    assert call(*arguments, "--output", path) == (0, "", "")
    assert pq.read_table(path)["task_id"].to_pylist() == ["x", "y"]


def test_named_queries_are_listed(call: Call) -> None:
    code, out, _ = call("query", "--list")
    assert code == 0
    assert [line for line in out.splitlines() if line[0] != " "] == [one.name for one in QUERIES]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "expected run directories, then SQL"),
        (["RUN"], "expected run directories, then SQL"),
        (["RUN", "SELECT x FROM metrics"], 'column "x" not found'),
        (["RUN", "SELECT status::INTEGER FROM metrics"], "Could not convert"),
        (["RUN", "COPY metrics TO 'x.csv'"], "got COPY, expected one SELECT"),
        (["RUN", "--named", "nothing"], "expected one of runs, worst-categories"),
        (["RUN", "SELECT 1", "--named", "runs"], "expected one of them"),
        (["RUN", "RUN", "SELECT 1"], "given twice"),
        (["absent", "SELECT 1"], "is no run directory"),
    ],
)
def test_refusals_are_one_message(
    call: Call, two: list[RunDirectory], arguments: list[str], said: str
) -> None:
    given = [str(two[0].path) if word == "RUN" else word for word in arguments]
    code, out, err = call("query", *given)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert said in err
    assert "Traceback" not in err


def test_unreadable_files_are_named(call: Call, two: list[RunDirectory]) -> None:
    (two[0].shards / "part-x.parquet").write_bytes(b"no Parquet")
    code, out, err = call("query", two[0].path, "SELECT 1 AS one", "--format", "csv")
    assert (code, out) == (0, "one\n1\n")
    assert "unreadable: " in err
    assert "part-x.parquet" in err


def test_a_reader_that_leaves_early_is_no_error(two: list[RunDirectory]) -> None:
    program = "from pipeline.cli import main; main()"
    sql = "SELECT i, repeat('x', 100) FROM metrics, range(50000) t(i)"
    command = [sys.executable, "-c", program, "query", str(two[0].path), sql, "--format", "csv"]
    query = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert query.stdout is not None
    assert query.stderr is not None
    assert query.stdout.readline().startswith("i,")
    query.stdout.close()
    assert query.stderr.read() == ""
    query.stderr.close()
    assert query.wait() == 0


def test_a_long_query_draws_no_bar_among_its_answer(two: list[RunDirectory]) -> None:
    program = (
        "import pipeline.sandbox as sandbox\n"
        "sandbox.LOCKS = ('SET progress_bar_time = 1', *sandbox.LOCKS)\n"
        "from pipeline.cli import main; main()"
    )
    question = "SELECT count(*) AS n FROM range(3000) a, range(100000) b WHERE a.range <> b.range"
    command = [sys.executable, "-c", program, "query", str(two[0].path), question]
    command += ["--format", "csv"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == ("n\n299997000\n", "")


def test_a_query_waits_for_no_large_library(two: list[RunDirectory]) -> None:
    program = (
        "import sys\nfrom pipeline.cli import main\n"
        "try:\n    main()\nfinally:\n    print({'ray', 'torch'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", program, "query", str(two[0].path), "SELECT 1"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.stdout.endswith("set()\n"), ended


def test_two_runs_compared(call: Call, two: list[RunDirectory]) -> None:
    code, out, err = call("compare", two[0].path, two[1].path)
    assert (code, err) == (0, "")
    line = next(line for line in out.splitlines() if line.startswith("delivered_loss"))
    assert " ".join(line.split()) == "delivered_loss 2 2 2 0 x 0.5 x 0.5 to x 0.5"
    assert next(line for line in out.splitlines() if line.startswith("bark"))
    code, out, _ = call("compare", two[0].path, two[1].path, "--json")
    found = json.loads(out)
    assert (code, found["names"], found["pairs"]) == (0, ["a", "b"], 2)
    (loss,) = [one for one in found["summaries"] if one["measure"] == "delivered_loss"]
    assert loss["value"] == pytest.approx(0.5)


def test_what_is_not_comparable_is_said_aloud(
    call: Call, two: list[RunDirectory], make_table: MakeTable
) -> None:
    for name in ("x", "y"):
        values = {"delivered_loss": 1.0, "weights_sha256": "other", "evaluations": 2.0}
        commit_rows(two[1], make_table([name], attempts=2, **values))
    code, out, err = call("compare", two[0].path, two[1].path)
    assert code == 0
    assert "warning: weights_sha256 differs in 2 of 2 pairs" in err
    line = next(line for line in out.splitlines() if line.startswith("delivered_loss"))
    assert line.split() == ["delivered_loss", "0", "0", "0", "0"]
    code, _, err = call("compare", two[0].path, two[0].path)
    assert (code, "given twice" in err) == (2, True)
