"""Ctrl-C and SIGTERM: the first asks a run to stop in an orderly way, the second ends it at once.

Both lose nothing that is committed. What a run has in flight is, after the first, kept as
checkpoints, and after the second done again.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
FIRST_LINE = "\nstopping: what is finished is being written; once more to stop at once\n"
SECOND_LINE = "\nstopped at once; the same command goes on from what is committed\n"


class StopSignals:
    """Catches the signals while the context lasts; outside the main thread it catches none.

    Args:
        ask: Called, in the main thread, at the first signal.

    Attributes:
        received: The first signal; None before it.
    """

    def __init__(self, ask: Callable[[], None]) -> None:
        self._ask = ask
        self._previous: dict[signal.Signals, Any] = {}
        self.received: signal.Signals | None = None

    def __enter__(self) -> Self:
        self._previous = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        self.install()
        return self

    def install(self) -> None:
        """Take the signals, again if need be: Ray, when it starts, puts handlers of its own."""
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                signal.signal(number, self._handle)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._previous.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            sys.stderr.write(SECOND_LINE)
            sys.stderr.flush()
            # Nothing is cleaned up: a local Ray ends with its driver.
            os._exit(exit_code(signal.Signals(number)))
        self.received = signal.Signals(number)
        sys.stderr.write(FIRST_LINE)
        self._ask()


def exit_code(number: signal.Signals) -> int:
    """The exit code of a process that a signal has ended: 128 more than its number."""
    return 128 + number
