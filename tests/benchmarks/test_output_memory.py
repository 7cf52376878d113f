"""The page on sizes has the numbers that the command prints."""

from pathlib import Path

from benchmarks.output_memory import estimate
from texsynth import load_network

PAGE = Path(__file__).parents[2] / "docs" / "sizes.md"


def test_the_page_has_the_table() -> None:
    assert "\n".join(estimate(load_network("random:0"))) in PAGE.read_text(encoding="utf-8")
