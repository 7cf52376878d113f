"""Asks every node of a cluster what it has, and lets one of each kind make a texture."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.cluster.connection import connect
from pipeline.cluster.probe import (
    NodeReport,
    Outcome,
    Token,
    probe_node,
    read_clock,
    try_texture,
)
from pipeline.cluster.verdict import CheckedNode, Clock, ClusterReport
from pipeline.config import RunConfig
from pipeline.rundir import write_json_atomic
from pipeline.storage import as_path, sorted_glob

CLOCK_SECONDS = 30.0
"""That a node may take to say what time it is."""
ACCELERATOR = "accelerator_type:"
"""Before the name of a GPU among what Ray says that a node has."""


@dataclass(frozen=True, kw_only=True)
class CheckPlan:
    """What is asked of the nodes.

    Attributes:
        config: of the run that is to be.
        out: its run directory; None leaves that check out.
        root: of the manifest's paths.
        task: one row of it; None makes the trial with noise.
        timeout_s: for the answers of all nodes together, and for all trials.
    """

    config: RunConfig
    out: str | None
    root: str
    task: pa.Table | None
    timeout_s: float


def check_cluster(address: str, plan: CheckPlan) -> ClusterReport:
    """Connect, ask, and take everything away again.

    Args:
        address: of the cluster.
        plan: what is asked.

    Raises:
        ConnectionError: There is no cluster there, or not with this Ray and Python.
    """
    begun_here = not ray.is_initialized()
    if begun_here:
        connect(address, log_to_driver=False)
    try:
        with _token(plan.out) as token:
            return _ask(plan, token)
    finally:
        if begun_here:
            ray.shutdown()


def _ask(plan: CheckPlan, token: Token | None) -> ClusterReport:
    nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    driver = probe_node("driver-too", plan.config.weights, token)
    ordered = sorted(nodes.items(), key=lambda item: (item[1]["NodeManagerAddress"], item[0]))
    checked = {node_id: _describe(node, plan.config) for node_id, node in ordered}
    reports = _gather(
        {n: _on(n, probe_node).remote(n, plan.config.weights, token) for n in checked},
        plan.timeout_s,
    )
    for node_id, report in reports.items():
        if isinstance(report, NodeReport):
            checked[node_id] = replace(
                checked[node_id],
                report=report,
                clock=_ask_clock(node_id),
                returned=None if token is None else _has_written(token, node_id),
            )
        else:
            checked[node_id] = replace(checked[node_id], error=report)
    return ClusterReport(driver=driver, nodes=list(_with_trials(checked, plan).values()))


def _describe(node: dict[str, Any], config: RunConfig) -> CheckedNode:
    """A node as Ray lists it."""
    resources = node["Resources"]
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    names = [key.removeprefix(ACCELERATOR) for key in resources if key.startswith(ACCELERATOR)]
    kind = f"{cpus:g} CPU" + (f", {gpus:g} GPU" if gpus else "") + "".join(f" {n}" for n in names)
    works = gpus >= 1 if config.device == "cuda" else cpus > 0 or gpus >= 1
    return CheckedNode(
        name=f"{node['NodeManagerAddress']} ({node['NodeID'][:6]})",
        kind=kind,
        gpus=gpus,
        works=works,
    )


def _with_trials(checked: dict[str, CheckedNode], plan: CheckPlan) -> dict[str, CheckedNode]:
    """Let the first node of each kind that has answered make a texture."""
    chosen: dict[str, str] = {}
    for node_id, node in checked.items():
        if node.works and node.report is not None:
            chosen.setdefault(node.kind, node_id)
    pending = {}
    for node_id in chosen.values():
        gpu = checked[node_id].gpus >= 1 and plan.config.device != "cpu"
        # As an actor would ask: Ray shows a task only the GPUs that it has asked for.
        remote = _on(node_id, try_texture, num_gpus=1 if gpu else 0)
        pending[node_id] = remote.remote(plan.config, plan.root, plan.task, gpu=gpu)
    trials = _gather(pending, plan.timeout_s)
    return checked | {
        node_id: replace(
            checked[node_id],
            trial=trial if isinstance(trial, Outcome) else Outcome(error=str(trial)),
        )
        for node_id, trial in trials.items()
    }


def _on(node_id: str, function: Callable[..., Any], num_gpus: int = 0) -> Any:
    """The function as a task of this node and no other, which waits for nobody's CPU."""
    where = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(num_cpus=0, num_gpus=num_gpus, max_retries=0, scheduling_strategy=where)(
        function
    )


def _gather(pending: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """What each task has given, or in one line why it has not."""
    references = list(pending.values())
    if references:
        ray.wait(references, num_returns=len(references), timeout=timeout_s)
    found: dict[str, Any] = {}
    for node_id, reference in pending.items():
        try:
            found[node_id] = ray.get(reference, timeout=0)
        except ray.exceptions.GetTimeoutError:
            ray.cancel(reference, force=True)
            found[node_id] = f"none in {timeout_s:g} s; are its GPUs in use?"
        except ray.exceptions.RayError as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            found[node_id] = lines[-1].strip() if lines else repr(error)
    return found


def _ask_clock(node_id: str) -> Clock | None:
    """Of a node whose worker has just been busy, so that the answer is quick; None if it is not."""
    asked = time.time()
    answer = _gather({node_id: _on(node_id, read_clock).remote()}, CLOCK_SECONDS)[node_id]
    return Clock.of(asked, time.time(), answer) if isinstance(answer, float) else None


@contextlib.contextmanager
def _token(out: str | None) -> Iterator[Token | None]:
    """The driver's file in the run directory; whatever was written there goes at the end."""
    if out is None:
        yield None
        return
    path = as_path(out)
    path = path.absolute()
    token = Token(out=str(path), key=secrets.token_hex(4))
    made = [p for p in (path, *path.parents) if not p.exists()] if isinstance(path, Path) else []
    path.mkdir(parents=True, exist_ok=True)
    try:
        write_json_atomic(path / token.name("driver"), {"key": token.key})
        yield token
    finally:
        for file in sorted_glob(path, token.name("*")):
            file.unlink(missing_ok=True)
        # Unless somebody else has put something there meanwhile.
        with contextlib.suppress(OSError):
            for folder in made:
                folder.rmdir()


def _has_written(token: Token, node_id: str) -> bool:
    return (as_path(token.out) / token.name(node_id)).exists()
