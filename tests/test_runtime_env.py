from __future__ import annotations

import fnmatch
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.job import STOP_GRACE_SECONDS

runtime_env = pytest.importorskip("ray.runtime_env")

ROOT = Path(__file__).parent.parent
FILE = ROOT / "deploy/runtime_env.yaml"


@pytest.fixture
def values() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return found


def test_ray_accepts_the_file(values: dict[str, Any]) -> None:
    accepted = runtime_env.RuntimeEnv(**values).to_dict()
    assert values.keys() <= accepted.keys()
    assert accepted["pip"]["packages"] == values["pip"]["packages"]
    assert accepted["config"]["setup_timeout_seconds"] == 1800


@pytest.mark.parametrize(
    "change",
    [
        {"pip": {"package": ["numpy"]}},
        {"pip": 3},
        {"env_vars": {"NUMBER": 0}},
        {"config": {"setup_timeout_seconds": "long"}},
        {"conda": "base"},
    ],
)
def test_ray_would_refuse_another(values: dict[str, Any], change: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        runtime_env.RuntimeEnv(**{**values, **change})


def test_it_installs_the_checkout_with_the_versions_that_are_tested(
    values: dict[str, Any],
) -> None:
    checkout = "${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}"
    constraint, package = values["pip"]["packages"]
    assert constraint == f"--constraint {checkout}/constraints.txt"
    assert package == f"{checkout}[s3]"
    # Ray takes its own version from the cluster: a pin here would replace it under its feet.
    assert not re.search(r"\bray\b", " ".join(values["pip"]["packages"]))


def test_what_the_package_is_built_from_is_sent(values: dict[str, Any]) -> None:
    """And what is large is not."""

    def excluded(path: str) -> bool:
        patterns = values["excludes"]
        return any(
            path == p or path.startswith(f"{p}/") or fnmatch.fnmatch(path, p) for p in patterns
        )

    assert values["working_dir"] == "."
    needed = ["pyproject.toml", "constraints.txt", "README.md", "LICENSE", "pipeline", "texsynth"]
    assert all((ROOT / name).exists() for name in needed)
    assert not [name for name in needed if excluded(name)]
    assert all(excluded(name) for name in (".git/objects", ".venv/bin", "runs/demo"))


def test_a_stopped_job_has_the_time_to_end_in_order(values: dict[str, Any]) -> None:
    assert float(values["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) >= STOP_GRACE_SECONDS
