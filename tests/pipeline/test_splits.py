"""A run of some splits only: which tasks it has, what it refuses, what its rows say."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pipeline.config import RunConfig
from pipeline.manifest import Manifest, load_manifest, write_manifest
from pipeline.outcome import RunOutcome
from pipeline.preflight import check_run
from pipeline.resume import RunMismatchError, write_run_record
from pipeline.run import run_manifest
from pipeline.rundir import RunDirectory
from pipeline.splits import SplitError, require_known_splits, select_split
from pipeline.table_stream import stream_table
from pipeline.verify import verify_run

MakeManifest = Callable[..., Path]
MakeConfig = Callable[..., RunConfig]
SPLIT = st.sampled_from(["train", "val", "test", None])

pytestmark = pytest.mark.usefixtures("one_thread")


def manifest_of(columns: Mapping[str, Sequence[str | None]]) -> Manifest:
    count = len(next(iter(columns.values())))
    text = {name: pa.array(values, pa.string()) for name, values in columns.items()}
    ids = [f"e{number}" for number in range(count)]
    stream = stream_table(pa.table({"exemplar_id": ids, "path": ids, **text}))
    return Manifest(stream=stream, rows=count, root="/", path=Path("m.csv"), sha256="")


def do(manifest: Path, out: Path, config: RunConfig) -> RunOutcome:
    return run_manifest(manifest, out, config, Console(file=io.StringIO()))


@pytest.fixture
def split_manifest(make_manifest: MakeManifest) -> Path:
    """Exemplars a to d; `split`, another deal of them in `split_3`, and a column of lists."""
    path = make_manifest("abcd")
    table = load_manifest(path).table
    columns = {
        "split": pa.array(["train", "train", "val", "test"]),
        "split_3": pa.array(["test", "train", "train", None]),
        "joint_labels": pa.array([["noise"], ["noise", "dots"], None, []], pa.list_(pa.string())),
    }
    for name, column in columns.items():
        table = table.append_column(name, column)
    path = path.with_suffix(".parquet")
    write_manifest(table, path)
    return path


@given(rows=st.lists(st.tuples(SPLIT, SPLIT), min_size=1), split=SPLIT, own=st.booleans())
def test_exactly_the_rows_of_the_split_are_chosen(
    rows: list[tuple[str | None, str | None]], split: str | None, *, own: bool
) -> None:
    manifest = manifest_of({"split": [a for a, _ in rows], "split_7": [b for _, b in rows]})
    of_row = [a if own else b for a, b in rows]
    partition = None if own else 7
    expected = [(f"e{i}", s) for i, s in enumerate(of_row) if split in (None, s)]
    nothing = not any(of_row) and not (own and split is None)
    if nothing or not expected:
        with pytest.raises(SplitError):
            select_split(manifest, partition, split)
        return
    chosen = select_split(manifest, partition, split).read().to_pydict()
    assert list(zip(chosen["exemplar_id"], chosen["split"], strict=True)) == expected
    assert chosen["split_7"] == [
        b for (_, b), s in zip(rows, of_row, strict=True) if split in (None, s)
    ]


def test_what_was_found_is_said() -> None:
    manifest = manifest_of({"split_1": ["train", "train", "validation", None]})
    with pytest.raises(SplitError, match=r"no column 'split_2'; it has split_1$"):
        select_split(manifest, 2, "train")
    with pytest.raises(SplitError, match=r"no column 'split'; it has split_1$"):
        select_split(manifest, None, "train")
    with pytest.raises(SplitError, match=r"'trian', .* train \(2\), validation \(1\), nothing"):
        select_split(manifest, 1, "trian")
    with pytest.raises(SplitError, match=r"validation \(1\).*expected train, val, test"):
        require_known_splits(manifest, 1)
    with pytest.raises(SplitError, match="no columns of splits"):
        select_split(manifest_of({"note": ["a"]}), 1, None)


def test_tasks_are_of_allowed_parents_and_say_the_split_of_the_partition(
    split_manifest: Path, quick_config: MakeConfig
) -> None:
    def tasks(**values: object) -> list[tuple[str, str | None]]:
        found = check_run(split_manifest, quick_config(**values), None).tasks.read().to_pydict()
        return list(zip(found["task_id"], found["split"], strict=True))

    assert tasks(split="train") == [("a-c0-v0", "train"), ("b-c0-v0", "train")]
    assert tasks(partition=3, split="train", limit=1) == [("b-c0-v0", "train")]


def test_rows_have_their_parents_split_and_a_run_keeps_its_partition(
    split_manifest: Path, quick_config: MakeConfig, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    config = quick_config(partition=3, split="train")
    assert do(split_manifest, out, config).complete
    metrics = pd.read_parquet(out / "metrics.parquet").set_index("exemplar_id")
    assert sorted(metrics.index) == ["b", "c"]
    assert set(metrics["split"]) == {"train"}
    assert list(metrics["split_3"]) == ["train", "train"]
    assert metrics["exemplar_sha256"].notna().all()
    labels = pq.read_table(out / "metrics.parquet", columns=["joint_labels"])
    assert labels["joint_labels"].to_pylist() == [["noise", "dots"], None]
    assert [line for check in verify_run(RunDirectory(out)) for line in check.problems] == []
    before = (out / "run.json").read_bytes()
    others = ({"partition": 3}, {"split": "train"}, {"partition": 3, "split": "test"}, {})
    for other in others:
        with pytest.raises(RunMismatchError, match=r"(partition|split) is .*, the run was begun"):
            do(split_manifest, out, quick_config(**other))
    assert (out / "run.json").read_bytes() == before
    more = do(split_manifest, out, quick_config(partition=3, split="train", variations=2))
    assert (more.done_now, more.complete) == (2, True)
    statuses = Counter(pd.read_parquet(out / "metrics.parquet")["split"])
    assert statuses == {"train": 4}


def test_the_partition_changes_no_texture(quick_config: MakeConfig) -> None:
    config = quick_config(partition=3, split="train")
    assert config.identity("w", "0") == quick_config().identity("w", "0")


def test_a_split_that_is_not_there_is_refused_before_anything_is_written(
    split_manifest: Path, call: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    for options in (("--partition", "4"), ("--split", "dev"), ("--partition", "11")):
        code, _, error = call(
            "run", split_manifest, "--out", out, "--weights", "random:0", *options
        )
        assert code == 2
        assert options[1] in error
        code, _, error = call("plan", split_manifest, "--weights", "random:0", *options)
        assert (code, options[1] in error) == (2, True)
    assert not out.exists()


def test_a_run_from_before_partitions_goes_on_without_one(
    split_manifest: Path, quick_config: MakeConfig, run: RunDirectory
) -> None:
    write_run_record(run, check_run(split_manifest, quick_config(), None).record)
    record = json.loads(run.run_json.read_text())
    del record["filtered"], record["config"]["partition"], record["config"]["split"]
    run.run_json.write_text(json.dumps(record))
    assert len(check_run(split_manifest, quick_config(), run).tasks.read()) == 4
    with pytest.raises(RunMismatchError, match="split is 'train', the run was begun with None"):
        check_run(split_manifest, quick_config(split="train"), run)
