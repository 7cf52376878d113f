"""The benchmark of what a store's answers take, on few rows."""

import sys

import pytest

from benchmarks import store_waits

pytestmark = pytest.mark.slow


def test_the_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--rows", "40", "--rows-per-shard", "2", "--wait-ms", "50"]
    monkeypatch.setattr(sys, "argv", ["store_waits", *arguments])
    store_waits.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert [(name, threads) for name, threads, *_ in cells] == [
        *(("scan", "1"), ("finalize", "1")),
        *(("scan", "16"), ("finalize", "16")),
    ]
    requests = {float(cell[3]) for cell in cells if cell[0] == "scan"}
    assert len(requests) == 1, "threads change how many requests there are"
    assert requests.pop() >= 2
    seconds = {(cell[0], cell[1]): float(cell[2]) for cell in cells}
    assert seconds["scan", "16"] < seconds["scan", "1"] / 2
