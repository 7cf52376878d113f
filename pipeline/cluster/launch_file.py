"""What is wrong with a `cluster.yaml`, before it starts any machine: by Ray's rules and by ours."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

Config = Mapping[str, Any]

PLACEHOLDER = re.compile(r"\b(?:ami|subnet|fs|sg)-0{8,}\b")
"""A name of AWS's with nothing but zeros, as in files to be filled in."""
PINNED_RAY = re.compile(r"\bray(?:\[[a-z,]+\])?==([\w.]+)")


class LaunchFileError(ValueError):
    """The file cannot be read as YAML."""


def check_launch_file(path: Path) -> list[str]:
    """One line for each thing that is wrong, for `ray up` or for a run of ours.

    Args:
        path: of a file for `ray up`; what is inside `node_config` only the provider knows.

    Raises:
        LaunchFileError: it is no YAML, or cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
        given = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise LaunchFileError(f"{path}: {error}") from error
    if not isinstance(given, dict):
        raise LaunchFileError(f"{path}: expected the settings of a cluster, as in cluster.yaml")
    try:
        config = prepare_config(copy.deepcopy(given))
        validate_config(config)
    except jsonschema.ValidationError as error:
        where = ".".join(map(str, error.absolute_path)) or "the file"
        return [f"Ray refuses it: {where}: {error.message}"]
    except (KeyError, ValueError, TypeError, AttributeError, NotImplementedError) as error:
        return [f"Ray refuses it: {type(error).__name__}: {error}"]
    return [
        *_node_type_problems(config, given),
        *_version_problems(config),
        *_placeholder_problems(given),
    ]


def _node_type_problems(config: Config, given: Config) -> Iterator[str]:
    types, head_name = config["available_node_types"], config["head_node_type"]
    explicit = given.get("available_node_types", {})
    for name in types:
        if not explicit.get(name, {}).get("resources"):
            yield f"{name} has no resources; give CPU and GPU, not to have them guessed"
    head = types[head_name]
    if any(head.get("resources", {}).get(kind, 0) for kind in ("CPU", "GPU")):
        yield f"{head_name}, the head, has resources for work, which would end with it; give 0"
    if _is_spot(head):
        yield f"{head_name}, the head, is a spot machine: when it is taken, the run ends"
    workers = {name: kind for name, kind in types.items() if name != head_name}
    if not any(kind.get("max_workers", 0) for kind in workers.values()):
        yield "no worker may be started: no other type than the head has max_workers"
    yield from _spot_problems(workers)


def _spot_problems(workers: Mapping[str, Config]) -> Iterator[str]:
    """Every spot type needs one with the same resources that nobody takes away."""
    for name, kind in workers.items():
        if not _is_spot(kind):
            continue
        fallback = {
            other: each
            for other, each in workers.items()
            if not _is_spot(each) and each.get("resources") == kind.get("resources")
        }
        if not fallback:
            yield f"{name} is spot, and no on-demand type has the same resources to fall back on"
        elif any(each.get("priority", 0) >= kind.get("priority", 0) for each in fallback.values()):
            yield f"{name} is spot and has no higher priority than {', '.join(sorted(fallback))}"


def _is_spot(kind: Config) -> bool:
    market: Any = kind.get("node_config", {}).get("InstanceMarketOptions", {})
    return bool(market.get("MarketType") == "spot")


def _version_problems(config: Config) -> Iterator[str]:
    for node in ("head", "worker"):
        commands = "\n".join(map(str, config.get(f"{node}_setup_commands", [])))
        pinned = set(PINNED_RAY.findall(commands))
        if not pinned:
            yield f"setup of the {node} pins no Ray: expected ray==... as on this machine"
        elif pinned != {ray.__version__}:
            yield (
                f"setup of the {node} installs ray {', '.join(sorted(pinned))}, this machine has "
                f"{ray.__version__}"
            )


def _placeholder_problems(given: Config) -> Iterator[str]:
    found = PLACEHOLDER.findall(yaml.safe_dump(given))
    for name in dict.fromkeys(found):
        yield f"{name} is a placeholder; fill in your own, as at every CHANGE"
