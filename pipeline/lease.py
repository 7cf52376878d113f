"""The lock of a run on an object store: a lease that is taken over when its holder is silent.

Locks are objects with numbers, `.lock-000001` and so on; the one with the highest number counts.
To take the lock is to put the object of the next number on the condition that there is none: of
several who try, the store lets one win. The holder renews its object again and again; one that was
not renewed for `lease_s` is stale, and so is one whose process is known to be dead. A holder that
finds a higher number, or could not renew in time, has lost the lock and stops. Numbers only grow,
so that one who was away for long can never write over the lock of another.

Times are compared by the store's clock alone, or by one machine's own.
"""

from __future__ import annotations

import logging
import os
import platform
import secrets
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from pipeline.locks import (
    Holder,
    describe_machine,
    find_newest,
    list_lease_files,
    lock_path,
    measure_age,
)
from pipeline.object_store import CONDITIONAL, StorageError
from pipeline.storage import ObjectPath

LEASE_SECONDS = 60.0
"""How long a holder may be silent: many renewals, each tried several times, fit in."""
RENEWALS = 6
"""In that time."""
FENCE = 0.75
"""Share of that time after which a holder that could not renew stops, before others may begin."""
SAY_SECONDS = 5.0
"""A longer wait for a lock is told of."""
TICK_SECONDS = 1.0
"""Between two looks at the clock, or at the lock of another."""
SETTLE_SECONDS = 5.0
"""Where the store knows no conditions: after that long, whoever has put its lock last is alone."""

logger = logging.getLogger(__name__)


class LeaseHeldError(Exception):
    """Another process holds the lock, and is alive."""


class LeaseLostError(OSError):
    """Another process has, or may have, taken the lock over."""


class Lease:
    """Holds the lock of a run until it is closed.

    Args:
        folder: The run directory.
        on_lost: Called in a thread of its own when the lock is lost; interrupts the main thread if
            not given, as Ctrl-C does.

    Raises:
        LeaseHeldError: Another process holds it. That one is watched for a while before.
        StorageError: The store does not answer.
    """

    def __init__(self, folder: ObjectPath, on_lost: Callable[[], None] | None = None) -> None:
        self._on_lost = on_lost or _interrupt_main
        self._holder = Holder(
            token=secrets.token_hex(8),
            host=platform.node(),
            pid=os.getpid(),
            machine=describe_machine(),
            lease_s=LEASE_SECONDS,
        )
        self._folder = folder
        self._renewed_at = 0.0
        self._number = self._take()
        self._lost = ""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True, name="lease")
        self._thread.start()

    def close(self, *, forget: bool = False) -> None:
        """Let go.

        Args:
            forget: Leave no lock behind. Who watches it at this moment finds out late.

        Raises:
            LeaseLostError: The lock had been lost meanwhile.
        """
        self._closing.set()
        self._thread.join()
        if self._lost:
            raise LeaseLostError(f"{self._folder}: the lock was lost: {self._lost}")
        released = replace(self._holder, released=True)
        path = lock_path(self._folder, self._number)
        try:
            path.write_bytes(released.to_bytes())
            if forget:
                path.unlink(missing_ok=True)
        except StorageError as error:
            # What was to be done is done; the lock becomes stale by itself.
            logger.warning("%s: the lock was not let go: %s", self._folder, error)

    def is_held(self) -> bool:
        """Whether nobody has followed, as the store says now; not where it does not answer."""
        try:
            return not self._lost and self._is_newest()
        except StorageError:
            return False

    def _take(self) -> int:
        while True:
            newest = find_newest(self._folder)
            if newest is not None:
                _await_stale(self._folder, *newest)
            number = newest[0] + 1 if newest else 1
            self._renewed_at = time.monotonic()
            if not self._put_new(number):
                continue
            numbers, clocks = list_lease_files(self._folder)
            if numbers[-1:] > [number]:
                # While we looked and put, others have come and gone, and one is there.
                lock_path(self._folder, number).unlink(missing_ok=True)
                continue
            for path in [*(lock_path(self._folder, n) for n in numbers[:-1]), *clocks]:
                path.unlink(missing_ok=True)
            return number

    def _put_new(self, number: int) -> bool:
        """Put our lock of this number; whether it is ours then."""
        path, content = lock_path(self._folder, number), self._holder.to_bytes()
        try:
            path.write_bytes(content, new=True)
        except FileExistsError:
            # Perhaps by an attempt of ours whose answer was lost.
            return path.read_bytes() == content
        if path.scheme in CONDITIONAL:
            # Some servers that speak for a store take no notice of conditions.
            try:
                path.write_bytes(content, new=True)
            except FileExistsError:
                return True
        logger.warning(
            "%s: the store knows no conditional puts; two processes that begin in the same moment "
            "are told apart by waiting %g s, which is weaker",
            self._folder,
            SETTLE_SECONDS,
        )
        time.sleep(SETTLE_SECONDS)
        return path.read_bytes() == content

    def _keep(self) -> None:
        """The thread: renews in time, and says when it cannot, also while a renewal hangs."""
        renewal: Future[None] | None = None
        pool = ThreadPoolExecutor(1, thread_name_prefix="lease-renewal")
        tick_s = min(TICK_SECONDS, self._holder.lease_s / 20)
        while not self._lost and not self._closing.wait(tick_s):
            silent_s = time.monotonic() - self._renewed_at
            if renewal is not None and renewal.done():
                self._judge(renewal)
                renewal = None
            elif silent_s > FENCE * self._holder.lease_s:
                self._lost = f"it could not be renewed for {silent_s:.0f} s"
            elif renewal is None and silent_s > self._holder.lease_s / RENEWALS:
                renewal = pool.submit(self._renew)
        # Who lets go waits for a renewal under way, which would undo that.
        pool.shutdown(wait=not self._lost, cancel_futures=True)
        if self._lost:
            logger.error("%s: the lock was lost: %s", self._folder, self._lost)
            self._on_lost()

    def _judge(self, renewal: Future[None]) -> None:
        error = renewal.exception()
        if isinstance(error, LeaseLostError):
            self._lost = str(error)
        elif error is not None:
            logger.warning("%s: the lock was not renewed: %s", self._folder, error)

    def _renew(self) -> None:
        begun_at = time.monotonic()
        if not self._is_newest():
            raise LeaseLostError("another process has taken it over, or removed it")
        self._holder = replace(self._holder, renewals=self._holder.renewals + 1)
        lock_path(self._folder, self._number).write_bytes(self._holder.to_bytes())
        self._renewed_at = begun_at

    def _is_newest(self) -> bool:
        # Where there is none any more, who has followed may have let go and forgotten its own.
        number, holder = find_newest(self._folder) or (0, None)
        return number == self._number and (holder is None or holder.token == self._holder.token)


def is_leased(folder: ObjectPath) -> bool:
    """Whether somebody seems to hold the lock of a run; writes nothing.

    The age of the lock is by this machine's clock: one that is wrong shows a dead holder longer, or
    a living one as dead. Who takes the lock does not go by this.
    """
    number, holder = find_newest(folder) or (0, None)
    if holder is None:
        return number > 0
    try:
        modified = lock_path(folder, number).stat().st_mtime
    except FileNotFoundError:
        return True
    return not holder.is_gone and time.time() - modified < holder.lease_s


def _await_stale(folder: ObjectPath, number: int, holder: Holder | None) -> None:
    """Return once the newest lock may be followed by the next.

    Raises:
        LeaseHeldError: Its holder has renewed it, or another has followed, while we watched.
    """
    if holder is not None and holder.is_gone:
        return
    path = lock_path(folder, number)
    lease_s = LEASE_SECONDS if holder is None else holder.lease_s
    stale_at = time.monotonic() + lease_s - measure_age(folder, path)
    if stale_at - time.monotonic() > SAY_SECONDS:
        logger.warning(
            "%s: held by %s, which may have died: it is waited for at most %.0f s",
            *(folder, holder or "another process", stale_at - time.monotonic()),
        )
    while time.monotonic() < stale_at:
        time.sleep(min(TICK_SECONDS, lease_s / 20))
        newest = find_newest(folder)
        if newest is None or newest[1] is None:
            continue
        if newest[1].is_gone:
            return
        if newest != (number, holder):
            raise LeaseHeldError


def _interrupt_main() -> None:
    """As Ctrl-C does, also while it waits for the system."""
    main = threading.main_thread().ident
    if main is not None:
        signal.pthread_kill(main, signal.SIGINT)
