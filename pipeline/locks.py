"""The locks of a run on an object store: objects with numbers, of which the highest counts.

How they are taken, kept and lost is told in `pipeline.lease`.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.object_store import StorageError
from pipeline.storage import ObjectPath

PREFIX = ".lock-"
CLOCK_PREFIX = ".clock-"
"""Of empty objects that are put to learn the store's time; one that is left says nothing."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The content of a lock.

    Attributes:
        token: Of this taking; unlike that of every other.
        host, pid: Of the process.
        machine: Where its number can be looked up: the boot of a kernel, and a name space of it.
        lease_s: How long it may be silent, s.
        renewals: How often it was renewed.
        released: It was let go.
    """

    token: str
    host: str
    pid: int
    machine: str
    lease_s: float
    renewals: int = 0
    released: bool = False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @property
    def is_gone(self) -> bool:
        """Whether it has let go, or its process is known to be dead."""
        if self.released:
            return True
        if not self.machine or self.machine != describe_machine():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False

    def to_bytes(self) -> bytes:
        """As it is stored."""
        return json.dumps(asdict(self)).encode()


def is_lock(name: str) -> bool:
    """Whether a file of a run directory is such a lock."""
    return name.startswith(PREFIX) and name.removeprefix(PREFIX).isdigit()


def is_lease_file(name: str) -> bool:
    """Whether a file of a run directory is such a lock, or of one who waited for it."""
    return is_lock(name) or name.startswith(CLOCK_PREFIX)


def measure_age(folder: ObjectPath, path: ObjectPath) -> float:
    """How long ago an object was put, s, by the store's clock: that of one that we put now."""
    clock = folder / f"{CLOCK_PREFIX}{secrets.token_hex(4)}"
    clock.touch()
    try:
        return max(0.0, clock.stat().st_mtime - path.stat().st_mtime)
    except FileNotFoundError:
        return 0.0
    finally:
        clock.unlink(missing_ok=True)


def find_newest(folder: ObjectPath) -> tuple[int, Holder | None] | None:
    """The lock that counts, and its holder if it can be read; None if there is none."""
    numbers, _ = list_lease_files(folder)
    if not numbers:
        return None
    try:
        values = json.loads(lock_path(folder, numbers[-1]).read_bytes())
        return numbers[-1], Holder(**values)
    except StorageError:
        raise
    except (OSError, ValueError, TypeError):
        return numbers[-1], None


def list_lease_files(folder: ObjectPath) -> tuple[list[int], list[ObjectPath]]:
    """Numbers of all locks, in order, and what others have put to learn the time."""
    found = list(folder.iterdir())
    numbers = [int(path.name.removeprefix(PREFIX)) for path in found if is_lock(path.name)]
    return sorted(numbers), [path for path in found if path.name.startswith(CLOCK_PREFIX)]


def lock_path(folder: ObjectPath, number: int) -> ObjectPath:
    """Where the lock of a number is."""
    return folder / f"{PREFIX}{number:06d}"


def describe_machine() -> str:
    """What tells process numbers of one boot and name space from those of others; Linux only."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""
