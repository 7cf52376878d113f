"""How many actors a run has on its machines, what each asks of Ray, and how long its blocks are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.capacity import count_cpu_actors, estimate_actor_bytes
from pipeline.config import RunConfig
from texsynth.config import ConfigError
from texsynth.memory import CPU_LANES, MOST_LANES

SPARE_CPUS = 1.0
"""Left to Ray Data's own tasks when actors run on CPUs: without a whole one nothing ever starts."""
LEAST_CLUSTER_CPUS = 2.0
"""Of a cluster's node that actors on CPUs are planned for: one to work with, one to spare."""
LANE_FULLS_PER_BLOCK = 8
"""Tasks of a block at most, in lanes: lanes are refilled within a block, so its tail runs on fewer.
A lost actor loses no more than what it has in flight, however long its block is."""
LANE_FULLS_PER_SHORT_BLOCK = 2
"""The same where actors are not alike: the others wait for the last block of the slowest."""
BLOCK_BYTES = 2**26
"""Pixels of a block at most, unless one lane-full has more; Ray Data splits what is twice that."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """What a machine has for actors.

    Attributes:
        cpus, gpus: As Ray counts them; 0 for a head that runs no work.
        gpu_kind: As Ray names it; None where it names none.
        memory_bytes: That actors may take.
    """

    cpus: float = 0.0
    gpus: float = 0.0
    gpu_kind: str | None = None
    memory_bytes: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ActorPlan:
    """The actors of a run.

    Attributes:
        least, most: How many there are to be; apart where the pool is elastic.
        resources: What each asks of Ray: a GPU, or a share of the CPUs, and maybe memory.
        threads: Of torch in each; None leaves them as they are.
        alike: Whether all work equally fast, and from the beginning.
    """

    least: int
    most: int
    resources: dict[str, float]
    threads: int | None = None
    alike: bool = True

    @property
    def on_gpu(self) -> bool:
        """Whether each actor has a GPU."""
        return "num_gpus" in self.resources

    def fits(self, node: Node) -> bool:
        """Whether an actor can be on a machine that has nothing else to do."""
        return (
            node.cpus >= self.resources.get("num_cpus", 0)
            and node.gpus >= self.resources.get("num_gpus", 0)
            and node.memory_bytes >= self.resources.get("memory", 0)
        )


def plan_actors(config: RunConfig, nodes: Sequence[Node], pending: int) -> ActorPlan:
    """How many actors there are to be, and what each asks of Ray.

    A GPU has one actor, whatever its kind: each chooses its lanes by the memory that it finds. On a
    cluster CPUs get actors only with device `cpu`; alone, a machine without a GPU takes its CPUs.

    Args:
        config: device, actors, and whether there is an address, so a cluster that may yet grow.
        nodes: that are there.
        pending: tasks; there are no more actors than these.

    Raises:
        ConfigError: if more GPUs are asked for than this machine has; or if a cluster has nodes
            without a GPU only, and nobody has said that they are to synthesise.
    """
    gpus = int(sum(node.gpus for node in nodes))
    least_cpus = 0.0 if config.address is None else LEAST_CLUSTER_CPUS
    workers = [node for node in nodes if node.cpus >= least_cpus]
    if config.device != "cpu" and (gpus or config.device is not None):
        least, most = config.actor_bounds or (max(gpus, 1),) * 2
        if config.address is None and most > gpus:
            raise ConfigError(
                f"actors is {config.actors}, expected at most {gpus}, one for each GPU here"
            )
        kinds = {node.gpu_kind for node in nodes if node.gpus}
        return ActorPlan(
            least=min(least, pending),
            most=min(most, pending),
            resources={"num_gpus": 1},
            alike=len(kinds) <= 1 and least == most,
        )
    if config.address is not None and config.device is None:
        raise ConfigError(
            "device is None and no node of the cluster has a GPU, expected cpu, to synthesise on"
            " CPUs, or cuda, to wait for GPUs"
        )
    if not workers:
        largest = max((node.cpus for node in nodes), default=0.0)
        raise ConfigError(
            f"the largest node has {largest:g} CPUs, expected {LEAST_CLUSTER_CPUS:g} on a node of"
            " a cluster for device cpu: one for an actor, one for what feeds it"
        )
    return _plan_cpu_actors(config, workers, pending)


def describe_plan(plan: ActorPlan, nodes: Sequence[Node]) -> str:
    """One line about a cluster's nodes and the actors that there are to be."""
    actors = f"{plan.least}" if plan.least == plan.most else f"{plan.least} to {plan.most}"
    noun = "actor" if plan.most == 1 else "actors"
    each = "with a GPU each" if plan.on_gpu else "on CPUs"
    return f"cluster: {describe_nodes(nodes)}; {actors} {noun} {each}"


def describe_nodes(nodes: Sequence[Node]) -> str:
    """How many nodes there are, with how many CPUs and GPUs together."""
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    noun = "node" if len(nodes) == 1 else "nodes"
    return f"{len(nodes)} {noun} with {cpus:g} CPUs and {gpus:g} GPUs"


def choose_rows_per_block(config: RunConfig, pending: int, plan: ActorPlan) -> int:
    """Some lane-fulls, such that every actor gets as many blocks as the others, all of one size.

    Args:
        config: lanes and size. What an actor on a GPU will choose by itself is not known yet: the
            most that any chooses is taken; with fewer lanes its blocks only last longer.
        pending: tasks.
        plan: of the actors. Where they are not alike blocks are short, for the sake of the end.
    """
    lanes = config.lanes
    if lanes == "auto":
        lanes = MOST_LANES if plan.on_gpu else CPU_LANES
    lane_fulls = LANE_FULLS_PER_BLOCK if plan.alike else LANE_FULLS_PER_SHORT_BLOCK
    most = max(lanes, min(lane_fulls * lanes, BLOCK_BYTES // (3 * config.size**2)))
    tasks_per_actor = math.ceil(pending / plan.most)
    blocks_per_actor = math.ceil(tasks_per_actor / most)
    return math.ceil(tasks_per_actor / blocks_per_actor)


def _plan_cpu_actors(config: RunConfig, workers: Sequence[Node], pending: int) -> ActorPlan:
    count = count_cpu_actors(config, [(node.cpus, node.memory_bytes) for node in workers])
    least, most = config.actor_bounds or (count, count)
    elastic = least < most
    on_a_node = math.ceil(most / len(workers))
    if config.actors is None or elastic:
        share = min(_spared_cpus(node) / max(1, int(node.cpus)) for node in workers)
        # Each has its memory reserved, so that none is put where only cores are left.
        memory = min(estimate_actor_bytes(config), int(max(n.memory_bytes for n in workers)))
        places = [max(1, int(node.cpus)) for node in workers]
    else:
        share = min(map(_spared_cpus, workers)) / on_a_node
        memory, places = 0, [on_a_node] * len(workers)
    if elastic or config.address is not None:
        # A pool that grows, or is to go on with fewer nodes, takes what is spared for its feeding,
        # and starves; what keeps it from that is memory, too much for one more on a node.
        each = [n.memory_bytes / (count + 0.5) for n, count in zip(workers, places, strict=True)]
        memory = max(memory, int(min(each)))
    # Ray takes fractions below 1 to four digits, and whole numbers above.
    share = math.floor(share) if share >= 1 else math.floor(1e4 * share) / 1e4
    resources = {"num_cpus": share, **({"memory": memory} if memory else {})}
    least, most = min(least, pending), min(most, pending)
    cores = int(min(node.cpus for node in workers))
    threads = 1 if elastic else max(1, cores // math.ceil(most / len(workers)))
    return ActorPlan(
        least=least, most=most, resources=resources, threads=threads, alike=not elastic
    )


def _spared_cpus(node: Node) -> float:
    """What a node has for actors; a machine with a single CPU has it for what feeds them."""
    return max(0.0, node.cpus - SPARE_CPUS)
