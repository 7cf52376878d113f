"""The wait for workers, with nodes that the test lets come and go."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from ray.exceptions import RayError

from pipeline.cluster import workers
from pipeline.cluster.workers import WorkersError, WorkerWatch
from pipeline.config import RunConfig
from pipeline.placement import ActorPlan, Node
from pipeline.rundir import RunDirectory
from pipeline.runlog import RunLog

HEAD = Node(memory_bytes=2.0**33)
ON_CPUS, ON_GPU = Node(cpus=8.0), Node(cpus=8.0, gpus=1.0)


class Cluster:
    """Nodes by the number of looks at them, a clock that sleeping moves, and what was asked for."""

    def __init__(self, *nodes: list[Node]) -> None:
        self.nodes, self.now = list(nodes), 0.0
        self.requests: list[list[dict[str, float]]] = []
        self.said: list[str] = []

    def look(self) -> list[Node]:
        return self.nodes.pop(0) if len(self.nodes) > 1 else self.nodes[0]

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def make_watch(
    monkeypatch: pytest.MonkeyPatch, run: RunDirectory
) -> Callable[..., tuple[Cluster, WorkerWatch]]:
    def make(*nodes: list[Node], **values: Any) -> tuple[Cluster, WorkerWatch]:
        cluster = Cluster(*nodes)
        monkeypatch.setattr(workers, "list_nodes", cluster.look)
        monkeypatch.setattr(workers.time, "sleep", cluster.sleep)
        monkeypatch.setattr(workers.time, "monotonic", lambda: cluster.now)
        monkeypatch.setattr(
            workers, "request_resources", lambda bundles: cluster.requests.append(bundles)
        )
        config = RunConfig(address="auto", **values)
        return cluster, WorkerWatch(config, cluster.said.append, RunLog(run))

    return make


def test_workers_that_are_there_are_not_waited_for(make_watch: Any) -> None:
    cluster, watch = make_watch([HEAD, ON_GPU])
    assert watch.await_workers(lambda: False) == [HEAD, ON_GPU]
    assert (cluster.now, cluster.said, cluster.requests) == (0.0, [], [])


@pytest.mark.parametrize(
    ("device", "wanted", "bundle", "worker"),
    [
        ("cuda", "a node with a GPU", {"GPU": 1}, ON_GPU),
        ("cpu", "a node with CPUs", {"CPU": 2}, ON_CPUS),
        (None, "a node with a GPU or CPUs", {"GPU": 1}, ON_CPUS),
    ],
)
def test_a_head_alone_waits_says_for_what_and_asks_the_autoscaler(
    make_watch: Any,
    run: RunDirectory,
    device: str,
    wanted: str,
    bundle: dict[str, int],
    worker: Node,
) -> None:
    cluster, watch = make_watch(*[[HEAD]] * 40, [HEAD, worker], device=device, actors="2:4")
    assert watch.await_workers(lambda: False) == [HEAD, worker]
    first, *others, last = cluster.said
    assert first.startswith(
        f"waiting for {wanted}; the cluster has 1 node with 0 CPUs and 0 GPUs. Start workers (`ray"
    )
    assert "ends in 30 min 0 s, --wait-for-workers" in first
    # Every half minute, of 80 s.
    assert [line[:12] for line in others] == ["waiting for "] * 2
    assert last.startswith("workers have come: 2 nodes with 8 CPUs")
    # Taken back when they are there: or an autoscaler would keep them for ever.
    assert cluster.requests == [[bundle] * 2, []]
    events = [json.loads(line)["event"] for line in run.log.read_text().splitlines()]
    assert events == ["waiting_for_workers"] * 3 + ["workers_came"]


def test_nodes_without_a_gpu_do_not_end_a_wait_for_one(make_watch: Any) -> None:
    _, watch = make_watch([HEAD], [HEAD, ON_CPUS], [HEAD, ON_CPUS, ON_GPU], device="cuda")
    assert ON_GPU in watch.await_workers(lambda: False)


def test_the_wait_has_an_end_that_says_what_to_do(make_watch: Any) -> None:
    cluster, watch = make_watch([HEAD], device="cuda", wait_for_workers=61.0)
    with pytest.raises(WorkersError) as caught:
        watch.await_workers(lambda: False)
    assert str(caught.value).startswith(
        "no node for an actor in 1 min 1 s: expected a node with a GPU, got 1 node with 0 CPUs and "
        "0 GPUs; start workers, or give more time with --wait-for-workers"
    )
    assert 61.0 <= cluster.now < 61.0 + 2 * workers.LOOK_SECONDS
    assert cluster.requests[-1] == []


def test_a_signal_ends_the_wait(make_watch: Any) -> None:
    cluster, watch = make_watch([HEAD], device="cuda")
    assert watch.await_workers(lambda: cluster.now > 10) == [HEAD]
    assert cluster.requests[-1] == []


def test_the_last_worker_may_go_and_another_come(make_watch: Any) -> None:
    nodes = [[HEAD, ON_GPU], [HEAD], [HEAD, ON_CPUS], [HEAD, ON_GPU]]
    cluster, watch = make_watch(*nodes, device="cuda")
    fits = ActorPlan(least=1, most=1, resources={"num_gpus": 1}).fits
    assert [watch.look(fits) for _ in nodes] == [True, False, False, True]
    assert [line.partition(" ")[0] for line in cluster.said] == ["waiting", "workers"]


def test_a_run_that_has_lost_all_workers_for_good_ends(
    make_watch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, watch = make_watch([HEAD], device="cuda", wait_for_workers=5.0)
    monkeypatch.setattr(workers, "LOOK_SECONDS", 0.01)
    # Not the clock of the thread: its looks move it.
    monkeypatch.setattr(workers, "list_nodes", lambda: cluster.sleep(2.0) or cluster.look())
    with watch.watching(ActorPlan(least=1, most=1, resources={"num_gpus": 1})):
        # The clock and `sleep` are the test's: this waits for real.
        pause = threading.Event()
        for _ in range(2000):
            if watch.error is not None:
                break
            pause.wait(0.01)
    assert isinstance(watch.error, WorkersError)


@pytest.mark.parametrize("error", [RayError("no answer"), RuntimeError("not connected")])
def test_a_head_that_does_not_answer_for_a_moment_is_asked_again(
    make_watch: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    _, watch = make_watch([HEAD, ON_GPU], device="cuda")
    looks: list[int] = []
    again = threading.Event()

    def look() -> list[Node]:
        looks.append(1)
        if len(looks) == 1:
            raise error
        again.set()
        return [HEAD, ON_GPU]

    monkeypatch.setattr(workers, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(workers, "list_nodes", look)
    with watch.watching(ActorPlan(least=1, most=1, resources={"num_gpus": 1})):
        assert again.wait(20.0)
    assert watch.error is None
