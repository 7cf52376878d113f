"""What a run in an object store waits for: its rows scanned, as a resume does, and finalized.

    python -m benchmarks.store_waits

An S3 server on this machine answers every request late, by as much as a real one may need; what it
takes itself comes on top. Each step is done with one thread and with those that the pipeline has.
Rows have a layout and no picture, and lie in small shards, as at a few GPUs.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pyarrow as pa

import pipeline.side_by_side
from benchmarks.environment import describe_environment
from benchmarks.finalize_scale import write_shards
from pipeline.committed import scan_committed
from pipeline.finalize import finalize
from pipeline.object_store import open_filesystem
from pipeline.rundir import RunDirectory
from pipeline.storage import ObjectPath

BUCKET = "benchmark"


def serve(address: Any, requests: Any, wait_s: float) -> None:
    """Answer like S3, late; the port goes into `address`, and requests are counted."""
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = DomainDispatcherApplication(create_backend_app)

    def answer(environ: dict[str, Any], start_response: Any) -> Any:
        with requests.get_lock():
            requests.value += 1
        time.sleep(wait_s)
        return app(environ, start_response)

    server = make_server("127.0.0.1", 0, answer, threaded=True)
    address.send(server.server_port)
    server.serve_forever()


@contextmanager
def late_server(wait_s: float) -> Iterator[Any]:
    """An S3 server for this process in the block; gives the count of its requests."""
    context = multiprocessing.get_context("spawn")
    requests = context.Value("q", 0)
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there, requests, wait_s), daemon=True)
    process.start()
    port = here.recv()
    values = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "benchmark",
        "AWS_SECRET_ACCESS_KEY": "of no use",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with patch.dict(os.environ, values):
        open_filesystem("s3").mkdir(BUCKET)
        yield requests
    process.terminate()
    process.join()


def measure(step: Callable[[], object], requests: Any) -> tuple[float, float, int]:
    """Seconds that a step takes, those of this process's CPU, and the requests that it makes."""
    before, begun, cpu_begun = requests.value, time.monotonic(), time.process_time()
    step()
    return time.monotonic() - begun, time.process_time() - cpu_begun, requests.value - before


def main() -> None:
    """Print the table, as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=900)
    parser.add_argument("--rows-per-shard", type=int, default=9)
    parser.add_argument("--wait-ms", type=float, default=30)
    arguments = parser.parse_args()
    print("\n".join(describe_environment()))
    print(f"* load when it began: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    shards = arguments.rows // arguments.rows_per_shard
    print(f"* {arguments.rows:,} rows in {shards:,} shards, {arguments.wait_ms:g} ms per request\n")
    print("| step | threads | seconds | requests per shard | shards/s | CPU ms per shard |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    with late_server(arguments.wait_ms / 1e3) as requests:
        for threads in (1, pipeline.side_by_side.STORE_THREADS):
            run = RunDirectory(ObjectPath(f"s3://{BUCKET}/{secrets.token_hex(4)}"))
            write_shards(run, arguments.rows, arguments.rows_per_shard, shuffled=False)
            ids = scan_committed(run).winners["task_id"]
            with patch.object(pipeline.side_by_side, "STORE_THREADS", threads):
                for name, step in steps(run, ids).items():
                    seconds, cpu_s, made = measure(step, requests)
                    cells = [name, threads, f"{seconds:.1f}", f"{made / shards:.1f}"]
                    cells += [f"{shards / seconds:.1f}", f"{1e3 * cpu_s / shards:.1f}"]
                    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def steps(run: RunDirectory, task_ids: pa.ChunkedArray) -> dict[str, Callable[[], object]]:
    """What is measured, by name, in this order."""
    return {"scan": lambda: scan_committed(run), "finalize": lambda: finalize(run, task_ids)}


if __name__ == "__main__":
    main()
