import contextlib
import logging
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest

from pipeline import lease
from pipeline.lease import Lease, LeaseHeldError, LeaseLostError, is_leased
from pipeline.locks import CLOCK_PREFIX, Holder, describe_machine
from pipeline.object_store import StorageError
from pipeline.rundir import RunDirectory
from pipeline.session import RunBusyError, hold_run, is_held, load_session, request_stop
from pipeline.storage import ObjectPath

LEASE_SECONDS = 12.0
"""Renewed every two seconds, and not lost on a machine that is busy."""
SHORT_SECONDS = 1.0
ELSEWHERE = Holder(token="other", host="elsewhere", pid=1, machine="other boot", lease_s=60.0)


every_store = pytest.mark.parametrize("bucket", ["s3", "gs", "az"], indirect=True)
slowly = partial(pytest.param, marks=pytest.mark.slow)
every_store_slowly = pytest.mark.parametrize(
    "bucket", ["s3", slowly("gs"), slowly("az")], indirect=True
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", LEASE_SECONDS)
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.1)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", SHORT_SECONDS)


def put_lock(folder: ObjectPath, number: int, holder: Holder) -> ObjectPath:
    path = folder / f".lock-{number:06d}"
    path.write_bytes(holder.to_bytes())
    return path


@every_store_slowly
def test_of_many_who_try_at_once_one_wins(bucket: ObjectPath) -> None:
    together = threading.Barrier(6)

    def take(_: int) -> Lease | None:
        together.wait()
        try:
            return Lease(bucket)
        except LeaseHeldError:
            return None

    with ThreadPoolExecutor(6) as threads:
        (holder,) = filter(None, threads.map(take, range(6)))
    assert is_leased(bucket)
    holder.close()
    assert not is_leased(bucket)


@every_store
def test_a_lock_that_was_let_go_is_followed_at_once(bucket: ObjectPath) -> None:
    Lease(bucket).close()
    put_lock(bucket, 7, replace(ELSEWHERE, released=True))
    begun = time.monotonic()
    Lease(bucket).close()
    assert time.monotonic() - begun < LEASE_SECONDS
    # The number that counts stays, the others are gone.
    assert [path.name for path in bucket.iterdir()] == [".lock-000008"]


def test_a_dead_process_of_this_machine_is_followed_at_once(bucket: ObjectPath) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here = Holder(token="dead", host="", pid=dead.pid, machine=describe_machine(), lease_s=60.0)
    assert here.machine, "Linux says which boot this is"
    put_lock(bucket, 1, here)
    Lease(bucket).close()


def test_a_wait_for_a_silent_holder_is_told_of(
    bucket: ObjectPath, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lease, "SAY_SECONDS", 0.5)
    put_lock(bucket, 3, replace(ELSEWHERE, lease_s=2.0))
    Lease(bucket).close()
    told = [record.getMessage() for record in caplog.records if record.name == lease.__name__]
    assert len(told) == 1, told
    assert "held by process 1 on elsewhere, which may have died: it is waited for" in told[0]


def test_what_a_killed_waiter_leaves_is_the_run_s_own(bucket: ObjectPath) -> None:
    run = RunDirectory(bucket)
    left = bucket / f"{CLOCK_PREFIX}0123abcd"
    assert run.is_own(left)
    assert not run.is_own(bucket / ".clocks")
    left.touch()
    put_lock(bucket, 3, replace(ELSEWHERE, lease_s=1.0))
    Lease(bucket).close()
    assert [path.name for path in bucket.iterdir()] == [".lock-000004"]


@every_store_slowly
def test_a_silent_holder_is_followed_when_its_time_is_up(bucket: ObjectPath) -> None:
    put_lock(bucket, 3, replace(ELSEWHERE, lease_s=1.5))
    assert is_leased(bucket)
    begun = time.monotonic()
    Lease(bucket).close()
    # The store tells the age of an object in whole seconds.
    assert 0.4 < time.monotonic() - begun < 10.0


def test_a_holder_that_renews_is_not_followed(bucket: ObjectPath) -> None:
    holder = Lease(bucket)
    with pytest.raises(LeaseHeldError):
        Lease(bucket)
    holder.close()


@pytest.mark.usefixtures("short")
def test_a_damaged_lock_is_followed_when_its_time_is_up(bucket: ObjectPath) -> None:
    (bucket / ".lock-000001").write_bytes(b"{")
    assert is_leased(bucket)
    with contextlib.suppress(LeaseLostError):
        Lease(bucket, lambda: None).close()
    assert [path.name for path in bucket.iterdir()] == [".lock-000002"]


def test_a_holder_whose_lock_is_gone_stops(bucket: ObjectPath) -> None:
    """Who has followed it while it was away, and has let go, may have left no lock behind."""
    lost = threading.Event()
    holder = Lease(bucket, lost.set)
    assert holder.is_held()
    follower = put_lock(bucket, 2, replace(ELSEWHERE))
    assert not holder.is_held()
    for path in (bucket / ".lock-000001", follower):
        path.unlink()
    assert not holder.is_held()
    assert lost.wait(LEASE_SECONDS)
    with pytest.raises(LeaseLostError, match="taken it over, or removed it"):
        holder.close(forget=True)
    assert list(bucket.iterdir()) == []


@every_store_slowly
def test_a_holder_that_was_followed_stops(bucket: ObjectPath) -> None:
    lost = threading.Event()
    holder = Lease(bucket, lost.set)
    theirs = put_lock(bucket, 2, ELSEWHERE)
    assert lost.wait(30)
    with pytest.raises(LeaseLostError, match="another process has taken it over"):
        holder.close()
    assert theirs.read_bytes() == ELSEWHERE.to_bytes()


def test_a_holder_that_was_followed_twice_stops(bucket: ObjectPath) -> None:
    """Each taker removes the locks of those before it."""
    lost = threading.Event()
    holder = Lease(bucket, lost.set)
    put_lock(bucket, 3, ELSEWHERE)
    assert lost.wait(30)
    with pytest.raises(LeaseLostError, match="another process has taken it over"):
        holder.close()


def test_one_that_comes_too_late_for_its_number_does_not_hold(
    bucket: ObjectPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its look and its lock two others have come, and the first has gone."""
    put_lock(bucket, 1, replace(ELSEWHERE, released=True))
    put = ObjectPath.write_bytes
    others = iter([3])

    def be_slow(self: ObjectPath, data: bytes, *, new: bool = False) -> None:
        for number in others:
            put(bucket / f".lock-{number:06d}", ELSEWHERE.to_bytes())
        put(self, data, new=new)

    monkeypatch.setattr(ObjectPath, "write_bytes", be_slow)
    monkeypatch.setattr(lease, "_await_stale", refuse_living)
    with pytest.raises(LeaseHeldError):
        Lease(bucket)
    assert ".lock-000002" not in [path.name for path in bucket.iterdir()]


def refuse_living(_folder: ObjectPath, _number: int, holder: Holder | None) -> None:
    if holder is not None and not holder.is_gone:
        raise LeaseHeldError


@pytest.mark.usefixtures("short")
def test_a_holder_that_cannot_renew_stops_before_another_begins(
    bucket: ObjectPath, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lost = threading.Event()
    holder = Lease(bucket, lost.set)
    begun = time.monotonic()

    def fail(*_: object, **__: object) -> None:
        raise StorageError("no line")

    monkeypatch.setattr(ObjectPath, "write_bytes", fail)
    assert lost.wait(30)
    assert time.monotonic() - begun < 5 * SHORT_SECONDS
    assert "the lock was not renewed: no line" in caplog.text
    with pytest.raises(LeaseLostError, match="could not be renewed"):
        holder.close()


@pytest.mark.usefixtures("short")
def test_a_holder_whose_renewal_hangs_stops(
    bucket: ObjectPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, hang = threading.Event(), threading.Event()
    holder = Lease(bucket, lost.set)
    monkeypatch.setattr(ObjectPath, "write_bytes", lambda *_, **__: hang.wait())
    assert lost.wait(30)
    hang.set()
    with pytest.raises(LeaseLostError):
        holder.close()


def test_a_store_without_conditions_is_named(
    bucket: ObjectPath, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put = ObjectPath.write_bytes
    monkeypatch.setattr(ObjectPath, "write_bytes", lambda self, data, new=False: put(self, data))
    with caplog.at_level(logging.WARNING):
        Lease(bucket).close()
    assert "the store knows no conditional puts" in caplog.text


def test_an_answer_that_was_lost_is_recognised(
    bucket: ObjectPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = ObjectPath.write_bytes

    def put_and_lose(self: ObjectPath, data: bytes, *, new: bool = False) -> None:
        put(self, data, new=new)
        if new:
            raise FileExistsError(self.uri)

    monkeypatch.setattr(ObjectPath, "write_bytes", put_and_lose)
    Lease(bucket).close()


@every_store
def test_a_run_in_a_bucket_is_held_by_one(bucket: ObjectPath) -> None:
    run = RunDirectory(bucket / "run")
    with hold_run(run) as session:
        assert is_held(run)
        busy = rf"{bucket}/run' is being worked on by process {session.pid}"
        with pytest.raises(RunBusyError, match=busy), hold_run(run):
            pytest.fail("held twice")
        request_stop(run, session)
        stopping = load_session(run)
        assert stopping is not None
        assert (stopping.id, stopping.state) == (session.id, "stopping")
    assert not is_held(run)
    ended = load_session(run)
    assert ended is not None
    assert ended.state == "ended"


def test_a_lost_run_says_so_and_leaves_the_other_session_alone(bucket: ObjectPath) -> None:
    run = RunDirectory(bucket / "run")

    def be_followed() -> None:
        with hold_run(run) as session:
            put_lock(bucket / "run", 2, ELSEWHERE)
            followed = b'{"id": "theirs", "host": "elsewhere", "pid": 1, "begun_at": ""}'
            (bucket / "run" / "session.json").write_bytes(followed)
            request_stop(run, session)
            time.sleep(60)

    with pytest.raises(LeaseLostError, match="taken it over"):
        be_followed()
    theirs = load_session(run)
    assert theirs is not None
    assert theirs.id == "theirs"


def test_a_lock_that_cannot_be_let_go_ends_no_run(
    bucket: ObjectPath, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    holder = Lease(bucket)

    def fail(*_: object, **__: object) -> None:
        raise StorageError("no line")

    monkeypatch.setattr(ObjectPath, "write_bytes", fail)
    holder.close()
    assert "the lock was not let go: no line" in caplog.text
