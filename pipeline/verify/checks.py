"""What a check of a run has found: ok or not, in how many things, which ones, how to mend it."""

from __future__ import annotations

from dataclasses import dataclass

MAX_LINES = 10
"""Problems of one check that are named; all are counted."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What was checked, a word or two.
        ok: Whether there is no problem.
        found: How much was looked at, and what is worth knowing without being wrong.
        problems: One line for each, at most `MAX_LINES` and one that counts the others.
        mend: What to do about them; empty where there are none.
    """

    name: str
    ok: bool
    found: str
    problems: tuple[str, ...] = ()
    mend: str = ""


class Problems:
    """Gathers the problems of one check; keeps the first ones and counts all."""

    def __init__(self) -> None:
        self.count = 0
        self._lines: list[str] = []

    def add(self, *lines: str) -> None:
        """Note problems, one line each."""
        self.count += len(lines)
        self._lines += lines[: MAX_LINES - len(self._lines)]

    def check(self, name: str, found: str, mend: str) -> Check:
        """The check that has these problems."""
        more = self.count - len(self._lines)
        lines = [*self._lines, *([f"and {more:,} more"] if more else [])]
        ok = not self.count
        return Check(name=name, ok=ok, found=found, problems=tuple(lines), mend="" if ok else mend)


def counted(count: int, noun: str) -> str:
    """A number with its noun: `1 row`, `1,024 rows`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
