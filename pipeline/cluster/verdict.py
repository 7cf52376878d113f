"""What is wrong with a cluster, from what its nodes have reported. Knows no Ray."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipeline.cluster.probe import EXCHANGED, NodeReport, Outcome

MOST_SKEW_S = 5.0
"""Between a node's clock and the driver's: times of rows, logs and attempts are compared."""


@dataclass(frozen=True, kw_only=True)
class Clock:
    """A node's clock against the driver's.

    Attributes:
        ahead_s: of the driver's.
        within_s: that this may be wrong by, half the time that the question took.
    """

    ahead_s: float
    within_s: float

    @classmethod
    def of(cls, asked: float, answered: float, read: float) -> Clock:
        """From the driver's clock before and after, and the node's in between."""
        return cls(ahead_s=read - (asked + answered) / 2, within_s=(answered - asked) / 2)

    @property
    def skewed(self) -> bool:
        """Whether it is certainly too far off."""
        return abs(self.ahead_s) - self.within_s > MOST_SKEW_S


@dataclass(frozen=True, kw_only=True)
class CheckedNode:
    """A node, and what it has found; a check that it does not need is None.

    Attributes:
        name: address, for people.
        kind: what Ray says that it has: nodes of one kind make one trial.
        gpus: of those.
        works: whether actors can be on it.
        report, clock: None if the node gave no answer; `error` then says why.
        returned: whether the driver saw in the run directory what the node has written.
        trial: of this node, if it made that of its kind.
    """

    name: str
    kind: str
    gpus: float
    works: bool
    error: str = ""
    report: NodeReport | None = None
    clock: Clock | None = None
    returned: bool | None = None
    trial: Outcome | None = None


@dataclass(frozen=True, kw_only=True)
class ClusterReport:
    """All nodes, and the driver, which the nodes are held against."""

    driver: NodeReport
    nodes: Sequence[CheckedNode]


def find_problems(found: ClusterReport) -> list[str]:
    """One line for each thing that is wrong, with its place; empty if a run can begin."""
    problems = [f"driver: {text}" for text in _own_problems(found.driver)]
    if not any(node.works for node in found.nodes):
        problems.append(
            "cluster: no node has what an actor needs; start workers, or raise min_workers for as "
            "long as the check lasts"
        )
    for node in found.nodes:
        problems += [f"{node.name}: {text}" for text in _node_problems(node, found.driver)]
    return problems


def _node_problems(node: CheckedNode, driver: NodeReport) -> Iterator[str]:
    if node.report is None:
        yield f"no answer: {node.error}"
        return
    yield from _version_problems(node.report.versions, driver.versions)
    yield from _own_problems(node.report)
    theirs, ours = node.report.weights.value, driver.weights.value
    if theirs and ours and theirs != ours:
        yield f"weights have sha256 {theirs[:16]}, the driver's {ours[:16]}"
    if node.returned is False and node.report.run_directory == Outcome(value=EXCHANGED):
        yield "what it has written to the run directory is not where the driver looks"
    if node.clock is not None and node.clock.skewed:
        yield (
            f"its clock is {node.clock.ahead_s:+.1f} s from the driver's, expected at most "
            f"{MOST_SKEW_S:g} s: let it follow a time server"
        )
    if node.trial is not None and node.trial.error:
        yield f"trial: {node.trial.error}"


def _version_problems(theirs: Mapping[str, str], ours: Mapping[str, str]) -> Iterator[str]:
    for package, expected in ours.items():
        got = theirs.get(package, "missing")
        if _comparable(package, got) != _comparable(package, expected):
            yield f"{package} is {got}, the driver has {expected}"


def _comparable(package: str, version: str) -> str:
    """Ray wants the same minor Python; builds of torch for other devices are the same torch."""
    if package == "python":
        return ".".join(version.split(".")[:2])
    return version.partition("+")[0]


def _own_problems(report: NodeReport) -> Iterator[str]:
    if report.weights.error:
        yield f"weights: {report.weights.error}"
    if report.run_directory is not None and report.run_directory.error:
        yield f"run directory: {report.run_directory.error}"
