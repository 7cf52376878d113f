from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
import ray

from pipeline import job
from pipeline.config import RunConfig
from pipeline.placement import ActorPlan
from pipeline.rundir import RunDirectory, write_table_atomic
from pipeline.shards import commit_rows

RUN = [sys.executable, "-c", "from pipeline.cli import main; main()", "run"]
VARIATIONS = 4


def test_killed_under_ray_and_run_again_nothing_is_lost_and_nothing_twice(
    make_manifest: Callable[..., Path], weights_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a run"
    manifest = make_manifest(["a", "b", "c"], broken=["c"])
    options = f"--variations {VARIATIONS} --lanes 1 --flush-seconds 0.1 --size 32 --evaluations 40"
    command = [*RUN, str(manifest), "--out", str(out), "--weights", str(weights_file)]
    command += options.split()
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not list((out / "shards").glob("part-*.parquet")) and first.poll() is None:
            time.sleep(0.02)
    finally:
        first.kill()
    assert first.wait() == -9
    kept = pd.read_parquet(list((out / "shards").glob("part-*.parquet"))).set_index("task_id")
    second = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert second.returncode == 3, second.stderr
    assert "8 ok" in second.stdout
    assert "4 failed" in second.stdout
    frame = pd.read_parquet(out / "textures").set_index("task_id")
    assert frame.index.is_unique
    assert len(frame) == 3 * VARIATIONS
    assert (frame["finished_at"][kept.index] == kept["finished_at"]).all()
    assert (frame.loc[frame["exemplar_id"] == "c", "error_type"] == "ImageError").all()
    assert (out / "_SUCCESS").exists()
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    last = next(n for n, line in reversed([*enumerate(lines)]) if line["event"] == "session_begun")
    blocks = [line for line in lines[last:] if line["event"] == "block"]
    # The actor that was left alone may have committed some more before it ended.
    assert 0 < sum(block["tasks"] for block in blocks) <= len(frame) - len(kept)
    assert all(0 <= block["synthesis_seconds"] < block["seconds"] for block in blocks)


TRACE = 'ray::MapWorker()\n  File "x.py", line 1, in f\n    raise error\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"an actor died in its creation\n{TRACE}WeightsError: no file", "WeightsError: no file"),
        ("The node is gone.\n", "RayError: The node is gone."),
        ("", "RayError: RayError('')"),
        (
            f"{TRACE}NoCredentialsError: none\nFailed after 10/10 tries.\nTo change: retry.",
            "NoCredentialsError: none",
        ),
        (
            f"{TRACE}KeyError: 'a'\n\n{job.CHAINED}\n\n{TRACE}OSError: [Errno 28] full: 'b c'\n\n"
            f"{job.CHAINED}\n\n{TRACE}ray.exceptions.UserCodeException: failed.\nTo change: retry.",
            "OSError: [Errno 28] full: 'b c'",
        ),
    ],
)
def test_what_a_worker_raised_is_said_in_one_line(text: str, expected: str) -> None:
    assert job._innermost(ray.exceptions.RayError(text)) == expected


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray, about its own settings
def test_no_step_waits_for_all_of_the_one_before(
    quick_config: Callable[..., RunConfig], run: RunDirectory
) -> None:
    """Ray's steps that do are its all-to-all operators: sorts, shuffles, counted repartitions."""
    from ray.data._internal.execution.operators.base_physical_operator import AllToAllOperator
    from ray.data._internal.logical.optimizers import get_execution_plan

    def steps(dataset: ray.data.Dataset) -> list[object]:
        return list(get_execution_plan(dataset._logical_plan)[0].dag.post_order_iter())

    write_table_atomic(run.pending, pa.table({"task_id": ["a", "b"]}))
    plan = ActorPlan(least=1, most=2, resources={"num_cpus": 0.5}, threads=1)
    ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level="ERROR")
    try:
        dataset = job._make_dataset(run, quick_config(), ".", plan, 2)
        ours, with_barrier = steps(dataset), steps(dataset.repartition(2))
    finally:
        ray.shutdown()
    assert len(ours) >= 3
    assert not any(isinstance(step, AllToAllOperator) for step in ours)
    assert any(isinstance(step, AllToAllOperator) for step in with_barrier)


def test_a_dead_actor_of_another_machine_whose_task_was_done_again_holds_up_no_stop(
    run: RunDirectory, make_table: Callable[..., pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody here can know that it is dead."""
    monkeypatch.setattr(job, "SESSION_POLL_SECONDS", 0.05)
    left = {"a": {"number": 1, "begun_at": ""}}
    actor = {"actor": "x", "host": "a spot machine", "pid": 1, "session": "s", "tasks": left}
    (run.attempts / "x.json").write_text(json.dumps(actor))
    told = job.Job(pending=1, session="s", stopping=lambda: True, take_signals=lambda: None)
    pulling = threading.Thread(target=time.sleep, args=(60,), daemon=True)
    pulling.start()
    monkeypatch.setattr(job, "STOP_GRACE_SECONDS", 0.5)
    begun = time.monotonic()
    job._await_rest(run, told, pulling)
    assert time.monotonic() - begun >= 0.5
    commit_rows(run, make_table(["a"], attempts=2))
    monkeypatch.setattr(job, "STOP_GRACE_SECONDS", 30.0)
    job._await_rest(run, told, pulling)
    assert time.monotonic() - begun < 20
