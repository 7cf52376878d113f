"""An object store that answers with errors, late, or not at all: nothing lost, nothing twice."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

import pipeline.object_store
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
    "500": ("500 Internal Server Error", ERROR.format(code="InternalError")),
    "503": ("503 Service Unavailable", ERROR.format(code="SlowDown")),
}
KINDS = (*ANSWERS, "slow", "cut", "lost")
"""`slow` answers late; `cut` ends the line before anything is done, `lost` after it."""
SLOW_SECONDS = 0.3
EVERY, BURST = 14, 3
"""Of so many requests the first ones are struck: more than the store's client repeats by itself."""

Choose = Callable[[int, dict[str, Any]], str | None]


class FaultyServer:
    """An S3 server on this machine that fails as it is told.

    Args:
        choose: Gets the number of a request and its WSGI environment; gives the fault, or none.

    Attributes:
        choose: As given; may be changed.
        struck: How often each fault has struck.
    """

    def __init__(self, choose: Choose) -> None:
        self.choose, self.struck = choose, Counter[str]()
        self._numbers = itertools.count(1)
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._serve, threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _serve(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        fault = self.choose(next(self._numbers), environ)
        self.struck.update([fault] if fault else [])
        if fault in ANSWERS or fault == "cut":
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if fault in ANSWERS:
            status, text = ANSWERS[fault]
            start_response(status, [("Content-Type", "application/xml")])
            return [text.encode()]
        if fault == "slow":
            time.sleep(SLOW_SECONDS)
        line = environ["werkzeug.socket"]
        if fault == "cut":
            line.shutdown(socket.SHUT_RDWR)
            start_response("200 OK", [])
            return []
        answer: Iterable[bytes] = self._app(environ, start_response)
        if fault == "lost":
            line.shutdown(socket.SHUT_RDWR)
        return answer


@pytest.fixture
def server(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    """In place of the usual server, for this test; it fails only when told so."""
    faulty = FaultyServer(lambda number, environ: None)
    monkeypatch.setenv("AWS_ENDPOINT_URL", faulty.url)
    monkeypatch.setattr(pipeline.object_store, "FIRST_WAIT_SECONDS", 0.01)
    open_filesystem("s3").clear_instance_cache()
    yield faulty
    open_filesystem("s3").clear_instance_cache()
    faulty.close()


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


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["500", "cut"])
def test_an_upload_in_parts_that_fails_leaves_nothing(
    server: FaultyServer,
    bucket: ObjectPath,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    # The smallest part that S3 takes.
    monkeypatch.setitem(pipeline.object_store.UPLOADS, "s3", {"chunksize": 5 * 2**20})
    monkeypatch.setattr(pipeline.object_store, "ATTEMPTS", 2)
    large = tmp_path / "large"
    large.write_bytes(b"0" * (11 * 2**20))

    def strike(number: int, environ: dict[str, Any]) -> str | None:
        return fault if "partNumber=2" in environ["QUERY_STRING"] else None

    server.choose = strike
    with pytest.raises(StorageError, match="large: cannot write it after 2 attempts"):
        (bucket / "large").upload(large)
    assert server.struck[fault] >= 2
    assert list(bucket.iterdir()) == []
    name = bucket.uri.removeprefix("s3://")
    assert "Uploads" not in open_filesystem("s3").call_s3("list_multipart_uploads", Bucket=name)
    server.choose = lambda *_: None
    (bucket / "large").upload(large)
    assert (bucket / "large").stat().st_size == large.stat().st_size


def test_a_store_that_is_gone_is_named(
    server: FaultyServer, bucket: ObjectPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.object_store, "ATTEMPTS", 2)
    server.choose = lambda *_: "503"
    with pytest.raises(StorageError, match=rf"{bucket}/a: cannot write it after 2 .*injected"):
        (bucket / "a").write_bytes(b"")
