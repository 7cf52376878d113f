from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from pipeline.next_step import RunState, choose_next_step, retry_command
from pipeline.rundir import RunDirectory

RUN = RunDirectory(Path("a run"))


@pytest.mark.parametrize(
    ("state", "manifest", "missing", "failed", "command"),
    [
        ("running", "m.csv", 3, 0, "texsynth status 'a run' --watch"),
        ("stopping", None, None, 0, "texsynth status 'a run' --watch"),
        ("crashed", None, 3, 0, "put back run.json "),
        ("crashed", "my m.csv", 3, 1, "texsynth run 'my m.csv' --out 'a run'  (with the options "),
        ("incomplete", "m.csv", None, 0, "texsynth run m.csv --out 'a run'  (with the options "),
        ("stopped", "m.csv", 0, 1, "texsynth finalize 'a run'"),
        ("finished", "m.csv", 0, 1, "texsynth retry 'a run' --retry failed"),
        ("finished", "m.csv", 0, 0, "texsynth report 'a run'"),
    ],
)
def test_every_state_has_a_command_that_goes_on(
    state: RunState, manifest: str | None, missing: int | None, failed: int, command: str
) -> None:
    statuses = {"ok": 1, "failed": failed, "timeout": 0, "quarantined": 0}
    assert choose_next_step(RUN, state, manifest, missing, statuses).startswith(command)


def test_only_statuses_that_there_are_are_done_again() -> None:
    command = retry_command(RUN, {"ok": 5, "failed": 0, "timeout": 2, "quarantined": 1})
    assert shlex.split(command)[2:] == ["a run", "--retry", "timeout,quarantined"]
