"""Ctrl-C and SIGTERM: the first asks a run to stop in an orderly way, the second ends it at once.

Both lose nothing that is committed. What a run has in flight is, after the first, kept as
checkpoints, and after the second done again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
FIRST_LINE = b"\nstopping: what is finished is being written; once more to stop at once\n"
SECOND_LINE = b"\nstopped at once; the same command goes on from what is committed\n"


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
            _say(SECOND_LINE)
            # Nothing is cleaned up: a local Ray ends with its driver.
            os._exit(exit_code(signal.Signals(number)))
        self.received = signal.Signals(number)
        self._ask()
        _say(FIRST_LINE)


def _say(line: bytes) -> None:
    """Write to the standard error, past Python's buffer: a handler may have interrupted a write."""
    # The reader of the pipe may have got the same signal.
    with contextlib.suppress(OSError):
        os.write(2, line)


def exit_code(number: signal.Signals) -> int:
    """The exit code of a process that a signal has ended: 128 more than its number."""
    return 128 + number
