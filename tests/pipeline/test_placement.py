from __future__ import annotations

from typing import Any

import pytest

from pipeline.capacity import estimate_actor_bytes
from pipeline.config import RunConfig
from pipeline.placement import (
    SPARE_CPUS,
    ActorPlan,
    Node,
    choose_rows_per_block,
    describe_plan,
    plan_actors,
)
from texsynth import ConfigError, load_network
from texsynth.levels import compute_levels
from texsynth.memory import MOST_LANES, choose_lanes

GIB = 2.0**30
MANY = 10**6
"""Tasks, more than there are actors."""


def nodes_of(*cpus: float, gpus: float = 0.0) -> list[Node]:
    """Nodes with so many CPUs, the first of them with the GPUs."""
    return [
        Node(cpus=count, gpus=0.0 if number else gpus, memory_bytes=64 * GIB)
        for number, count in enumerate(cpus)
    ]


@pytest.mark.parametrize(
    ("values", "cpus", "gpus", "expected"),
    [
        ({}, [2.0], 0, (2, {"num_cpus": 0.5})),
        ({}, [16.0], 0, (16, {"num_cpus": 0.9375})),
        ({"actors": 1}, [2.0], 0, (1, {"num_cpus": 1})),
        ({"actors": 1}, [16.0], 0, (1, {"num_cpus": 15})),
        ({"actors": 2}, [2.0], 0, (2, {"num_cpus": 0.5})),
        ({"actors": 20}, [2.0], 0, (20, {"num_cpus": 0.05})),
        ({}, [16.0], 2, (2, {"num_gpus": 1})),
        ({"device": "cpu"}, [16.0], 2, (16, {"num_cpus": 0.9375})),
        ({"device": "cuda", "address": "auto"}, [4.0], 0, (1, {"num_gpus": 1})),
        ({"actors": 4, "address": "auto"}, [4.0], 1, (4, {"num_gpus": 1})),
    ],
)
def test_actors_always_leave_room_for_what_feeds_them(
    values: dict[str, Any], cpus: list[float], gpus: int, expected: tuple[int, dict[str, float]]
) -> None:
    config = RunConfig(**values)
    actors, resources = expected
    if "num_cpus" in resources and config.actors is None:
        # Where the number is ours, so is the memory that each gets.
        resources = resources | {"memory": estimate_actor_bytes(config)}
    plan = plan_actors(config, nodes_of(*cpus, gpus=gpus), MANY)
    assert (plan.least, plan.most, plan.resources) == (actors, actors, resources)
    if "num_cpus" in resources:
        assert actors * resources["num_cpus"] + SPARE_CPUS <= sum(cpus)


@pytest.mark.parametrize("actors", [None, 2, "1:8"])
def test_a_single_cpu_is_kept_for_what_feeds_the_actors(actors: Any) -> None:
    """Ray Data has tasks of a whole CPU; an actor that held some of the only one stopped them."""
    plan = plan_actors(RunConfig(actors=actors, size=32), nodes_of(1.0), MANY)
    assert plan.resources["num_cpus"] == 0
    # On a cluster an actor without a CPU could be put onto the head.
    on_cluster = RunConfig(address="auto", device="cpu", actors=actors, size=32)
    with pytest.raises(ConfigError, match="largest node has 1 CPUs, expected 2 on a node of a cl"):
        plan_actors(on_cluster, nodes_of(0.0, 1.0, 1.0), MANY)
    plan = plan_actors(on_cluster, nodes_of(0.0, 1.0, 2.0), MANY)
    assert 0 < plan.resources["num_cpus"] <= 1


@pytest.mark.parametrize("actors", [None, "2:100"])
def test_a_small_node_gets_no_more_actors_than_it_has_cores_for(actors: Any) -> None:
    nodes = [Node(cpus=64.0, memory_bytes=2.0**38), Node(cpus=4.0, memory_bytes=2.0**33)]
    config = RunConfig(address="auto", device="cpu", size=128, actors=actors)
    plan = plan_actors(config, nodes, MANY)
    assert (plan.least, plan.most) == ((68, 68) if actors is None else (2, 100))
    for node in nodes:
        by_cpu = node.cpus // plan.resources["num_cpus"]
        by_memory = node.memory_bytes // plan.resources["memory"]
        assert min(by_cpu, by_memory) >= node.cpus


@pytest.mark.parametrize(
    ("actors", "expected", "on_a_node"),
    [(None, (12, 12, 1), 4), ("1:100", (1, 100, 1), 4), (3, (3, 3, 4), 1), (5, (5, 5, 2), 2)],
)
def test_on_a_cluster_no_node_gets_more_actors_than_planned_whatever_nodes_go(
    actors: Any, expected: tuple[int, int, int], on_a_node: int
) -> None:
    config = RunConfig(address="auto", device="cpu", size=32, actors=actors)
    plan = plan_actors(config, nodes_of(4.0, 4.0, 4.0, 0.0), MANY)
    assert (plan.least, plan.most, plan.threads) == expected
    assert 64 * GIB // plan.resources["memory"] == on_a_node
    assert 4.0 - on_a_node * plan.resources["num_cpus"] >= SPARE_CPUS


def test_there_are_no_more_actors_than_tasks_and_few_have_more_threads() -> None:
    def plan(**values: Any) -> ActorPlan:
        return plan_actors(RunConfig(size=32, **values), nodes_of(8.0, gpus=2), 2)

    assert plan(device="cpu").most == plan(device="cuda").most == 2
    assert (plan(device="cpu").threads, plan(device="cuda").threads) == (4, None)
    elastic = plan(device="cpu", actors="1:8")
    assert (elastic.least, elastic.most) == (1, 2)


def test_more_actors_than_local_gpus_would_wait_for_ever() -> None:
    for actors in (2, "1:2"):
        with pytest.raises(ConfigError, match=f"actors is {actors}, expected at most 1"):
            plan_actors(RunConfig(actors=actors), nodes_of(4.0, gpus=1), MANY)


def test_nodes_without_a_gpu_get_no_synthesis_unless_that_is_asked_for() -> None:
    cpu_nodes = nodes_of(16.0, 16.0)
    with pytest.raises(ConfigError, match="no node of the cluster has a GPU, expected cpu, to syn"):
        plan_actors(RunConfig(address="auto"), cpu_nodes, MANY)
    assert not plan_actors(RunConfig(address="auto", device="cpu"), cpu_nodes, MANY).on_gpu
    mixed = plan_actors(RunConfig(address="auto"), nodes_of(4.0, 64.0, gpus=1), MANY)
    with_gpu, without = nodes_of(4.0, 64.0, gpus=1)
    assert (mixed.on_gpu, mixed.fits(with_gpu), mixed.fits(without)) == (True, True, False)
    assert not mixed.fits(Node())


def test_what_the_actors_are_to_be_is_said_in_one_line() -> None:
    plan = ActorPlan(least=1, most=8, resources={"num_gpus": 1})
    said = describe_plan(plan, nodes_of(0.0, 4.0, gpus=1))
    assert said == "cluster: 2 nodes with 4 CPUs and 1 GPUs; 1 to 8 actors with a GPU each"
    fixed = ActorPlan(least=2, most=2, resources={"num_cpus": 1})
    assert describe_plan(fixed, nodes_of(4.0)).endswith("4 CPUs and 0 GPUs; 2 actors on CPUs")


@pytest.mark.parametrize(
    ("lanes", "size", "pending", "actors", "gpu", "expected"),
    [
        (8, 256, 6400, 1, False, 64),
        ("auto", 256, 320, 1, False, 32),
        ("auto", 128, 5120, 1, True, 512),
        ("auto", 256, 5115, 1, True, 341),
        ("auto", 1024, 6400, 1, True, 64),
        (8, 256, 20, 4, True, 5),
        (8, 256, 3, 4, True, 1),
        (4, 64, 40, 2, False, 20),
        (4, 64, 80, 2, False, 20),
        (4, 64, 1, 1, False, 1),
    ],
)
def test_blocks_are_some_lane_fulls_and_as_many_for_every_actor(
    lanes: Any, size: int, pending: int, actors: int, gpu: bool, expected: int
) -> None:
    plan = ActorPlan(least=actors, most=actors, resources={"num_gpus": 1} if gpu else {})
    assert choose_rows_per_block(RunConfig(lanes=lanes, size=size), pending, plan) == expected


def test_every_kind_of_gpu_gets_lanes_to_fit_it_and_blocks_suit_the_largest() -> None:
    config = RunConfig(size=256)
    synthesis, network = config.resolve_synthesis(), load_network("random:0")
    sizes = compute_levels(synthesis, 256, 256)
    lanes = [
        choose_lanes(network, synthesis, sizes, free_bytes=int(gib * GIB)) for gib in (4, 16, 80)
    ]
    assert 1 <= lanes[0] < lanes[1] < lanes[2] <= MOST_LANES
    nodes = [Node(gpus=1.0, gpu_kind=kind) for kind in ("T4", "A10G", "H100")]
    plan = plan_actors(config, nodes, MANY)
    assert choose_rows_per_block(config, MANY, plan) >= lanes[2]


def test_blocks_are_short_where_the_others_would_wait_for_the_slowest() -> None:
    def lane_fulls(config: RunConfig, *kinds: str) -> float:
        nodes = [Node(gpus=2.0, gpu_kind=kind) for kind in kinds]
        return choose_rows_per_block(config, MANY, plan_actors(config, nodes, MANY)) / 8

    fixed = RunConfig(lanes=8, size=128, address="auto", device="cuda", actors=4)
    assert 7 < lane_fulls(fixed, "A10G", "A10G") <= 8
    assert 1 < lane_fulls(fixed, "A10G", "H100") <= 2
    assert 1 < lane_fulls(fixed.model_copy(update={"actors": "1:4"}), "A10G") <= 2
