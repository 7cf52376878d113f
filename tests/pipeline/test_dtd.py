"""The whole job on real photographs: every image of the DTD subset, gray and portrait ones too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest

from texsynth.hed import HED_TENSORS_SHA256
from texsynth.weights import cache_directory

pytestmark = [pytest.mark.slow, pytest.mark.shared, pytest.mark.weights]


def texsynth(*arguments: str) -> subprocess.Popen[bytes]:
    code = "from pipeline.cli import main; main()"
    return subprocess.Popen([sys.executable, "-c", code, *arguments], start_new_session=True)


@pytest.mark.timeout(1200)
def test_all_images_of_the_subset_killed_half_way(shared_path: Path, tmp_path: Path) -> None:
    if not (cache_directory() / f"hed-{HED_TENSORS_SHA256[:8]}.safetensors").is_file():
        pytest.skip("weights 'hed' are not cached: texsynth weights get hed")
    manifest, out = tmp_path / "dtd.csv", tmp_path / "run"
    root = str(shared_path / "data")
    made = texsynth("manifest", "dtd", "--root", root, "--split", "all", "--out", str(manifest))
    assert made.wait() == 0
    command = ["run", str(manifest), "--root", root, "--out", str(out), "--weights", "hed"]
    command += ["--size", "64", "--evaluations", "20"]
    first = texsynth(*command)
    while sum(pq.read_metadata(p).num_rows for p in (out / "shards").glob("part-*.parquet")) < 50:
        assert first.poll() is None
        time.sleep(0.5)
    os.kill(first.pid, 9)
    first.wait()
    assert texsynth(*command).wait() == 0

    frame = pd.read_parquet(out / "metrics.parquet")
    assert (len(frame), frame["task_id"].nunique()) == (120, 120)
    assert set(frame["status"]) == {"ok"}
    assert not frame["copy"].any()
    textures = str(out / "textures" / "*.parquet")
    columns = "count(*), count(DISTINCT task_id), min(octet_length(image.bytes))"
    rows, tasks, smallest = duckdb.sql(f"SELECT {columns} FROM '{textures}'").fetchall()[0]
    assert (rows, tasks) == (120, 120)
    assert smallest > 1000
    schema = pq.read_schema(next((out / "textures").glob("*.parquet")))
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"]["_type"] == "Image"
