"""Waiting for nodes that an actor can be on: at the start of a run, and whenever the last has gone.

A head alone, or a cluster whose spot machines have all been taken, is no error: machines may come.
But somebody has to hear of it, and the wait has an end.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from ray.autoscaler.sdk import request_resources

from pipeline.cluster.nodes import list_nodes
from pipeline.config import RunConfig
from pipeline.placement import LEAST_CLUSTER_CPUS, ActorPlan, Node, describe_nodes
from pipeline.runlog import WAITING, RunLog
from pipeline.terminal import duration

LOOK_SECONDS = 2.0
"""Between two looks at the nodes."""
SAY_SECONDS = 30.0
"""Between two lines about the same wait."""

logger = logging.getLogger(__name__)


class WorkersError(OSError):
    """No node has had room for an actor for as long as the run was to wait."""


class WorkerWatch:
    """Looks for nodes that an actor can be on, and says so while there is none.

    Args:
        config: device, actors, and how long to wait at most.
        say: takes a line for people.
        log: gets the waits, too.

    Attributes:
        nodes: as of the last look.
        error: why the run is to end; None while it goes on.
    """

    def __init__(self, config: RunConfig, say: Callable[[str], None], log: RunLog) -> None:
        self._config, self._say, self._log = config, say, log
        self._since: float | None = None
        self._said_at = 0.0
        self.nodes: list[Node] = []
        self.error: WorkersError | None = None

    def await_workers(self, stopping: Callable[[], bool]) -> list[Node]:
        """Wait for the first node that an actor can be on.

        Args:
            stopping: whether the run was asked to stop, which ends the wait.

        Returns:
            The nodes that are there; none that an actor can be on if the run is to stop.

        Raises:
            WorkersError: if none has come in time.
        """
        try:
            while not self.look(self._has_device) and not stopping():
                time.sleep(min(LOOK_SECONDS, self._config.wait_for_workers))
            return self.nodes
        finally:
            self._end_request()

    @contextlib.contextmanager
    def watching(self, plan: ActorPlan) -> Iterator[None]:
        """Look on while the context lasts; `error` is set when the last node has gone for good."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(LOOK_SECONDS):
                try:
                    self.look(plan.fits)
                except WorkersError as error:
                    self.error = error
                    return
                except Exception:
                    # A head that does not answer for good ends the run by itself.
                    logger.exception("nodes are not known for the moment")

        thread = threading.Thread(target=watch, daemon=True, name="workers")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(LOOK_SECONDS)
            self._end_request()

    def look(self, fits: Callable[[Node], bool]) -> bool:
        """Look once whether there is a node that an actor can be on, and say what has changed.

        Args:
            fits: whether an actor can be on a node.

        Raises:
            WorkersError: if there has been none for too long.
        """
        self.nodes = list_nodes()
        return self._note(any(map(fits, self.nodes)), self.nodes)

    def _has_device(self, node: Node) -> bool:
        """Whether a node has what the run was told to synthesise on."""
        on_cpu, on_gpu = node.cpus > 0, node.gpus >= 1
        return {"cpu": on_cpu, None: on_cpu or on_gpu}.get(self._config.device, on_gpu)

    def _note(self, found: bool, nodes: Sequence[Node]) -> bool:
        """Say what has changed, or that it still has not; gives `found`."""
        now = time.monotonic()
        if found:
            if self._since is not None:
                self._tell("workers_came", f"workers have come: {describe_nodes(nodes)}")
                self._end_request()
            return True
        if self._since is None:
            self._since, self._said_at = now, now - SAY_SECONDS
            self._request()
        left = self._since + self._config.wait_for_workers - now
        if left <= 0:
            raise WorkersError(
                f"no node for an actor in {duration(self._config.wait_for_workers)}: expected "
                f"{self._wanted()}, got {describe_nodes(nodes)}; start workers, or give more time"
                " with --wait-for-workers; committed rows are kept, and the same command goes on"
            )
        if now - self._said_at >= SAY_SECONDS:
            self._said_at = now
            self._tell(
                WAITING,
                f"waiting for {self._wanted()}; the cluster has {describe_nodes(nodes)}. Start "
                "workers (`ray start --address=HEAD:PORT` on each; with an autoscaler see `ray "
                f"status`). The run ends in {duration(left)}, --wait-for-workers",
            )
        return False

    def _tell(self, event: str, text: str) -> None:
        self._log.event(event, text=text)
        self._say(text)

    def _wanted(self) -> str:
        wanted = {"cpu": "a node with CPUs", None: "a node with a GPU or CPUs"}
        return wanted.get(self._config.device, "a node with a GPU")

    def _request(self) -> None:
        """Ask an autoscaler, if there is one: it starts nothing that nobody has asked for."""
        least, _ = self._config.actor_bounds or (1, 1)
        on_cpu = self._config.device == "cpu"
        bundle = {"CPU": int(LEAST_CLUSTER_CPUS)} if on_cpu else {"GPU": 1}
        request_resources(bundles=[bundle] * least)

    def _end_request(self) -> None:
        """Take back what was asked for: from here on the actors themselves are the demand."""
        if self._since is not None:
            self._since = None
            request_resources(bundles=[])
