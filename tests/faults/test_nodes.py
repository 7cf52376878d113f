"""Clusters of several Ray nodes on this machine, whose nodes come, go, are drained, or are missing.

docs/reliability.md has a line for every fault; test_page.py compares the two.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray

from pipeline import job
from pipeline.cluster.nodes import list_nodes
from pipeline.config import RunConfig
from pipeline.placement import plan_actors
from pipeline.rundir import RunDirectory, write_table_atomic
from pipeline.status import load_status

MakeStory = Callable[..., Any]

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(600)]

RAY = str(Path(sys.executable).with_name("ray"))
OBJECT_STORE_BYTES = 80 * 2**20
"""About the least that Ray takes."""
SLOWLY = {"evaluations": 100, "device": "cpu"}
"""A texture takes about a second, so that there is a middle of the run."""
ROWS = {"before": 0, "middle": 2}
"""Committed rows after which a node goes, by phase."""
PATIENCE_SECONDS = 300.0
"""On a busy machine a cluster takes minutes for what takes seconds on an idle one."""


class Nodes:
    """Ray nodes of two CPUs each beside a head that runs no work."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "object_store_memory": OBJECT_STORE_BYTES}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes: list[Any] = []

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def add(self, *, gpus: int = 0) -> Any:
        """One more node; its GPUs are Ray's only, none is there."""
        node = self.cluster.add_node(
            num_cpus=2, num_gpus=gpus, object_store_memory=OBJECT_STORE_BYTES, wait=False
        )
        self.nodes.append(node)
        return node

    def at_work(self, story: Any) -> list[Any]:
        """The node of every actor that has a task in flight."""
        actors = [actor for actor in load_actors(story) if actor["tasks"]]
        parents = [parent_of(actor["pid"]) for actor in actors]
        return [
            node
            for parent in parents
            for node in self.nodes
            if node.all_processes["raylet"][0].process.pid == parent
        ]

    def take_one_at_work(self, story: Any) -> Any:
        """A node whose actor has a task in flight; from here on it is the test's."""
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while not (found := self.at_work(story)):
            assert time.monotonic() < give_up_at
            time.sleep(0.01)
        self.nodes.remove(found[0])
        return found[0]

    def lose(self, story: Any) -> None:
        """End a node at work, by SIGKILL."""
        self.cluster.remove_node(self.take_one_at_work(story), allow_graceful=False)

    def drain(self, story: Any) -> None:
        """Announce the end of a node at work, as an autoscaler does that hears of a preemption."""
        node = self.take_one_at_work(story)
        words = ["--node-id", node.node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
        more = ["--reason-message", "spot", "--deadline-remaining-seconds", "120"]
        command = [RAY, "drain-node", "--address", self.address, *words, *more]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr


def load_actors(story: Any) -> list[dict[str, Any]]:
    """What the actors have in flight, by their files."""
    found = []
    for path in (story.out / "attempts").glob("*.json"):
        with contextlib.suppress(FileNotFoundError):
            found.append(json.loads(path.read_text()))
    return found


def parent_of(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except FileNotFoundError:
        return None


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    nodes = Nodes()
    yield nodes
    nodes.cluster.shutdown()


class Running:
    """A `texsynth run` in a process of its own, whose output is in files."""

    def __init__(self, story: Any, address: str | None = None) -> None:
        self.story = story
        words = [] if address is None else [f"--address={address}"]
        self.output = story.folder / "output.txt"
        with self.output.open("w") as file:
            self.process = story.start(*story.command(*words), output=file)

    def wait_for(self, what: str, holds: Callable[[], bool]) -> None:
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while not holds():
            assert self.process.poll() is None, f"ended before {what}: {self.said()}"
            assert time.monotonic() < give_up_at, f"not {what}: {self.said()}"
            time.sleep(0.05)

    def end(self) -> int:
        try:
            return int(self.process.wait(PATIENCE_SECONDS))
        finally:
            self.process.kill()

    def said(self) -> str:
        return str(self.output.read_text())

    def at_work(self, rows: int) -> bool:
        """Whether so many rows are committed and a texture is in the making."""
        shards = list((self.story.out / "shards").glob("*.parquet"))
        return len(shards) >= rows and any(actor["tasks"] for actor in load_actors(self.story))


def events(story: Any, name: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (story.out / "log.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == name]


def assert_all_ok(story: Any, *, attempts: int, variations: int = 1) -> None:
    rows = story.assert_finished(variations=variations).values()
    assert {row["status"] for row in rows} == {"ok"}
    assert {row["attempts"] for row in rows} <= set(range(1, attempts + 1))


@pytest.mark.parametrize(
    "phase",
    [
        pytest.param("before", id="node-lost-before", marks=pytest.mark.slow),
        pytest.param("middle", id="node-lost-middle"),
    ],
)
def test_nodes_come_one_is_lost_and_another_comes(
    make_story: MakeStory, nodes: Nodes, phase: str
) -> None:
    """A run that begins on a head alone: it waits, says so, and works as soon as it can."""
    story = make_story(**SLOWLY, actors=2)
    running = Running(story, nodes.address)
    running.wait_for("waiting", lambda: "waiting for a node with CPUs; the cl" in running.said())
    nodes.add()
    nodes.add()
    running.wait_for("at work", lambda: running.at_work(ROWS[phase]))
    nodes.lose(story)
    nodes.add()
    assert running.end() == 0, running.said()
    assert_all_ok(story, attempts=2)
    assert "actors on CPUs" in running.said()


@pytest.mark.slow
def test_a_lost_node_that_nobody_replaces_costs_time_only(
    make_story: MakeStory, nodes: Nodes
) -> None:
    """Its actor has no place until the other has done all other blocks and makes room."""
    story = make_story(**SLOWLY, actors=2, variations=3)
    nodes.add()
    nodes.add()
    running = Running(story, nodes.address)
    running.wait_for("at work", lambda: running.at_work(2))
    nodes.lose(story)
    assert running.end() == 0, running.said()
    assert_all_ok(story, attempts=2, variations=3)
    assert len(events(story, "block")) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    "phase", [pytest.param(phase, id=f"node-drained-{phase}") for phase in ROWS]
)
def test_a_node_that_is_drained_is_left_in_order(
    make_story: MakeStory, nodes: Nodes, phase: str
) -> None:
    # The command takes a second or two: so long both actors must have something to do.
    story = make_story(**SLOWLY, actors=2, variations=3)
    for _ in range(3):
        nodes.add()
    running = Running(story, nodes.address)
    running.wait_for("at work", lambda: running.at_work(ROWS[phase]))
    nodes.drain(story)
    assert running.end() == 0, running.said()
    # No death, so no second attempt.
    assert_all_ok(story, attempts=1, variations=3)
    (left,) = events(story, "actor_left")
    assert re.fullmatch(r"node \w+ is being drained", left["reason"])
    assert left["tasks"]


@pytest.mark.slow
def test_an_actor_that_gets_sigterm_leaves_in_order(make_story: MakeStory) -> None:
    story = make_story(**SLOWLY, actors=1)
    running = Running(story)
    running.wait_for("at work", lambda: running.at_work(0))
    (actor,) = load_actors(story)
    os.kill(actor["pid"], signal.SIGTERM)
    assert running.end() == 0, running.said()
    assert_all_ok(story, attempts=1)
    (left,) = events(story, "actor_left")
    assert left["reason"] == f"process {actor['pid']} got SIGTERM"


@pytest.mark.slow
def test_a_head_alone_ends_the_run_after_a_while(make_story: MakeStory, nodes: Nodes) -> None:
    story = make_story(device="cuda")
    ended = story.elsewhere(
        *story.command(f"--address={nodes.address}", "--wait-for-workers=3", "--actors=1:2")
    )
    assert ended.code == 2, ended
    assert "waiting for a node with a GPU; the cluster has 1 node with 0 CPUs" in ended.output
    assert "error: no node for an actor in 3 s: expected a node with a GPU" in ended.errors
    assert "Traceback" not in ended.errors
    assert load_status(RunDirectory(story.out)).state == "incomplete"
    # Nodes without GPUs are of no use unless somebody says so.
    nodes.add()
    time.sleep(5)
    anywhere = make_story()
    refused = anywhere.elsewhere(*anywhere.command(f"--address={nodes.address}"))
    assert refused.code == 2
    assert "no node of the cluster has a GPU, expected cpu, to synth" in refused.errors


@pytest.mark.slow
def test_an_elastic_pool_grows_with_its_cluster(make_story: MakeStory, nodes: Nodes) -> None:
    """From one actor to as many as the first node has cores, then onto the second node."""
    story = make_story(**SLOWLY, actors="1:3", variations=8)
    nodes.add()
    running = Running(story, nodes.address)
    running.wait_for("as large as the node", lambda: len(nodes.at_work(story)) == 2)
    assert "cluster: 2 nodes with 2 CPUs and 0 GPUs; 1 to 3 actors on CPUs" in running.said()
    nodes.add()
    running.wait_for("on both nodes", lambda: len(set(nodes.at_work(story))) == 2)
    assert len(load_actors(story)) <= 3
    running.process.terminate()
    assert running.end() == 128 + signal.SIGTERM, running.said()


@pytest.mark.slow
def test_a_cluster_that_ray_start_has_begun(make_story: MakeStory, tmp_path: Path) -> None:
    """As on machines of one's own: a head and a worker by `ray start`, the run by `--address`."""
    story = make_story(device="cpu", actors=1)
    # A token that some earlier Ray has left in the home folder would be asked for.
    story.environment["RAY_AUTH_MODE"] = "disabled"
    story.environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = "5"
    port = free_port()
    begin = [RAY, "start", "--block", "--disable-usage-stats"]
    store = f"--object-store-memory={OBJECT_STORE_BYTES}"
    head = [f"--port={port}", "--head", "--num-cpus=0", "--include-dashboard=false", store]
    worker = [f"--address=127.0.0.1:{port}", "--num-cpus=2", store]
    processes = []
    try:
        for words in (head, worker):
            with (tmp_path / f"ray{len(processes)}.txt").open("w") as file:
                command = [*begin, *words]
                process = subprocess.Popen(
                    command, stdout=file, stderr=file, env=story.environment, start_new_session=True
                )
            processes.append(process)
            wait_for_port(port)
        running = Running(story, f"127.0.0.1:{port}")
        assert running.end() == 0, running.said()
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(60)
    assert_all_ok(story, attempts=1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int) -> None:
    give_up_at = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < give_up_at
            time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of Ray
def test_nodes_without_a_gpu_prepare_and_do_not_synthesise(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real job places actors that only say where they are; GPUs are numbers of Ray's."""

    class ActorThatNamesItsNode:
        def __init__(self, device: str, **more: Any) -> None:
            self.device = device

        def __call__(self, tasks: pa.Table) -> pa.Table:
            where = [ray.get_runtime_context().get_node_id()] * len(tasks)
            devices = [self.device] * len(tasks)
            return tasks.append_column("node", [where]).append_column("device", [devices])

    monkeypatch.setattr(job, "MeteredActor", ActorThatNamesItsNode)
    monkeypatch.setattr(job, "prepare_block", lambda tasks, **more: tasks)
    run = RunDirectory(tmp_path / "run")
    run.create()
    write_table_atomic(run.pending, pa.table({"task_id": [str(n) for n in range(40)]}))
    with_gpus = [nodes.add(gpus=count) for count in (0, 1, 0, 1)][1::2]
    ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
    try:
        nodes.cluster.wait_for_nodes()
        config = RunConfig(address=nodes.address, size=32, lanes=1)
        plan = plan_actors(config, list_nodes(), 40)
        rows = job._make_dataset(run, config, ".", plan, 40).take_all()
    finally:
        ray.shutdown()
    assert (plan.most, plan.resources) == (2, {"num_gpus": 1})
    assert len({row["task_id"] for row in rows}) == len(rows) == 40
    assert {row["device"] for row in rows} == {"cuda"}
    assert {row["node"] for row in rows} <= {node.node_id for node in with_gpus}
