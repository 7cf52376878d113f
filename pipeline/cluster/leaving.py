"""How an actor learns that its place is about to go: its node is drained, or it gets SIGTERM.

A spot machine is announced to Ray as draining, by an autoscaler that hears of the preemption, by
`ray drain-node`, or by `ray start --block` that gets SIGTERM, as it does in a pod that ends. Ray
then gives the node nothing new; what an actor has under way there is the actor's own affair.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import ray

from pipeline.cluster.nodes import find_draining_nodes

POLL_SECONDS = 2.0
"""Between two looks at the nodes. AWS announces a preemption two minutes ahead."""

logger = logging.getLogger(__name__)


class LeaveWatch:
    """Tells an actor once that it is to leave.

    Args:
        leave: called with the reason, in another thread or in a signal handler.
    """

    def __init__(self, leave: Callable[[str], None]) -> None:
        self._leave = leave
        self._node = ray.get_runtime_context().get_node_id()
        self._closed = threading.Event()
        self._previous: Any = signal.getsignal(signal.SIGTERM)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._on_signal)
        self._thread = threading.Thread(target=self._look, daemon=True, name="leaving")
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._closed.set()

    def _look(self) -> None:
        while not self._closed.wait(POLL_SECONDS):
            try:
                draining = self._node in find_draining_nodes()
            except Exception:
                # Whatever it was: an actor that looks no more hears of no drain.
                logger.exception("nodes that are drained are not known for the moment")
                continue
            if draining:
                self._leave(f"node {self._node} is being drained")
                return

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # Whoever asks twice does not wait.
        signal.signal(signal.SIGTERM, self._previous)
        self._leave(f"process {os.getpid()} got {signal.Signals(number).name}")
