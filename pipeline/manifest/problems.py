"""Problems of a manifest as they are reported: one line each, the first few of every kind."""

from collections.abc import Callable, Iterable
from itertools import islice

import numpy as np
from numpy.typing import NDArray

MAX_ROWS_PER_PROBLEM = 20

RowNumbers = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Problems:
    """Lines about a manifest, in the order in which their kinds were first looked for."""

    def __init__(self) -> None:
        self._lines: dict[str, list[str]] = {}
        self._counts: dict[str, int] = {}

    def add(self, line: str, *, kind: str | None = None) -> None:
        """Note what is wrong with the whole; of a kind that is there already, nothing.

        Args:
            line: says it.
            kind: the line itself, if not given.
        """
        kind = kind or line
        if not self._counts.get(kind):
            self.add_lines(kind, [line], 1)

    def add_rows(
        self, kind: str, bad: Mask, rows: RowNumbers, describe: Callable[[int], str]
    ) -> None:
        """Note the bad rows of a batch.

        Args:
            kind: what is wrong with them.
            bad: which positions are bad.
            rows: the number of the row at each position.
            describe: says what is wrong at a position.
        """
        positions = np.flatnonzero(bad)
        lines = (f"row {rows[i]}: {describe(int(i))}" for i in positions)
        self.add_lines(kind, lines, len(positions))

    def add_lines(self, kind: str, lines: Iterable[str], count: int) -> None:
        """Note so many lines of a kind; no more are made than are reported."""
        known = self._lines.setdefault(kind, [])
        known += islice(lines, MAX_ROWS_PER_PROBLEM - len(known))
        self._counts[kind] = self._counts.get(kind, 0) + count

    def __bool__(self) -> bool:
        return any(self._counts.values())

    def listed(self) -> list[str]:
        """All lines, the first `MAX_ROWS_PER_PROBLEM` of a kind, and how many more there are."""
        listing = []
        for kind, lines in self._lines.items():
            listing += lines
            if self._counts[kind] > len(lines):
                listing.append(f"and {self._counts[kind] - len(lines)} more rows like the last")
        return listing
