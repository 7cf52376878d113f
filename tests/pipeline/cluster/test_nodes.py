from __future__ import annotations

from typing import Any

import pytest

from pipeline.cluster import nodes
from pipeline.placement import Node


def test_nodes_are_those_that_are_to_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = {"CPU": 8.0, "GPU": 2.0, "memory": 9.0, "accelerator_type:A10G": 1.0, "node:a": 1.0}

    def as_ray(name: str, resources: dict[str, float], *, alive: bool = True) -> dict[str, Any]:
        return {"NodeID": name, "Alive": alive, "Resources": resources}

    listed = [as_ray("head", {"memory": 5.0}), as_ray("gpu", gpu), as_ray("draining", gpu)]
    monkeypatch.setattr(nodes.ray, "nodes", lambda: [*listed, as_ray("dead", {}, alive=False)])
    monkeypatch.setattr(nodes.global_state, "get_draining_nodes", lambda: {"draining": 0})
    assert nodes.list_nodes() == [
        Node(memory_bytes=5.0),
        Node(cpus=8.0, gpus=2.0, gpu_kind="A10G", memory_bytes=9.0),
    ]
