"""Put the tables of committed results into docs/performance.md.

    python -m benchmarks.performance_page

A table stands between `<!-- begin NAME -->` and `<!-- end NAME -->`, NAME being that of its results
under `benchmarks/results/`: `NAME.md` as a benchmark printed it, or `NAME-*.json` of
`benchmarks.time_to_loss`, whose runs are taken together. The words between the tables are written
by hand.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from benchmarks.comparisons import load_comparisons, tables

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "benchmarks" / "results"
MARKED = re.compile(r"(<!-- begin ([\w-]+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)


def read_result(name: str) -> str:
    """The result as Markdown, its headings one level down.

    Raises:
        FileNotFoundError: if there is none of that name.
    """
    parts = sorted(RESULTS.glob(f"{name}-*.json"))
    if parts:
        heads = [line for part in parts for line in json.loads(part.read_text())["head"]]
        lines = [*dict.fromkeys(heads), "", *tables(load_comparisons(parts))]
    else:
        lines = (RESULTS / f"{name}.md").read_text().strip().splitlines()
        # Its title: the page has one of its own.
        lines = lines[1:] if lines[0].startswith("# ") else lines
    return "\n".join(f"#{line}" if line.startswith("#") else line for line in lines).strip()


def fill(page: str) -> str:
    """The page with all marked tables as the results are now."""
    return MARKED.sub(lambda found: f"{found[1]}{read_result(found[2])}\n{found[3]}", page)


def main() -> None:
    """Rewrite the page."""
    PAGE.write_text(fill(PAGE.read_text()))


if __name__ == "__main__":
    main()
