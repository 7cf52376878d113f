"""How long OpenMP's threads wait for each other before they sleep."""

import os

SPIN_COUNT = 30_000
"""Turns of waiting, which threads do many times per evaluation: waking takes longer than the work
between. libgomp's own 300,000 outlast a time slice, and burn the core of the thread that is waited
for; docs/performance.md has what was seen."""


def bound_spinning() -> None:
    """Let threads sleep after SPIN_COUNT turns, unless the user has said otherwise.

    To be called before torch starts; processes begun from here inherit it.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_COUNT))
