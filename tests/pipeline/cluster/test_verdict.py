"""Each check fails when it should, and then alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipeline.cluster.probe import EXCHANGED, NodeReport, Outcome
from pipeline.cluster.verdict import (
    MOST_SKEW_S,
    CheckedNode,
    Clock,
    ClusterReport,
    find_problems,
)

VERSIONS = {"python": "3.11.7", "torch": "2.15.0+cu132", "ray": "2.60.0", "texsynth": "0.1.0"}
GOOD = NodeReport(
    versions=VERSIONS,
    weights=Outcome(value="aa" * 32),
    run_directory=Outcome(value=EXCHANGED),
)
NODE = CheckedNode(
    name="10.0.0.2 (ab12cd)",
    kind="4 CPU, 1 GPU A10G",
    gpus=1.0,
    works=True,
    report=GOOD,
    clock=Clock(ahead_s=0.1, within_s=0.01),
    returned=True,
    trial=Outcome(value="3.0 s"),
)
HEAD = replace(NODE, name="10.0.0.1 (000000)", kind="0 CPU", gpus=0.0, works=False, trial=None)


def problems(node: CheckedNode, driver: NodeReport = GOOD) -> list[str]:
    return find_problems(ClusterReport(driver=driver, nodes=[HEAD, node]))


def test_a_good_cluster_has_none() -> None:
    assert problems(NODE) == []


@pytest.mark.parametrize(
    ("package", "version"),
    [
        ("ray", "2.59.0"),
        ("torch", "2.14.1+cu132"),
        ("texsynth", "0.2.0"),
        ("python", "3.12.7"),
    ],
)
def test_another_version_is_named_with_both(package: str, version: str) -> None:
    report = replace(GOOD, versions=VERSIONS | {package: version})
    assert problems(replace(NODE, report=report)) == [
        f"10.0.0.2 (ab12cd): {package} is {version}, the driver has {VERSIONS[package]}"
    ]


@pytest.mark.parametrize(("package", "version"), [("torch", "2.15.0+cpu"), ("python", "3.11.9")])
def test_versions_that_go_together_are_no_problem(package: str, version: str) -> None:
    report = replace(GOOD, versions=VERSIONS | {package: version})
    assert problems(replace(NODE, report=report)) == []


def test_a_missing_package_is_named() -> None:
    report = replace(GOOD, versions={"python": "3.11.7"})
    assert [p.rpartition(": ")[2] for p in problems(replace(NODE, report=report))] == [
        f"{name} is missing, the driver has {VERSIONS[name]}"
        for name in ("torch", "ray", "texsynth")
    ]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"weights": Outcome(value="bb" * 32)}, f"weights have sha256 {'b' * 16}, the driver's"),
        ({"weights": Outcome(error="WeightsError: no way")}, "weights: WeightsError: no way"),
        (
            {"run_directory": Outcome(error="PermissionError: read-only")},
            "run directory: PermissionError: read-only",
        ),
    ],
)
def test_what_a_node_reports_is_held_against_the_driver(
    changes: dict[str, Any], problem: str
) -> None:
    (found,) = problems(replace(NODE, report=replace(GOOD, **changes)))
    assert problem in found
    assert found.startswith("10.0.0.2 (ab12cd): ")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"report": None, "error": "lost"}, "no answer: lost"),
        ({"returned": False}, "is not where the driver looks"),
        ({"clock": Clock(ahead_s=7.0, within_s=0.1)}, "its clock is +7.0 s from the driver's"),
        ({"clock": Clock(ahead_s=-7.0, within_s=0.1)}, "its clock is -7.0 s from the driver's"),
        ({"trial": Outcome(error="MemoryError: small")}, "trial: MemoryError: small"),
    ],
)
def test_what_the_driver_sees_of_a_node(changes: dict[str, Any], problem: str) -> None:
    (found,) = problems(replace(NODE, **changes))
    assert problem in found


def test_the_driver_is_looked_at_too() -> None:
    broken = replace(GOOD, weights=Outcome(error="WeightsError: no way"))
    assert problems(NODE, driver=broken) == ["driver: weights: WeightsError: no way"]


def test_a_cluster_without_workers_is_not_fit() -> None:
    (found,) = find_problems(ClusterReport(driver=GOOD, nodes=[HEAD]))
    assert found.startswith("cluster: no node has what an actor needs")


def test_a_clock_is_known_as_well_as_the_question_was_quick() -> None:
    clock = Clock.of(asked=100.0, answered=102.0, read=107.0)
    assert (clock.ahead_s, clock.within_s) == (6.0, 1.0)
    assert not clock.skewed
    assert Clock.of(asked=100.0, answered=100.2, read=107.0).skewed
    assert MOST_SKEW_S == 5
