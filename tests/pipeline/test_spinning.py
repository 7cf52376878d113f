from __future__ import annotations

import os

import pytest

from pipeline.spinning import SPIN_COUNT, bound_spinning


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ({}, str(SPIN_COUNT)),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, None),
    ],
)
def test_what_the_user_has_said_stays(
    monkeypatch: pytest.MonkeyPatch, before: dict[str, str], expected: str | None
) -> None:
    monkeypatch.setattr(os, "environ", dict(before))
    bound_spinning()
    assert os.environ.get("GOMP_SPINCOUNT") == expected
