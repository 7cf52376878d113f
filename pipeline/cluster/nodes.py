"""The nodes of the cluster, and which of them are about to go."""

from __future__ import annotations

from collections.abc import Collection

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
