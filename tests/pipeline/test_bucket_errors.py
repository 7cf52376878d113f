"""A bucket that is not there, or that we may not look into: one line that says so, exit code 2."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import moto.settings
import pyarrow as pa
import pytest
from moto.core.responses import ActionAuthenticatorMixin

from pipeline.object_store import open_filesystem
from pipeline.rundir import RunDirectory
from pipeline.shards import commit_rows
from pipeline.storage import ObjectPath

Call = Callable[..., tuple[int, str, str]]

READING = (
    *("status", "failures", "verify", "calibrate", "reflag", "finalize", "retry", "report"),
    *("query RUN SELECT-1", "replay RUN a-c0-v0", "compare RUN RUN2", "export RUN --to hf --out o"),
    "leakcheck RUN --against RUN/m.csv",
    "filter RUN --out o",
)
WRITING = (
    "export RUN --all --to hf --out PLACE/x",
    "query RUN SELECT-1 --format csv --output PLACE/x.csv",
    "manifest folder PHOTOS --out PLACE/x.csv",
)
SOONEST = (
    *WRITING,
    "report RUN --out PLACE/x",
    "filter RUN --out PLACE/x",
    "replay RUN a --out PLACE/x",
)
NOWHERE = "s3://no-such-bucket"


def give(call: Call, line: str, **places: str | Path) -> str:
    """Give a command that is refused; what it says."""
    words = line.split() if " " in line else [line, "RUN"]
    for name, value in places.items():
        words = [word.replace(name, str(value)) for word in words]
    code, out, err = call(*(word.replace("SELECT-1", "SELECT 1") for word in words))
    assert (code, out, len(err.splitlines())) == (2, "", 1), (line, err)
    assert err.startswith("error: ")
    return err


@pytest.fixture
def run_in_bucket(bucket: ObjectPath, make_table: Callable[..., pa.Table]) -> ObjectPath:
    commit_rows(RunDirectory(bucket / "run"), make_table(["a-c0-v0"]))
    return bucket / "run"


@pytest.fixture
def forbidden(run_in_bucket: ObjectPath) -> Iterator[None]:
    """From then on the server asks for a user's key, and we have none that it knows."""
    allowed = moto.settings.INITIAL_NO_AUTH_ACTION_COUNT
    moto.settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
    ActionAuthenticatorMixin.request_count = 1
    yield
    moto.settings.INITIAL_NO_AUTH_ACTION_COUNT = allowed


@pytest.fixture
def without_credentials(
    s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    open_filesystem("s3").clear_instance_cache()
    yield
    open_filesystem("s3").clear_instance_cache()


@pytest.mark.usefixtures("s3_server")
@pytest.mark.parametrize("line", READING)
def test_a_run_in_a_bucket_that_is_not_there(call: Call, line: str) -> None:
    said = give(call, line, RUN=f"{NOWHERE}/run")
    expected = f"there is no {NOWHERE}"
    if line.startswith("leakcheck"):
        expected = f"manifest '{NOWHERE}/run/m.csv': no such file"
    elif line == "report":
        expected = "it has no run.json"
    assert expected in said


def test_a_place_in_a_bucket_that_is_not_there(
    call: Call, run_in_bucket: ObjectPath, tmp_path: Path
) -> None:
    (tmp_path / "a.png").touch()
    for line in WRITING:
        said = give(call, line, RUN=run_in_bucket, PLACE=NOWHERE, PHOTOS=tmp_path)
        assert f"cannot write it: there is no {NOWHERE}" in said


@pytest.mark.parametrize("line", READING)
@pytest.mark.usefixtures("forbidden")
def test_a_run_that_we_may_not_read(run_in_bucket: ObjectPath, call: Call, line: str) -> None:
    said = give(call, line, RUN=run_in_bucket)
    assert str(run_in_bucket) in said
    assert "PermissionError" in said
    assert "put back" not in said


@pytest.mark.usefixtures("forbidden")
def test_a_bucket_that_we_may_not_write_to(
    bucket: ObjectPath,
    run: RunDirectory,
    make_table: Callable[..., pa.Table],
    call: Call,
    tmp_path: Path,
) -> None:
    commit_rows(run, make_table(["a-c0-v0"]))
    (tmp_path / "a.png").touch()
    for line in WRITING:
        said = give(call, line, RUN=run.path, PLACE=bucket, PHOTOS=tmp_path)
        assert f"{bucket}/x" in said
        assert "PermissionError" in said


@pytest.mark.usefixtures("without_credentials")
@pytest.mark.parametrize("line", READING)
def test_without_credentials(call: Call, line: str) -> None:
    said = give(call, line, RUN="s3://bucket/run")
    assert "s3://bucket/run" in said
    assert "NoCredentialsError: Unable to locate credentials" in said


@pytest.mark.parametrize("line", SOONEST)
def test_a_store_that_nothing_is_written_to(call: Call, line: str) -> None:
    said = give(call, line, RUN="hf://datasets/someone/run", PLACE="hf://datasets/someone/set")
    assert "hf://datasets/someone/set/x" in said
    assert "cannot write there: " in said
