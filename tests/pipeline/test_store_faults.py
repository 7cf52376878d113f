"""An object store that answers with errors, late, or not at all: nothing lost, nothing twice."""

from __future__ import annotations

import itertools
import os
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pytest

import pipeline.object_store
from pipeline.azure_store import NoAccountError
from pipeline.committed import open_parquet, read_committed
from pipeline.finalize import finalize
from pipeline.object_store import StorageError, open_filesystem
from pipeline.rundir import RunDirectory
from pipeline.schema import row_schema
from pipeline.session import hold_run
from pipeline.shards import ShardWriter
from pipeline.storage import ObjectPath

ERROR = "<Error><Code>{code}</Code><Message>injected</Message></Error>"
ANSWERS = {
    "500": ERROR.format(code="InternalError"),
    "503": ERROR.format(code="SlowDown"),
    "429": ERROR.format(code="TooManyRequests"),
    "401": ERROR.format(code="AccessDenied"),
    "403": ERROR.format(code="AccessDenied"),
}
"""What comes with these statuses; Google and Azure say it otherwise, their clients do not mind."""
KINDS = ("500", "503", "slow", "cut", "lost")
"""`slow` answers late; `cut` ends the line before anything is done, `lost` after it."""
SLOW_SECONDS = 0.3
EVERY, BURST = 14, 3
"""Of so many requests the first ones are struck: more than the store's client repeats by itself."""

VARIABLES = {
    "s3": "AWS_ENDPOINT_URL",
    "gs": "STORAGE_EMULATOR_HOST",
    "az": "AZURE_STORAGE_CONNECTION_STRING",
}
"""Of the environment, by scheme: where the store is."""

PARTS = {"s3": r"^PUT .*partNumber=", "gs": r"^POST .*upload_id=", "az": r"^PUT .*comp=block&"}
"""Requests that bring a part of an object, by scheme."""
PART_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {"chunksize": 5 * 2**20},
    "gs": {"chunksize": 5 * 2**20},
    "az": {"max_concurrency": 1},
}

slowly = partial(pytest.param, marks=pytest.mark.slow)
every_store = pytest.mark.parametrize("bucket", ["s3", "gs", "az"], indirect=True)

Choose = Callable[[int, str], str | None]


class FaultyServer:
    """Stands before a server on this machine and fails as it is told.

    Args:
        behind: The address of that server.
        choose: Gets the number of a request, and its method and target; gives the fault, or none.

    Attributes:
        choose: As given; may be changed.
        struck: How often each fault has struck.
        url: Its own address.
    """

    def __init__(self, behind: str, choose: Choose) -> None:
        self.behind, self.choose, self.struck = behind, choose, Counter[str]()
        self.numbers = itertools.count(1)
        handler = type("Handler", (Passing,), {"owner": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        )
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Passing(BaseHTTPRequestHandler):
    """Answers one request by what the server behind says, or by a fault."""

    owner: FaultyServer
    protocol_version = "HTTP/1.1"

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        owner = self.owner
        fault = owner.choose(next(owner.numbers), f"{self.command} {self.path}")
        owner.struck.update([fault] if fault else [])
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if fault in ANSWERS:
            self._answer(int(fault), [("Content-Type", "application/xml")], ANSWERS[fault].encode())
            return
        if fault == "slow":
            time.sleep(SLOW_SECONDS)
        answer = None if fault == "cut" else self._ask(body)
        if answer is None or fault == "lost":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self._answer(*answer)

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        line = HTTPConnection(urlsplit(self.owner.behind).netloc, timeout=60)
        line.request(self.command, self.path, body, dict(self.headers.items()))
        answer = line.getresponse()
        data = answer.read()
        line.close()
        # Google's says where the parts of an upload go: they are to come by here, too.
        heads = [(n, v.replace(self.owner.behind, self.owner.url)) for n, v in answer.getheaders()]
        own = ("connection", "keep-alive", "transfer-encoding")
        return answer.status, [h for h in heads if h[0].lower() not in own], data

    def _answer(self, status: int, heads: list[tuple[str, str]], data: bytes) -> None:
        self.send_response_only(status)
        for name, value in heads:
            self.send_header(name, value)
        if "content-length" not in {name.lower() for name, _ in heads}:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def server(bucket: ObjectPath, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    """Between this test and the store of its bucket; it fails only when told so."""
    variable = VARIABLES[bucket.scheme]
    (behind,) = re.findall(r"http://[^/;]+", os.environ[variable])
    faulty = FaultyServer(behind, lambda *_: None)
    monkeypatch.setenv(variable, os.environ[variable].replace(behind, faulty.url))
    monkeypatch.setattr(pipeline.object_store, "FIRST_WAIT_SECONDS", 0.01)
    open_filesystem(bucket.scheme).clear_instance_cache()
    yield faulty
    open_filesystem(bucket.scheme).clear_instance_cache()
    faulty.close()


@every_store
@pytest.mark.slow
def test_rows_are_committed_and_finalized_once(
    server: FaultyServer, bucket: ObjectPath, make_row: Any, make_png: Callable[[str], bytes]
) -> None:
    run = RunDirectory(bucket / "run")
    tasks = [f"e{number}-c0-v0" for number in range(12)]
    server.choose = lambda number, _: KINDS[number // EVERY % 5] if number % EVERY < BURST else None
    with hold_run(run), ShardWriter(run, row_schema(), rows_per_shard=3) as writer:
        for task in tasks:
            writer.add(make_row(task))
    assert {row["task_id"] for row in read_committed(run)[0].to_pylist()} == set(tasks)
    assert len(list(run.shards.iterdir())) == 4
    finalized = finalize(run, pa.array(tasks))
    assert (finalized.rows, finalized.missing, finalized.problems) == (12, (), ())
    server.choose = lambda *_: None
    assert set(server.struck) == set(KINDS), server.struck
    assert list(run.shards.iterdir()) == []
    (textures,) = run.textures.iterdir()
    with open_parquet(textures) as file:
        images = dict(zip(*file.read(["task_id", "image"]).to_pydict().values(), strict=True))
    assert {task: image["bytes"] for task, image in images.items()} == {
        t: make_png(t) for t in tasks
    }


@every_store
@pytest.mark.slow
@pytest.mark.parametrize("fault", ["500", "cut"])
# The clients of Google and Azure hand bytes to aiohttp, which warns of more than 1 MiB of them.
@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")
def test_an_upload_in_parts_that_fails_leaves_nothing(
    server: FaultyServer,
    bucket: ObjectPath,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    # The smallest part that S3 takes; Azure's client would send less than 64 MiB at once.
    monkeypatch.setitem(pipeline.object_store.UPLOADS, bucket.scheme, PART_OPTIONS[bucket.scheme])
    monkeypatch.setattr(pipeline.object_store, "ATTEMPTS", 2)
    if bucket.scheme == "az":
        open_filesystem("az").service_client._config.max_single_put_size = 2**20
    large = tmp_path / "large"
    large.write_bytes(os.urandom(11 * 2**20))
    parts = itertools.count(1)

    def strike(_: int, request: str) -> str | None:
        return fault if re.search(PARTS[bucket.scheme], request) and next(parts) > 1 else None

    server.choose = strike
    with pytest.raises(StorageError, match="large: cannot write it after 2 attempts"):
        (bucket / "large").upload(large)
    assert server.struck[fault] >= 2
    assert list(bucket.iterdir()) == []
    if bucket.scheme == "s3":
        name = bucket.uri.removeprefix("s3://")
        assert "Uploads" not in open_filesystem("s3").call_s3("list_multipart_uploads", Bucket=name)
    server.choose = lambda *_: None
    (bucket / "large").upload(large)
    assert (bucket / "large").read_bytes() == large.read_bytes()


@pytest.mark.parametrize("bucket", ["s3", slowly("gs"), slowly("az")], indirect=True)
def test_a_store_that_is_gone_is_named(
    server: FaultyServer, bucket: ObjectPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.object_store, "ATTEMPTS", 2)
    server.choose = lambda *_: "503"
    begun = time.monotonic()
    with pytest.raises(StorageError, match=rf"{bucket}/a: cannot write it after 2 .*injected"):
        (bucket / "a").write_bytes(b"")
    # Two attempts of the client in each of ours, and no long sleep of its own.
    assert server.struck["503"] == 4
    assert time.monotonic() - begun < 20


@every_store
@pytest.mark.parametrize("fault", ["429", "cut", slowly("503"), slowly("lost")])
def test_a_store_that_is_busy_for_a_while_is_waited_for(
    server: FaultyServer, bucket: ObjectPath, fault: str
) -> None:
    answers = iter([fault])
    server.choose = lambda *_: next(answers, None)
    (bucket / "a").write_bytes(b"a")
    assert (bucket / "a").read_bytes() == b"a"
    assert server.struck[fault] == 1


@every_store
@pytest.mark.parametrize("fault", [slowly("401"), "403"])
def test_one_who_may_not_is_told_at_once(
    server: FaultyServer, bucket: ObjectPath, fault: str
) -> None:
    server.choose = lambda *_: fault
    with pytest.raises(StorageError, match=rf"{bucket}/a: cannot write it: \w+: "):
        (bucket / "a").write_bytes(b"")
    assert server.struck[fault] == 1


def test_a_wrong_key_is_refused_at_once(az_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the servers that the tests have, Azurite alone looks at keys."""
    monkeypatch.setenv(
        "AZURE_STORAGE_CONNECTION_STRING",
        f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={'A' * 86}==;"
        f"BlobEndpoint={az_server}/devstoreaccount1;",
    )
    open_filesystem("az").clear_instance_cache()
    with pytest.raises(StorageError, match=r"az://box/a: cannot read it: \w+: .*authenticate"):
        ObjectPath("az://box/a").read_bytes()
    open_filesystem("az").clear_instance_cache()


def test_an_account_that_nobody_names_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AZURE_STORAGE_")]:
        monkeypatch.delenv(name)
    with pytest.raises(NoAccountError, match=r"set AZURE_STORAGE_CONNECTION_STRING, or"):
        ObjectPath("az://box/a").read_bytes()
