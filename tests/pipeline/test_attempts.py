from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import attempts
from pipeline.attempts import (
    AttemptFile,
    count_failed_starts,
    forget_failed_starts,
    group_size,
    keep_earlier_attempts,
    load_attempts,
    running_here,
)
from pipeline.rundir import RunDirectory

NO_PROCESS = 2**22 + 1
"""A number beyond the largest that Linux gives."""


def numbers(run: RunDirectory) -> dict[str, int]:
    latest, problems = load_attempts(run)
    assert not problems
    return {task: attempt.number for task, attempt in latest.items()}


def test_what_is_begun_is_on_the_disk_and_what_has_ended_is_not(run: RunDirectory) -> None:
    own = AttemptFile(run, "s")
    assert numbers(run) == {}
    own.begin({"a": 1, "b": 2})
    own.begin({"c": 1})
    assert numbers(run) == {"a": 1, "b": 2, "c": 1}
    own.end(["a", "unknown"])
    assert numbers(run) == {"b": 2, "c": 1}
    own.end_all()
    assert not list(run.attempts.iterdir())
    own.begin({"a": 2})
    assert numbers(run) == {"a": 2}


def test_of_several_attempts_the_last_counts_and_ones_own_file_may_be_passed_over(
    run: RunDirectory,
) -> None:
    first, second = AttemptFile(run, "s"), AttemptFile(run, "s")
    first.begin({"a": 1, "b": 3})
    second.begin({"a": 2, "b": 1})
    assert numbers(run) == {"a": 2, "b": 3}
    others, _ = load_attempts(run, but=second.name)
    assert {task: attempt.number for task, attempt in others.items()} == {"a": 1, "b": 3}


def test_a_process_that_is_killed_leaves_its_attempts(run: RunDirectory) -> None:
    code = (
        "import os, sys; from pathlib import Path; from pipeline.rundir import RunDirectory;"
        "from pipeline.attempts import AttemptFile;"
        "AttemptFile(RunDirectory(Path(sys.argv[1])), 's').begin({'a': 1}); os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(run.path)], timeout=60)
    assert killed.returncode == -9
    latest, _ = load_attempts(run)
    assert latest["a"].pid != os.getpid()
    assert running_here(latest.values(), "s") == []
    own = AttemptFile(run, "s")
    own.begin({"a": 2})
    latest, _ = load_attempts(run)
    assert [attempt.task_id for attempt in running_here(latest.values(), "s")] == ["a"]
    assert running_here(latest.values(), "another session") == []


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"tasks": {"a": 1}}', "\x00" * 9, "[" * 100_000]
)
def test_a_damaged_file_is_named_and_the_others_count(run: RunDirectory, text: str) -> None:
    AttemptFile(run, "s").begin({"a": 1})
    damaged = run.attempts / "host-1-ab.json"
    damaged.write_text(text)
    latest, problems = load_attempts(run)
    assert list(latest) == ["a"]
    assert [problem.path for problem in problems] == [damaged]
    keep_earlier_attempts(run, {})
    assert damaged.exists()
    assert count_failed_starts(run, "s") == 0


def test_earlier_attempts_are_kept_in_one_file_until_they_have_rows(run: RunDirectory) -> None:
    for tasks in ({"a": 1, "b": 1}, {"b": 2}, {"c": 3}):
        AttemptFile(run, "s").begin(tasks)
    keep_earlier_attempts(run, {"a": 1, "b": 1})
    assert [path.name for path in run.attempts.iterdir()] == ["earlier.json"]
    assert numbers(run) == {"b": 2, "c": 3}
    AttemptFile(run, "t").begin({"c": 4})
    keep_earlier_attempts(run, {"b": 2})
    assert numbers(run) == {"c": 4}
    keep_earlier_attempts(run, {"c": 4})
    assert not list(run.attempts.iterdir())


def test_a_session_that_was_stopped_leaves_attempts_that_were_no_deaths(run: RunDirectory) -> None:
    AttemptFile(run, "stopped").begin({"a": 1, "b": 3})
    AttemptFile(run, "crashed").begin({"c": 2})
    keep_earlier_attempts(run, {}, forgiven="stopped")
    assert numbers(run) == {"b": 2, "c": 2}


@given(
    begun=st.lists(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 5), min_size=1)),
    committed=st.dictionaries(st.sampled_from("abcde"), st.integers(1, 5)),
)
def test_keeping_loses_no_attempt_that_counts(
    tmp_path_factory: pytest.TempPathFactory,
    begun: list[dict[str, int]],
    committed: dict[str, int],
) -> None:
    run = RunDirectory(tmp_path_factory.mktemp("run"))
    run.create()
    expected: dict[str, int] = {}
    for tasks in begun:
        AttemptFile(run, None).begin(tasks)
        expected |= {task: max(n, expected.get(task, 0)) for task, n in tasks.items()}
    expected = {task: n for task, n in expected.items() if n > committed.get(task, 0)}
    keep_earlier_attempts(run, committed)
    assert numbers(run) == expected
    keep_earlier_attempts(run, committed)
    assert numbers(run) == expected


@given(lanes=st.integers(1, 64), most=st.integers(1, 8))
def test_groups_of_suspects_shrink_to_one(lanes: int, most: int) -> None:
    sizes = [group_size(deaths, most, lanes) for deaths in range(most)]
    assert sizes[0] == (lanes if most > 1 else 1)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 1


def test_only_dead_actors_that_were_never_ready_are_failed_starts(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(**values: Any) -> None:
        own = AttemptFile(run, "s")
        path = run.attempts / f"{own.name}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    leave()
    leave(pid=NO_PROCESS, host="elsewhere")
    leave(pid=NO_PROCESS, session="earlier")
    assert count_failed_starts(run, "s") == 0
    leave(pid=NO_PROCESS)
    assert count_failed_starts(run, "s") == 1
    files = len(list(run.attempts.iterdir()))
    forget_failed_starts(run, "s")
    assert (count_failed_starts(run, "s"), len(list(run.attempts.iterdir()))) == (0, files - 1)
    leave(pid=NO_PROCESS)
    ready = AttemptFile(run, "s")
    ready.end_all()
    ready.begin({"a": 1})
    monkeypatch.setattr(attempts, "_is_dead", lambda host, pid: True)
    assert count_failed_starts(run, "s") == 3


def test_a_full_disk_is_an_error_and_changes_nothing(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = AttemptFile(run, "s")
    own.begin({"a": 1})

    def no_space(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(attempts, "write_json_atomic", no_space)
    with pytest.raises(OSError, match="No space"):
        own.begin({"b": 1})
    assert numbers(run) == {"a": 1}
    own.end_all()
    assert numbers(run) == {}


def test_threads_do_not_lose_each_others_changes(run: RunDirectory) -> None:
    own = AttemptFile(run, "s")

    def work(first: int) -> Callable[[], None]:
        def begin_and_end() -> None:
            for index in range(first, first + 20):
                own.begin({f"t{index}": 1})
                if index % 2:
                    own.end([f"t{index}"])

        return begin_and_end

    threads = [threading.Thread(target=work(first)) for first in (0, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = {f"t{first + index}" for first in (0, 100, 200) for index in range(0, 20, 2)}
    assert set(numbers(run)) == expected
