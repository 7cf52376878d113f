from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from pipeline.signals import STOP_SIGNALS, StopSignals, exit_code

WAITING = """
import sys, time
from pipeline.signals import StopSignals
with StopSignals(lambda: print("asked", flush=True)) as signals:
    print("ready", flush=True)
    while not signals.received:
        time.sleep(0.01)
    print("goes on", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", STOP_SIGNALS)
@pytest.mark.parametrize("broken_pipe", [False, True])
def test_the_first_asks_and_the_second_ends_even_if_nobody_reads_what_they_say(
    number: signal.Signals, broken_pipe: bool
) -> None:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", WAITING], text=True, **pipes) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        if broken_pipe:
            process.stderr.close()
        process.send_signal(number)
        assert process.stdout.readline() == "asked\n"
        assert process.stdout.readline() == "goes on\n"
        process.send_signal(number)
        assert process.wait(timeout=30) == exit_code(number)
        if not broken_pipe:
            said = process.stderr.read()
            assert "once more to stop at once" in said
            assert "stopped at once" in said


def test_handlers_are_put_back_and_can_be_taken_again() -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    asked = []
    with StopSignals(lambda: asked.append(1)) as signals:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signals.install()
        os.kill(os.getpid(), signal.SIGTERM)
        assert (asked, signals.received) == ([1], signal.SIGTERM)
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_outside_the_main_thread_nothing_is_caught() -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    during = []

    def work() -> None:
        with StopSignals(lambda: None):
            during.extend(signal.getsignal(number) for number in STOP_SIGNALS)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert during == before
