"""The job as a whole: real images from a bucket, three nodes, rows into the bucket, one kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.committed import read_committed
from pipeline.rundir import RunDirectory
from pipeline.storage import ObjectPath

pytestmark = [
    pytest.mark.faults,
    pytest.mark.shared,
    pytest.mark.slow,
    pytest.mark.timeout(3600),
]

TEXSYNTH = (sys.executable, "-c", "from pipeline.cli import main; main()")
EXEMPLARS = 120
KILL_AT = 30
"""Committed rows after which the driver is killed."""
PATIENCE_SECONDS = 1500.0


@pytest.fixture
def address() -> Iterator[str]:
    """Of a cluster of a head that runs no work and three nodes of two CPUs, on this machine."""
    from ray.cluster_utils import Cluster

    store = {"object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **store})
    for _ in range(3):
        cluster.add_node(num_cpus=2, wait=False, **store)
    yield str(cluster.address)
    cluster.shutdown()


def put_images(root: Path, bucket: ObjectPath) -> str:
    """Manifest and images into the bucket, as they lie beside each other; the manifest's URI."""
    manifest = root / "manifest.parquet"
    done = call("manifest", "dtd", "--root", str(root), "--out", str(manifest))
    assert done.returncode == 0, done.stderr
    for file in [manifest, *(root / "dtd" / "dtd" / "images").rglob("*.jpg")]:
        (bucket / file.relative_to(root).as_posix()).upload(file)
    return str(bucket / manifest.name)


def call(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TEXSYNTH, *words], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )


def committed(run: ObjectPath) -> list[dict[str, Any]]:
    table, problems = read_committed(RunDirectory(run))
    assert not problems
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def test_120_images_on_three_nodes_from_a_bucket_and_into_it(
    shared_path: Path, tmp_path: Path, bucket: ObjectPath, address: str
) -> None:
    root = tmp_path / "data"
    root.mkdir()
    (root / "dtd").symlink_to(shared_path / "data" / "dtd")
    run = bucket / "runs" / "dtd"
    weights = next((shared_path / "weights").glob("*.safetensors"))
    words = [
        *("run", put_images(root, bucket), "--out", str(run), "--address", address),
        *("--device", "cpu", "--weights", str(weights), "--normalisation", "imagenet"),
        *("--size", "64", "--evaluations", "20", "--flush-seconds", "2"),
    ]
    with (tmp_path / "first.txt").open("w") as output:
        first = subprocess.Popen(
            [*TEXSYNTH, *words], stdout=output, stderr=output, start_new_session=True
        )
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while len(before := committed(run)) < KILL_AT:
        said = (tmp_path / "first.txt").read_text()
        assert first.poll() is None, said
        assert time.monotonic() < give_up_at, said
        time.sleep(2)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    again = call(*words)
    print(again.stdout, again.stderr)
    assert again.returncode == 0, again.stdout + again.stderr
    rows = committed(run)
    assert Counter(row["status"] for row in rows) == {"ok": EXEMPLARS}
    finished = {row["task_id"]: row["finished_at"] for row in rows}
    assert len(finished) == EXEMPLARS
    assert all(finished[row["task_id"]] == row["finished_at"] for row in before)
    verified = call("verify", str(run))
    print(verified.stdout)
    assert verified.returncode == 0, verified.stdout
    assert not list((run / "shards").iterdir())
