from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import query_speed
from benchmarks.query_speed import EVERYTHING, time_images
from benchmarks.synthetic_run import CURVE_POINTS, SyntheticRun
from pipeline import load_images, load_metrics
from pipeline.named_queries import QUERIES
from pipeline.schema import metrics_schema
from pipeline.sql import open_metrics


@pytest.mark.slow
def test_a_line_for_every_query(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(query_speed, "QUERIES", QUERIES[:2])
    monkeypatch.setattr(
        sys,
        "argv",
        ["x", "--rows", "1200", "--images", "70", "--repeat", "1", "--run", str(tmp_path / "kept")],
    )
    query_speed.main()
    assert "goal 1.0 s" in capsys.readouterr().out
    query_speed.main()
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[:1] == "|"]
    assert [row[0] for row in rows[2:]] == [*(query.name for query in QUERIES[:2]), EVERYTHING]
    assert all(50 < float(row[4]) < 500 for row in rows[2:])
    (images,) = [line for line in lines if line.startswith("* one image by id")]
    assert "of 1, the first" in images


def test_a_synthetic_run_is_a_finished_one_of_the_real_schema(tmp_path: Path) -> None:
    run = SyntheticRun(rows=1200, size_px=16, images=70).write(tmp_path / "run")
    assert run.success.exists()
    assert pq.read_schema(run.metrics).remove_metadata() == metrics_schema().remove_metadata()
    frame = load_metrics(run)
    assert (len(frame), frame["task_id"].nunique(), frame["category"].nunique()) == (1200, 1200, 47)
    ok = frame[frame["status"] == "ok"]
    assert 0 < len(frame) - len(ok) < 60
    assert ok["loss_curve"].map(len).eq(CURVE_POINTS).all()
    floats = [field.name for field in metrics_schema() if field.type == pa.float64()]
    for name in ("sibling_distance", "blend_weight"):
        floats.remove(name)
    assert ok[floats].notna().all().all()
    assert ok["sibling_distance"].notna().mean() > 0.7
    assert (
        frame.groupby("exemplar_id")["variation"].apply(list).map(lambda v: v == [*range(4)]).all()
    )
    files = sorted(run.textures.glob("*.parquet"))
    stored = sum(
        count is not None
        for path in files
        for count in pq.read_table(path, columns=["image"])["image"].to_pylist()
    )
    assert stored == 70
    assert len(time_images(run, 70)) == 2


def test_an_image_of_a_synthetic_run(tmp_path: Path) -> None:
    run = SyntheticRun(rows=80, size_px=16, images=3).write(tmp_path / "run")
    with open_metrics([run]) as database:
        ids = database.select("SELECT task_id FROM metrics ORDER BY category, task_id").table()
    (image,) = load_images(run, ids["task_id"].to_pylist()[:1]).values()
    assert image.size == (16, 16)
