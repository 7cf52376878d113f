"""Runs the command line with a fault built in: `inject.py FAULTS.json texsynth-arguments...`.

FAULTS.json holds a list of {"do": ..., "at": ..., "exemplar": ..., "rows": ..., "once": ...}:

* `do`: exit, sigkill, segfault, sigstop, sigint, sigterm, hang, raise, memory, nan, or full_disk;
* `at`: "task" (in the actor, before the evaluation with which a task of `exemplar` begins; any task
  if it is null), "commit" (before a shard is renamed), or the name of a step of finalize;
* `rows`: only once so many rows are committed;
* `once`: a path; the fault strikes only if it can make this file, so once in all processes.

The class is defined in `__main__`: Ray sends it to its workers whole.
"""

from __future__ import annotations

import ctypes
import errno
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

FINALIZE_STEPS = ("build", "swap", "metrics", "remove", "success")
FAULTS = json.loads(Path(sys.argv[1]).read_text())


def committed_rows(out: Path) -> int:
    return sum(pq.read_metadata(path).num_rows for path in out.glob("shards/part-*.parquet"))


def is_due(fault: dict[str, Any], out: Path) -> bool:
    if committed_rows(out) < fault.get("rows", 0):
        return False
    if fault.get("once") is None:
        return True
    try:
        Path(fault["once"]).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def strike(what: str) -> None:
    """Do it to this process; what returns has changed nothing."""
    actions: dict[str, Callable[[], Any]] = {
        "exit": lambda: os._exit(7),
        "segfault": lambda: ctypes.string_at(0),
        "hang": lambda: time.sleep(3600),
        "raise": lambda: unforeseen(),
        "full_disk": lambda: full_disk(),
        **{
            name.lower(): lambda name=name: os.kill(os.getpid(), getattr(signal, name))
            for name in ("SIGKILL", "SIGSTOP", "SIGINT", "SIGTERM")
        },
    }
    actions[what]()


def unforeseen() -> None:
    raise ZeroDivisionError("an error that nobody foresaw")


def full_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def make_actor_class(base: type, faults: Sequence[dict[str, Any]]) -> type:
    """A subclass of an actor that strikes its own process."""

    class FaultyActor(base):  # type: ignore[misc]
        def _prepare(self, tasks: Any, exemplars: Any, lanes: int) -> Any:
            work = super()._prepare(tasks, exemplars, lanes)
            original = work.advance

            def advance() -> Any:
                beginning = {tasks[index]["exemplar_id"] for index in work.beginning}
                due = [
                    fault
                    for fault in faults
                    if beginning and fault["exemplar"] in (None, *beginning)
                    if is_due(fault, self._run.path)
                ]
                for fault in due:
                    if fault["do"] == "memory" and lanes > 1:
                        raise MemoryError("injected")
                    if fault["do"] not in ("memory", "nan"):
                        strike(fault["do"])
                spoiled = {fault["exemplar"] for fault in faults if fault["do"] == "nan"}
                return [
                    spoil(result) if tasks[result.index]["exemplar_id"] in spoiled else result
                    for result in original()
                ]

            work.advance = advance
            return work

    return FaultyActor


def spoil(result: Any) -> Any:
    import dataclasses

    from texsynth.results import ReferenceLoss

    return dataclasses.replace(result, float_loss=ReferenceLoss((math.nan,), 0.0))


def break_finalize(faults: Sequence[dict[str, Any]]) -> None:
    """Strike the driver before a step of finalize."""
    import pipeline.finalize as steps

    names = {
        "build": "_write_part",
        "swap": "_swap",
        "metrics": "_write_metrics",
        "remove": "_remove",
        "success": "write_json_atomic",
    }
    for fault in faults:
        name = names[fault["at"]]
        original = getattr(steps, name)

        def step(*arguments: Any, _original: Any = original, _fault: Any = fault) -> Any:
            if is_due(_fault, Path(_fault["out"])):
                strike(_fault["do"])
            return _original(*arguments)

        setattr(steps, name, step)


def main() -> None:
    """Build the faults in and hand over to the command line."""
    import pipeline.actor
    import pipeline.cli

    sys.argv = ["texsynth", *sys.argv[2:]]
    in_actor = [fault for fault in FAULTS if fault["at"] == "task"]
    in_finalize = [fault for fault in FAULTS if fault["at"] in FINALIZE_STEPS]
    if in_actor:
        import pipeline.job
        import pipeline.run

        faulty = make_actor_class(pipeline.actor.SynthesisActor, in_actor)
        pipeline.run.SynthesisActor = pipeline.job.MeteredActor = faulty
    break_finalize(in_finalize)
    pipeline.cli.main()


if __name__ == "__main__":
    main()
