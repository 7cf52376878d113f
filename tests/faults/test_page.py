"""The table of docs/reliability.md says what the tests of this folder show, no more and no less."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs/reliability.md"
PHASES = ("before", "middle", "finalize")
COMMAND = re.compile(r"`pytest tests/faults -k (\S+)`")


@pytest.fixture(scope="module")
def cases() -> set[str]:
    """What stands in brackets behind the names of the tests of the matrix."""
    modules = ("matrix", "full_disk", "nodes")
    files = [str(Path(__file__).with_name(f"test_{name}.py")) for name in modules]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *files]
    listed = subprocess.run(
        command, cwd=PAGE.parents[1], capture_output=True, text=True, check=True
    )
    names = set(re.findall(r"^\S+\[(?:local-)?(\S+)\]$", listed.stdout, re.MULTILINE))
    # What is shown on a disk is shown in an object store, too.
    stored = {name.removeprefix("s3-") for name in names if name.startswith("s3-")}
    local = names - {f"s3-{name}" for name in stored}
    assert {name for name in local - stored if not name.startswith(("disk-full", "node-"))} == set()
    return local


def table() -> dict[str, list[str]]:
    """The cells of every line of the table, by the word that selects its tests."""
    lines = [line for line in PAGE.read_text().splitlines() if COMMAND.search(line)]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    found = {COMMAND.findall(row[-1])[0]: row for row in cells}
    assert len(found) == len(lines)
    return found


def test_every_cell_of_the_table_has_a_test_or_a_reason(cases: set[str]) -> None:
    for word, row in table().items():
        for phase, cell in zip(PHASES, row[1:4], strict=True):
            shown = [case for case in cases if case.startswith(f"{word}-{phase}")]
            assert (cell == "yes") == bool(shown), (word, phase)
            assert cell == "yes" or re.match(r"n/a: \w+", cell), (word, phase)


def test_every_fault_that_is_tested_is_in_the_table(cases: set[str]) -> None:
    words = table()
    assert len(cases) > 60
    assert [case for case in cases if not any(case.startswith(f"{word}-") for word in words)] == []
    # A command shows its own line and no other.
    for word in words:
        assert [other for other in words if word in other] == [word]
