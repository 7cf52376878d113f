"""The nodes of the cluster, and which of them are about to go."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import ray
from ray._private.state import state as global_state

from pipeline.placement import Node


def list_nodes() -> list[Node]:
    """The nodes that are there and are to stay, the head included."""
    draining = find_draining_nodes()
    return [
        Node(
            cpus=node["Resources"].get("CPU", 0.0),
            gpus=node["Resources"].get("GPU", 0.0),
            gpu_kind=_find_gpu_kind(node["Resources"]),
            memory_bytes=node["Resources"].get("memory", 0.0),
        )
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] not in draining
    ]


def find_draining_nodes() -> Collection[str]:
    """Ids of the nodes that take no more work, because somebody has announced their end.

    Ray has no public name for it (2.60); its own Train and Data libraries ask in this way.
    """
    ids: Collection[str] = global_state.get_draining_nodes().keys()
    return ids


def _find_gpu_kind(resources: Mapping[str, float]) -> str | None:
    """Ray gives a node with GPUs a resource that is named after their kind."""
    for name in resources:
        prefix, _, kind = name.partition(":")
        if prefix == "accelerator_type":
            return kind
    return None
