from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ray_util = pytest.importorskip("ray.autoscaler._private.util")

ROOT = Path(__file__).parent.parent
FILE = ROOT / "cluster.yaml"


@pytest.fixture
def cluster() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return config


@pytest.fixture
def prepared(cluster: dict[str, Any]) -> dict[str, Any]:
    """As Ray completes it before it launches anything."""
    config: dict[str, Any] = ray_util.prepare_config(copy.deepcopy(cluster))
    ray_util.validate_config(config)
    return config


def test_ray_accepts_the_file_and_its_validator_would_refuse_another(
    prepared: dict[str, Any],
) -> None:
    prepared["available_node_types"]["head"]["spot"] = True
    with pytest.raises(jsonschema.ValidationError):
        ray_util.validate_config(prepared)


def test_the_head_is_on_demand_and_runs_no_work(prepared: dict[str, Any]) -> None:
    head = prepared["available_node_types"][prepared["head_node_type"]]
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert head["max_workers"] == 0
    assert "InstanceMarketOptions" not in head["node_config"]
    (start,) = [c for c in prepared["head_start_ray_commands"] if "ray start" in c]
    assert "--num-cpus=0 --num-gpus=0" in start


def test_spot_workers_come_first_and_on_demand_ones_after(prepared: dict[str, Any]) -> None:
    types = prepared["available_node_types"]
    workers = {name: kind for name, kind in types.items() if name != prepared["head_node_type"]}
    by_priority = sorted(workers.values(), key=lambda kind: -kind["priority"])
    markets = [kind["node_config"].get("InstanceMarketOptions", {}) for kind in by_priority]
    assert markets == [{"MarketType": "spot"}, {}]
    spot, on_demand = by_priority
    assert spot["priority"] > on_demand["priority"]
    assert spot["resources"]["GPU"] >= 1
    # Ray looks at the fit before the priority.
    assert spot["resources"] == on_demand["resources"]
    assert on_demand["min_workers"] >= 1
    assert max(spot["max_workers"], on_demand["max_workers"]) <= prepared["max_workers"]


def test_with_roles_no_worker_has_that_of_the_head() -> None:
    """Which may start machines; workers take all else from its settings."""
    text = FILE.read_text(encoding="utf-8")
    filled_in = yaml.safe_load(re.sub(r"# (IamInstanceProfile: \{.*?\})", r"\1", text))
    types = filled_in["available_node_types"]
    roles = {
        name: kind["node_config"]["IamInstanceProfile"]["Name"] for name, kind in types.items()
    }
    head = roles.pop(filled_in["head_node_type"])
    assert head == "texsynth-head"
    assert set(roles.values()) == {"texsynth-worker"}


def test_every_node_installs_the_ray_that_is_tested(prepared: dict[str, Any]) -> None:
    (pinned,) = re.findall(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)
    for node in ("head", "worker"):
        commands = "\n".join(prepared[f"{node}_setup_commands"])
        assert re.findall(r"ray\[[a-z,]+\]==([^'\s]+)", commands) == [pinned]
        assert "ray-wheels" not in commands


def test_every_node_gets_the_checkout_and_the_weights(prepared: dict[str, Any]) -> None:
    (target,) = prepared["file_mounts"]
    assert target == "/home/ubuntu/texsynth"
    for node in ("head", "worker"):
        commands = prepared[f"{node}_setup_commands"]
        install = next(i for i, c in enumerate(commands) if "/texsynth[s3]" in c)
        weights = next(i for i, c in enumerate(commands) if "texsynth weights get imagenet" in c)
        assert install < weights
        assert "TEXSYNTH_CACHE=" in commands[weights]
        assert any("TEXSYNTH_CACHE=" in c and ".bashrc" in c for c in commands)
