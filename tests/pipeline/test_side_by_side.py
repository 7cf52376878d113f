"""Files worked on at once: order, bounds, errors."""

import threading
import time
from pathlib import Path

import pytest

from pipeline.side_by_side import LOCAL_THREADS, STORE_THREADS, do_side_by_side
from pipeline.storage import AnyPath, ObjectPath

OBJECTS = [ObjectPath(f"s3://bucket/{number}") for number in range(3 * STORE_THREADS)]
FILES = [Path(str(number)) for number in range(4 * LOCAL_THREADS)]


class Counted:
    """Notes how many calls there were, and how many at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.calls = self.at_once = self.most_at_once = 0

    def __call__(self, path: AnyPath) -> str:
        with self._lock:
            self.calls += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(0.01)
        with self._lock:
            self.at_once -= 1
        return path.name


def test_results_are_in_order_whatever_ends_first() -> None:
    def act(path: AnyPath) -> str:
        time.sleep(0.02 if path is OBJECTS[0] else 0)
        return path.name

    assert list(do_side_by_side(act, OBJECTS)) == [path.name for path in OBJECTS]


def test_objects_are_waited_for_together() -> None:
    meeting = threading.Barrier(STORE_THREADS, timeout=30)
    reached = list(do_side_by_side(lambda _: meeting.wait(), OBJECTS[:STORE_THREADS]))
    assert sorted(reached) == list(range(STORE_THREADS))


@pytest.mark.parametrize("at_most", [1, 2])
def test_no_more_at_once_than_asked_for(at_most: int) -> None:
    act = Counted()
    assert list(do_side_by_side(act, OBJECTS, at_most=at_most)) == [p.name for p in OBJECTS]
    assert act.most_at_once == at_most


def test_local_files_by_the_cores() -> None:
    act, meeting = Counted(), threading.Barrier(LOCAL_THREADS, timeout=30)

    def meet(path: AnyPath) -> str:
        meeting.wait()
        return act(path)

    assert list(do_side_by_side(meet, FILES)) == [path.name for path in FILES]
    assert act.most_at_once <= LOCAL_THREADS


def test_what_is_not_taken_is_not_all_read_ahead() -> None:
    act = Counted()
    found = do_side_by_side(act, OBJECTS)
    next(found)
    time.sleep(0.1)
    assert act.calls <= 2 * STORE_THREADS + 1
    found.close()


def test_an_error_comes_out_and_ends_it() -> None:
    begun: list[AnyPath] = []
    ended = threading.Event()

    def act(path: AnyPath) -> None:
        begun.append(path)
        if path is OBJECTS[0]:
            raise OSError("no such object")
        assert ended.wait(30)

    with pytest.raises(OSError, match="no such object"):
        list(do_side_by_side(act, OBJECTS, ended=ended))
    # In place of the one that has failed another one may have begun.
    assert len(begun) <= STORE_THREADS + 1 < 2 * STORE_THREADS


def test_nothing_of_nothing() -> None:
    assert list(do_side_by_side(Counted(), [])) == []
