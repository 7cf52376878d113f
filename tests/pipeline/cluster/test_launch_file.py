from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cluster.launch_file import LaunchFileError, check_launch_file

Call = Callable[..., tuple[int, str, str]]

FILE = Path(__file__).parents[3] / "cluster.yaml"


@pytest.fixture
def config() -> dict[str, Any]:
    """Ours, filled in."""
    text = FILE.read_text(encoding="utf-8").replace(
        "ami-00000000000000000", "ami-0123456789abcdef0"
    )
    found: dict[str, Any] = yaml.safe_load(text)
    # Anchors make head and workers share their settings.
    return copy.deepcopy(found)


def check(config: Any, folder: Path) -> list[str]:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(config))
    return check_launch_file(path)


def test_ours_is_good_once_it_is_filled_in(config: dict[str, Any], tmp_path: Path) -> None:
    assert check(config, tmp_path) == []
    (problem,) = check_launch_file(FILE)
    assert problem == "ami-00000000000000000 is a placeholder; fill in your own, as at every CHANGE"


def set_at(config: Any, path: str, value: Any) -> None:
    *steps, last = path.split(".")
    for step in steps:
        config = config[step]
    if value is None:
        del config[last]
    else:
        config[last] = value


HEAD, SPOT, SAFE = (f"available_node_types.{n}" for n in ("head", "gpu_spot", "gpu_on_demand"))
MARKET = {"MarketType": "spot"}


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (f"{HEAD}.spot", True, "Ray refuses it: available_node_types.head: Additional properties"),
        ("max_workers", "many", "Ray refuses it: max_workers: 'many' is not of type 'integer'"),
        ("provider.type", "nowhere", "Ray refuses it: NotImplementedError"),
        (f"{HEAD}.resources", {"CPU": 2}, "head, the head, has resources for work"),
        (f"{HEAD}.node_config.InstanceMarketOptions", MARKET, "head, the head, is a spot machine"),
        (f"{SAFE}.resources", {"CPU": 8, "GPU": 1}, "no on-demand type has the same resources"),
        (f"{SAFE}.priority", 30, "gpu_spot is spot and has no higher priority than gpu_on_demand"),
        ("setup_commands", ["pip install ray"], "setup of the head pins no Ray"),
        (
            "setup_commands",
            ["pip install ray==2.1.0"],
            "setup of the worker installs ray 2.1.0, this",
        ),
        (f"{SPOT}.node_config.SubnetIds", ["subnet-00000000000000000"], "subnet-0000"),
    ],
)
def test_what_is_wrong_is_named(
    config: dict[str, Any], tmp_path: Path, path: str, value: Any, problem: str
) -> None:
    set_at(config, path, value)
    found = check(config, tmp_path)
    assert any(problem in line for line in found), found


def test_resources_are_not_left_to_be_guessed(config: dict[str, Any], tmp_path: Path) -> None:
    set_at(config, f"{SPOT}.resources", {})
    assert any("gpu_spot has no resources" in line for line in check(config, tmp_path))


def test_no_worker_at_all(config: dict[str, Any], tmp_path: Path) -> None:
    for name in ("gpu_spot", "gpu_on_demand"):
        del config["available_node_types"][name]
    assert any("no worker may be started" in line for line in check(config, tmp_path))


@pytest.mark.parametrize("text", ["- [", "3", "[a]"])
def test_what_is_no_launch_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(LaunchFileError, match=r"mine\.yaml"):
        check_launch_file(path)
    with pytest.raises(LaunchFileError, match=r"absent\.yaml"):
        check_launch_file(tmp_path / "absent.yaml")


def test_the_command_checks_a_file_without_any_machine(
    call: Call, config: dict[str, Any], tmp_path: Path
) -> None:
    assert call("cluster", "check", str(FILE))[0] == 3
    check(config, tmp_path)
    assert call("cluster", "check", str(tmp_path / "mine.yaml")) == (0, "all is well\n", "")
    code, _, err = call("cluster", "check")
    assert (code, "nothing to check" in err) == (2, True)
    code, _, err = call("cluster", "check", str(tmp_path / "absent.yaml"))
    assert (code, "absent.yaml" in err) == (2, True)
