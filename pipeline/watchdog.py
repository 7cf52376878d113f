"""A small process beside an actor, which kills the actor when it no longer answers.

A process that is stopped, deadlocked or stuck in a driver cannot notice it by itself, and Ray waits
for it for ever. The watchdog only reads a pipe: no byte for `timeout_s` means that the actor hangs,
and the end of the pipe that it has ended. What comes after a kill is what comes after every death
of an actor: Ray starts another, and the attempt counts.

The file is also the watchdog's program; it imports the standard library only.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

IDLE_BEATS = 4
"""Beats within the timeout while the actor has nothing to do."""


class Watchdog:
    """Kills this process, by SIGKILL, when it is silent for too long.

    While `working`, only `beat` counts: work that makes no progress is a hang. In between a thread
    beats, so that waiting for work is none, but a stopped process is.

    Args:
        timeout_s: The longest silence, s.
    """

    def __init__(self, timeout_s: float) -> None:
        # Isolated and in a session of its own: no signal of a terminal reaches it.
        self._process = subprocess.Popen(  # noqa: S603 (no shell, and no words of a user)
            [sys.executable, "-I", "-S", str(Path(__file__).resolve()), str(timeout_s)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        self._idle_interval_s = timeout_s / IDLE_BEATS
        self._working = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._beat_while_idle, daemon=True, name="watchdog")
        self._thread.start()

    @property
    def pid(self) -> int:
        """Of the watchdog."""
        return self._process.pid

    def beat(self) -> None:
        """Say that work goes on."""
        pipe = self._process.stdin
        if pipe is not None and not pipe.closed:
            # A watchdog that somebody has ended must not end the work.
            with contextlib.suppress(BrokenPipeError):
                os.write(pipe.fileno(), b".")

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """While the context lasts, silence is a hang."""
        self.beat()
        self._working = True
        try:
            yield
        finally:
            self._working = False
            self.beat()

    def close(self) -> None:
        """End the watchdog."""
        self._closed.set()
        self._thread.join()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()

    def _beat_while_idle(self) -> None:
        while not self._closed.wait(self._idle_interval_s):
            if not self._working:
                self.beat()


def watch(parent: int, timeout_s: float) -> None:
    """The watchdog's program: read beats from the standard input until they end."""
    while True:
        readable, _, _ = select.select([0], [], [], timeout_s)
        if readable:
            if not os.read(0, 4096):
                return
            continue
        # A parent that has died in between has left this process to another.
        if os.getppid() == parent:
            sys.stderr.write(f"actor {parent} was silent for {timeout_s:g} s: killed\n")
            os.kill(parent, signal.SIGKILL)
        return


if __name__ == "__main__":
    watch(os.getppid(), float(sys.argv[1]))
