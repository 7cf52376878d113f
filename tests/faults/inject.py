"""Runs the command line with faults built in: `inject.py FAULTS.json texsynth-arguments...`.

FAULTS.json holds a list of {"do": ..., "at": ..., and, if need be, "exemplar", "rows", "once"}:

* `do`: a key of `ACTIONS`, or memory, slow, nan, which strike the work instead of the process;
* `at`: "task": in the actor, when a task of `exemplar` (any, if that is not given) comes to a lane;
  or a step of finalize, before which the driver is struck;
* `rows`: only once so many rows are committed;
* `once`: a path; the fault strikes only if it can make this file, so once in all processes.

The class of the actor is defined in `__main__`: Ray sends it to its workers whole.
"""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import json
import math
import os
import pkgutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

from pipeline.committed import open_parquet
from pipeline.storage import AnyPath, as_path, sorted_glob

Fault = dict[str, Any]

STEPS = {
    "build": "pipeline.compaction._write_part",
    "swap": "pipeline.finalize._swap",
    "metrics": "pipeline.finalize._write_metrics",
    "remove": "pipeline.finalize._remove",
    "success": "pipeline.finalize._write_success",
}
"""Steps of finalize, by the function that does each."""
LOOKED_SECONDS = 1.3
"""After which an actor has looked whether its session was asked to stop."""
SLOW_SECONDS = 3.0
FILLER = "filler"
BLOCK = 4096


def is_due(fault: Fault, out: AnyPath) -> bool:
    shards = sorted_glob(out / "shards", "part-*.parquet")
    if sum(count_rows(path) for path in shards) < fault.get("rows", 0):
        return False
    if fault.get("once") is None:
        return True
    try:
        Path(fault["once"]).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def count_rows(path: AnyPath) -> int:
    with open_parquet(path) as file:
        return int(file.metadata.num_rows)


def signal_driver(out: AnyPath, *numbers: signal.Signals) -> None:
    driver = json.loads((out / "session.json").read_text())["pid"]
    for number in numbers:
        os.kill(driver, number)
        time.sleep(LOOKED_SECONDS)


def signal_self(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def fill_disk(out: AnyPath) -> None:
    """Leave not one block beside the run directory."""
    with (Path(str(out)).parent / FILLER).open("ab", buffering=0) as file:
        try:
            while file.write(b"0" * BLOCK):
                pass
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


def fail_unforeseen(out: AnyPath) -> None:
    raise ZeroDivisionError("an error that nobody foresaw")


ACTIONS: dict[str, Callable[[AnyPath], Any]] = {
    "exit": lambda out: os._exit(7),
    "segfault": lambda out: ctypes.string_at(0),
    "hang": lambda out: time.sleep(3600),
    "sigkill": lambda out: signal_self(signal.SIGKILL),
    "sigstop": lambda out: signal_self(signal.SIGSTOP),
    "driver-sigkill": lambda out: signal_driver(out, signal.SIGKILL),
    "driver-sigint": lambda out: signal_driver(out, signal.SIGINT),
    "driver-sigterm": lambda out: signal_driver(out, signal.SIGTERM),
    "driver-twice": lambda out: signal_driver(out, signal.SIGTERM, signal.SIGTERM),
    "raise": fail_unforeseen,
    "fill": fill_disk,
}


def make_actor_class(base: type, faults: Sequence[Fault]) -> type:
    """A subclass of an actor that strikes its own process, or its work."""

    class FaultyActor(base):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            self._whole = self._work.prepare
            self._work.prepare = self._prepare

        def _prepare(self, tasks: Any, exemplars: Any, lanes: int) -> Any:
            work = self._whole(tasks, exemplars, lanes)
            original, out = work.advance, self._run.path

            def advance(*rest: Any) -> Any:
                coming = {tasks[index]["exemplar_id"] for index in work.beginning}
                due = [
                    fault
                    for fault in faults
                    if coming and fault.get("exemplar") in (None, *coming) and is_due(fault, out)
                ]
                for fault in due:
                    if fault["do"] == "memory" and lanes > fault.get("lanes", 1):
                        raise MemoryError("injected")
                    if fault["do"] in ACTIONS:
                        ACTIONS[fault["do"]](out)
                is_slow = any(fault["do"] == "slow" for fault in due)
                with slowed() if is_slow else nullcontext():
                    results = original(*rest)
                spoiled = {fault["exemplar"] for fault in faults if fault["do"] == "nan"}
                return [
                    spoil(result) if tasks[result.index]["exemplar_id"] in spoiled else result
                    for result in results
                ]

            work.advance = advance
            return work

    return FaultyActor


def slowed() -> Any:
    """A context in which the first step of the optimiser takes too long."""
    import texsynth.lanes

    original, delays = texsynth.lanes.lbfgs_step, [SLOW_SECONDS]

    def step(*arguments: Any) -> Any:
        if delays:
            time.sleep(delays.pop())
        return original(*arguments)

    return mock.patch.object(texsynth.lanes, "lbfgs_step", step)


def spoil(result: Any) -> Any:
    from texsynth.results import ReferenceLoss

    return dataclasses.replace(result, float_loss=ReferenceLoss((math.nan,), 0.0))


def make_step(original: Callable[..., Any], fault: Fault, out: AnyPath) -> Callable[..., Any]:
    """A step of finalize, struck before it does anything."""

    def step(*arguments: Any) -> Any:
        if is_due(fault, out):
            ACTIONS[fault["do"]](out)
        return original(*arguments)

    return step


def main() -> None:
    """Build the faults in and hand over to the command line."""
    import pipeline.actor
    import pipeline.cli
    import pipeline.run

    faults = json.loads(Path(sys.argv[1]).read_text())
    arguments = ["texsynth", *sys.argv[2:]]
    out = as_path(arguments[arguments.index("--out") + 1])
    inline = "--executor=inline" in arguments
    in_actor = [fault for fault in faults if fault["at"] == "task"]
    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(sys, "argv", arguments))
        faulty = make_actor_class(pipeline.actor.SynthesisActor, in_actor)
        # What is pickled for Ray's workers must not have been replaced: so not its base.
        place = "pipeline.run.SynthesisActor" if inline else "pipeline.job.MeteredActor"
        patches.enter_context(mock.patch(place, faulty))
        for fault in faults:
            if fault["at"] in STEPS:
                name = STEPS[fault["at"]]
                step = make_step(pkgutil.resolve_name(name), fault, out)
                patches.enter_context(mock.patch(name, step))
        pipeline.cli.main()


if __name__ == "__main__":
    main()
