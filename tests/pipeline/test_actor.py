from __future__ import annotations

import dataclasses
import io
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import datasets
import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import pipeline.lane_work
import texsynth
from pipeline.actor import SUMMARY, SynthesisActor
from pipeline.config import RunConfig
from pipeline.resume import RunRecordError
from pipeline.rundir import RunDirectory
from pipeline.schema import REQUIRED_COLUMNS, row_schema
from texsynth.config import REFERENCE_TAPS
from texsynth.results import ReferenceLoss, SynthesisResult
from texsynth.scheduler import Synthesis
from texsynth.sensitivity import PROBE_COST

MakeConfig = Callable[..., RunConfig]
MakeManifest = Callable[..., Path]
PreparedBlock = Callable[[Path, RunConfig], pa.Table]
Rows = dict[str, dict[str, Any]]
# Rounding of convolutions over other batch sizes, in float32, after five evaluations.
NEIGHBOUR_TOLERANCE = 1e-3


pytestmark = pytest.mark.usefixtures("one_thread")


def rows_of(run: RunDirectory) -> Rows:
    return {row["task_id"]: row for row in pq.read_table(run.shards).to_pylist()}


def test_rows_are_complete(
    run: RunDirectory,
    make_actor: Callable[..., SynthesisActor],
    make_manifest: MakeManifest,
    quick_config: MakeConfig,
    prepared_block: PreparedBlock,
) -> None:
    config = quick_config(variations=2)
    summary = make_actor(config)(prepared_block(make_manifest(["a", "b"], broken=["b"]), config))
    assert summary.schema.equals(SUMMARY)
    assert sorted(summary["task_id"].to_pylist()) == ["a-c0-v0", "a-c0-v1", "b-c0-v0", "b-c0-v1"]
    rows = rows_of(run)
    nulls = {"error_type", "error", "split", "loss_threshold", "below_threshold"}
    nulls |= {"delivered_below_threshold", "sibling_distance", "sibling_duplicate", "tries"}
    nulls |= {name for name in row_schema().names if name.startswith("blend_")}
    for name in ("a-c0-v0", "a-c0-v1"):
        row = rows[name]
        assert {key for key, value in row.items() if value is None} == nulls
        image = Image.open(io.BytesIO(row["image"]["bytes"]))
        assert (image.size, image.mode, row["image"]["path"]) == ((32, 32), "RGB", f"{name}.png")
        assert (row["status"], row["height"], row["width"]) == ("ok", 32, 32)
        assert row["note"] == "note of a"
        assert row["taps"] == row["objective_taps"] == ["relu1_1", "pool1"]
        total = sum(row["float_gram_loss"]) + row["float_spectrum_loss"]
        assert total == pytest.approx(row["float_loss"], rel=1e-9)
        assert row["evaluations"] == 5 + PROBE_COST
        assert row["stop_reason"] == "budget"
        assert row["seconds"] > 0
        assert row["copy"] is not None
    assert rows["a-c0-v0"]["image"] != rows["a-c0-v1"]["image"]
    assert rows["a-c0-v0"]["seed"] != rows["a-c0-v1"]["seed"]
    for name in ("b-c0-v0", "b-c0-v1"):
        row = rows[name]
        assert all(row[column] is not None for column in REQUIRED_COLUMNS)
        assert (row["status"], row["error_type"], row["image"]) == ("failed", "ImageError", None)
        assert (row["seconds"], row["float_loss"], row["copy"]) == (None, None, None)


def test_committed_rows_are_read_by_pandas_duckdb_and_datasets(
    run: RunDirectory,
    make_actor: Callable[..., SynthesisActor],
    make_manifest: MakeManifest,
    quick_config: MakeConfig,
    tmp_path: Path,
    prepared_block: PreparedBlock,
) -> None:
    config = quick_config()
    make_actor(config)(prepared_block(make_manifest(["a", "b", "c"], broken=["b"]), config))
    (shard,) = run.shards.iterdir()
    assert pq.read_schema(shard).equals(row_schema(pa.schema([("note", pa.string())])))
    frame = pd.read_parquet(shard)
    assert dict(frame["status"].value_counts()) == {"ok": 2, "failed": 1}
    counts = duckdb.sql(
        f"select status, count(*), count(image.bytes) from '{shard}' group by all order by all"
    ).fetchall()
    assert counts == [("failed", 1, 0), ("ok", 2, 2)]
    data = datasets.Dataset.from_parquet(str(shard), cache_dir=str(tmp_path / "cache"))
    assert isinstance(data.features["image"], datasets.Image)
    pictures = [row["image"] for row in data]
    assert sorted("none" if p is None else str(p.size) for p in pictures) == [
        *("(32, 32)", "(32, 32)", "none")
    ]


def test_two_lanes_give_what_one_gives(
    run: RunDirectory,
    make_actor: Callable[..., SynthesisActor],
    make_manifest: MakeManifest,
    quick_config: MakeConfig,
    prepared_block: PreparedBlock,
) -> None:
    results = []
    for lanes in (1, 2):
        config = quick_config(lanes=lanes)
        make_actor(config)(prepared_block(make_manifest(["a", "b", "c"]), config))
        results.append(rows_of(run))
    assert results[0].keys() == results[1].keys()
    for alone, beside in zip(*(map(r.get, sorted(r)) for r in results), strict=True):
        assert alone is not None
        assert beside is not None
        for column in ("float_loss", "delivered_loss", "objective_loss"):
            assert beside[column] == pytest.approx(alone[column], rel=NEIGHBOUR_TOLERANCE)
        assert beside["evaluations"] == alone["evaluations"]


def test_an_unforeseen_error_is_a_row_and_its_neighbours_live(
    run: RunDirectory,
    make_actor: Callable[..., SynthesisActor],
    make_manifest: MakeManifest,
    quick_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    prepared_block: PreparedBlock,
) -> None:
    config = quick_config(lanes=3)
    block = prepared_block(make_manifest(["a", "b", "c"]), config)
    cursed = block["seed"][1].as_py()
    original = pipeline.lane_work.prepare_synthesis

    def fail_for_one(exemplars: Any, seeds: Any, *rest: Any, **more: Any) -> Any:
        if cursed in seeds:
            raise ZeroDivisionError("a defect")
        return original(exemplars, seeds, *rest, **more)

    monkeypatch.setattr(pipeline.lane_work, "prepare_synthesis", fail_for_one)
    actor = make_actor(config)
    actor(block)
    rows = rows_of(run)
    assert {name: row["status"] for name, row in rows.items()} == {
        "a-c0-v0": "ok",
        "b-c0-v0": "failed",
        "c-c0-v0": "ok",
    }
    assert rows["b-c0-v0"]["error_type"] == "ZeroDivisionError"
    assert "Traceback" in rows["b-c0-v0"]["error"]
    assert "a defect" in rows["b-c0-v0"]["error"]
    monkeypatch.undo()
    again = block.set_column(
        block.schema.get_field_index("attempts"), "attempts", pa.array([1] * 3, pa.int32())
    )
    assert actor(again.slice(1, 1))["status"].to_pylist() == ["ok"]


def changed_results(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[SynthesisResult], SynthesisResult]
) -> None:
    original = Synthesis.advance

    def advance(work: Synthesis, *rest: Any) -> list[SynthesisResult]:
        return [change(result) for result in original(work, *rest)]

    monkeypatch.setattr(Synthesis, "advance", advance)


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_a_failed_row(
    run: RunDirectory,
    make_actor: Callable[..., SynthesisActor],
    make_manifest: MakeManifest,
    quick_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    loss: float,
    prepared_block: PreparedBlock,
) -> None:
    def spoil(result: SynthesisResult) -> SynthesisResult:
        return dataclasses.replace(result, float_loss=ReferenceLoss((loss, 0.0), 0.0))

    changed_results(monkeypatch, spoil)
    config = quick_config()
    make_actor(config)(prepared_block(make_manifest(["a"]), config))
    row = rows_of(run)["a-c0-v0"]
    assert (row["status"], row["error_type"]) == ("failed", "NonFiniteLossError")
    assert (row["image"], row["stop_reason"]) == (None, "budget")
    assert row["iterations"] is not None


@pytest.mark.parametrize(
    ("changes", "weights_id", "taps", "expected"),
    [
        ({"size": 256}, "imagenet", REFERENCE_TAPS, 1500.0),
        ({"size": 256}, "imagenet", REFERENCE_TAPS[:5], None),
        ({"size": 128}, "imagenet", REFERENCE_TAPS, None),
        ({"size": 256}, "hed", REFERENCE_TAPS, None),
        ({"size": 256, "normalisation": "imagenet"}, "imagenet", REFERENCE_TAPS, None),
        ({"size": 256, "normalisation": "none"}, "imagenet", REFERENCE_TAPS, 1500.0),
        ({"size": 128, "loss_threshold": 7.0}, "hed", REFERENCE_TAPS[:2], 7.0),
        ({"size": 256, "loss_threshold": 7.0}, "imagenet", REFERENCE_TAPS, 7.0),
    ],
)
def test_the_published_threshold_holds_only_where_it_was_published(
    run: RunDirectory,
    make_actor: Callable[..., SynthesisActor],
    make_manifest: MakeManifest,
    quick_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    weights_id: str,
    taps: tuple[str, ...],
    expected: float | None,
    prepared_block: PreparedBlock,
) -> None:
    def as_if(result: SynthesisResult) -> SynthesisResult:
        low, high = ReferenceLoss((1000.0,), 0.0), ReferenceLoss((2000.0,), 0.0)
        return dataclasses.replace(result, taps=taps, float_loss=low, delivered_loss=high)

    changed_results(monkeypatch, as_if)
    small = quick_config(loss_threshold=changes.get("loss_threshold"))
    actor = make_actor(small)
    block = prepared_block(make_manifest(["a"]), small)
    actor._maker.network.weights_id = weights_id
    # The exemplar stays small: only what the threshold looks at is as in the case.
    actor._work._exemplar = lambda task: torch.rand(3, 32, 32)  # type: ignore[method-assign]
    actor._maker._config = small.model_copy(update=changes)
    actor(block)
    row = rows_of(run)["a-c0-v0"]
    assert row["status"] == "ok"
    assert row["loss_threshold"] == expected
    assert row["below_threshold"] == (None if expected is None else expected > 1000)
    assert row["delivered_below_threshold"] == (None if expected is None else False)


def test_a_row_without_threshold_has_null_flags_and_one_with_has_both(
    run: RunDirectory,
    make_actor: Callable[..., SynthesisActor],
    make_manifest: MakeManifest,
    quick_config: MakeConfig,
    prepared_block: PreparedBlock,
) -> None:
    config = quick_config(loss_threshold=1e12, copy_layout_threshold=-1.0)
    make_actor(config)(prepared_block(make_manifest(["a"]), config))
    row = rows_of(run)["a-c0-v0"]
    assert (row["below_threshold"], row["delivered_below_threshold"]) == (True, True)
    assert row["copy"] is True


def test_a_block_that_comes_again_is_not_done_again(
    run: RunDirectory,
    make_actor: Callable[..., SynthesisActor],
    make_manifest: MakeManifest,
    quick_config: MakeConfig,
    prepared_block: PreparedBlock,
) -> None:
    config = quick_config()
    actor, block = make_actor(config), prepared_block(make_manifest(["a", "b"]), config)
    assert actor(block.slice(0, 1))["task_id"].to_pylist() == ["a-c0-v0"]
    assert actor(block)["task_id"].to_pylist() == ["b-c0-v0"]
    assert len(make_actor(config)(block)) == 0
    assert len(pq.read_table(run.shards)) == 2


def test_a_block_says_how_much_of_its_time_was_synthesis(
    run: RunDirectory,
    make_actor: Callable[..., SynthesisActor],
    make_manifest: MakeManifest,
    quick_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    prepared_block: PreparedBlock,
) -> None:
    config = quick_config()
    original, spent = Synthesis.advance, []

    def advance(work: Synthesis, *rest: Any) -> Any:
        begun = time.monotonic()
        results = original(work, *rest)
        spent.append(time.monotonic() - begun)
        return results

    monkeypatch.setattr(Synthesis, "advance", advance)
    actor, block = make_actor(config), prepared_block(make_manifest(["a", "b", "c"]), config)
    begun_at = datetime.now(UTC) - timedelta(milliseconds=1)
    summaries = [actor(block.slice(0, 2)), actor(block), actor(block)]
    lines = [json.loads(line) for line in run.log.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["block", "block"]
    assert (
        [line["tasks"] for line in lines] == [len(summary) for summary in summaries[:2]] == [2, 1]
    )
    for line, summary in zip(lines, summaries, strict=False):
        told = {name: value for name, value in line.items() if name not in ("time", "event")}
        assert summary["block"].to_pylist() == [told] * len(summary)
        assert told["synthesis_seconds"] < told["seconds"]
        assert begun_at <= datetime.fromisoformat(told["begun_at"]) <= datetime.now(UTC)
    synthesis_s = sum(line["synthesis_seconds"] for line in lines)
    assert synthesis_s == pytest.approx(sum(spent), abs=0.05)


def test_a_worker_refuses_other_weights_and_an_empty_directory(
    run: RunDirectory,
    make_actor: Callable[..., SynthesisActor],
    quick_config: MakeConfig,
    weights_file: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(RunRecordError, match=r"no run\.json"):
        SynthesisActor(str(run.path))
    copy = tmp_path / "weights.safetensors"
    copy.write_bytes(weights_file.read_bytes())
    make_actor(quick_config(weights=str(copy)))
    tensors = {k: v + 1 for k, v in load_file(copy).items()}
    save_file(tensors, copy)
    with pytest.raises(texsynth.WeightsError, match="here, the run began with"):
        SynthesisActor(str(run.path))


def test_exemplars_reach_the_network_as_they_were_prepared(
    run: RunDirectory,
    make_actor: Callable[..., SynthesisActor],
    make_manifest: MakeManifest,
    quick_config: MakeConfig,
    prepared_block: PreparedBlock,
) -> None:
    config = quick_config()
    task = prepared_block(make_manifest(["a"]), config).to_pylist()[0]
    exemplar = make_actor(config)._work._exemplar(task)
    pixels = (exemplar * 255).round().to(torch.uint8).movedim(0, -1).numpy()
    assert np.frombuffer(task["pixels"], np.uint8).tobytes() == pixels.tobytes()
