from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

# Prints its watchdog's pid, then does what it is told.
ACTOR = """
import sys, time
from pipeline.watchdog import Watchdog
watchdog = Watchdog(float(sys.argv[1]))
print(watchdog.pid, flush=True)
"""
BUSY_AND_ALIVE = """
with watchdog.working():
    for _ in range(20):
        time.sleep(0.25)
        watchdog.beat()
watchdog.close()
"""
PATIENT_S, STRICT_S = 3.0, 0.5
"""A busy machine stalls a process for a second; where a kill is expected, that does not matter."""


def begin(code: str, timeout_s: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", ACTOR + code, str(timeout_s)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def gone(pid: int) -> bool:
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("code", [BUSY_AND_ALIVE, "time.sleep(5)"])
def test_work_that_goes_on_and_waiting_are_left_alone(code: str) -> None:
    with begin(code, PATIENT_S) as process:
        watchdog = int(first_line(process))
        assert process.wait(timeout=60) == 0
    assert gone(watchdog)


def test_work_that_stands_still_is_killed() -> None:
    with begin("with watchdog.working():\n    time.sleep(60)", STRICT_S) as process:
        watchdog = int(first_line(process))
        assert process.wait(timeout=30) == -signal.SIGKILL
    assert gone(watchdog)


@pytest.mark.parametrize("code", ["time.sleep(60)", BUSY_AND_ALIVE.replace("20", "240")])
def test_a_stopped_process_is_killed_idle_or_at_work(code: str) -> None:
    with begin(code, PATIENT_S) as process:
        watchdog = int(first_line(process))
        os.kill(process.pid, signal.SIGSTOP)
        assert process.wait(timeout=30) == -signal.SIGKILL
    assert gone(watchdog)


def test_a_lost_watchdog_does_not_end_the_work() -> None:
    with begin(BUSY_AND_ALIVE, PATIENT_S) as process:
        os.kill(int(first_line(process)), signal.SIGKILL)
        assert process.wait(timeout=60) == 0
