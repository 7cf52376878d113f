"""What the driver, the store and the actors' own bookkeeping cost at 1 to 10,000 GPUs.

    python -m benchmarks.scale_model [--textures-per-hour 3600] [--size 128]

Real: the job of `pipeline.job` on a local Ray, with actors that sleep in place of a device;
commits, the counting of rows, the log, listings, files of attempts, by the code that a run uses.
Modelled: how often each of these happens at a number of GPUs. Events of 10,000 actors pass in
virtual time, by the rules of the writer: a shard at 32 rows, or 8 s after its first. Not in it: the
network, the store's own limits, a Ray of more than one machine.

CPU times on a machine that others share say more than its clock, and are still not those of a
quiet one.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass

import numpy as np

from benchmarks.environment import describe_environment
from benchmarks.ray_driver import DriverCost, local_ray, measure_driver
from benchmarks.scale_costs import StepCosts, measure_steps
from pipeline.shards import WRITE_MARGIN
from pipeline.storage import STORE_POLL_SECONDS
from texsynth.memory import MOST_LANES

GPUS = (1, 10, 100, 1000, 10_000)
ROWS_PER_SHARD = 32
"""As `ShardWriter` has it."""
FLUSH_SECONDS = 10.0 * (1 - WRITE_MARGIN)
"""As of `--flush-seconds`, by default."""
LANE_FULLS_PER_BLOCK = 8
"""As `pipeline.capacity` has it."""
LISTED_SHARDS = 100_000
"""In the folder that the driver lists, in the middle of a run of 2 to 6 million textures."""
LIST_PAGE = 1000
"""Names that S3 gives for one request."""
LIST_PAGE_SECONDS = 0.1
"""Until they are there: assumed, not measured."""
READS_PER_SHARD = 3
"""Size, footer and columns."""
PUT_DOLLARS, GET_DOLLARS = 0.005 / 1000, 0.0004 / 1000
"""Of S3 Standard in us-east-1, for PUT and LIST, and for GET (aws.amazon.com/s3/pricing)."""
CHECKPOINT_SECONDS = 300.0
"""As of `--lane-checkpoint-seconds`, by default."""
PREPARED_ROWS = 32
"""As `pipeline.job` has it: each leaves a mark."""
POLL_SHARE = 0.1
"""Of its time that the driver looks at shards, at most, as `pipeline.progress` has it."""
BLOCKS = (40, 240)
"""Of two jobs, whose difference is what blocks cost."""


@dataclass(frozen=True, kw_only=True)
class Flow:
    """What happens in a second at a number of GPUs."""

    gpus: int
    textures: float
    shards: float
    rows_per_shard: float
    blocks: float


def simulate_flow(gpus: int, textures_per_second: float, seconds: float = 600.0) -> Flow:
    """Textures end at random on each GPU; shards follow, in virtual time.

    Args:
        gpus: Actors, one each.
        textures_per_second: Of one, in the mean; the ends of many lanes are a Poisson process.
        seconds: Of virtual time; with many GPUs less, so that there are at most 10 million events.
    """
    seconds = min(seconds, 1e7 / (gpus * textures_per_second))
    generator = np.random.default_rng(0)
    textures = shards = 0
    for _ in range(gpus):
        gaps = generator.exponential(1 / textures_per_second, _events(seconds, textures_per_second))
        ends = np.cumsum(gaps)
        ends = ends[ends < seconds]
        textures += len(ends)
        first = 0
        while first < len(ends):
            due = int(np.searchsorted(ends, ends[first] + FLUSH_SECONDS, "right"))
            first = min(due, first + ROWS_PER_SHARD)
            shards += 1
    return Flow(
        gpus=gpus,
        textures=textures / seconds,
        shards=shards / seconds,
        rows_per_shard=textures / max(shards, 1),
        blocks=textures / seconds / (LANE_FULLS_PER_BLOCK * MOST_LANES),
    )


def _events(seconds: float, rate: float) -> int:
    """More than will be needed: six standard deviations above the mean."""
    mean = seconds * rate
    return int(mean + 6 * mean**0.5 + 10)


def describe_driver(costs: list[DriverCost], row_bytes: float) -> list[str]:
    """The job through Ray, as a table and the price of one block."""
    lines = [
        "| actors | blocks | tasks | s | driver, CPU s | raylet and GCS, CPU s |",
        f"|{' ---: |' * 6}",
    ]
    lines += [
        f"| {one.actors} | {one.blocks} | {one.blocks * one.rows_per_block:,} | {one.seconds:.0f} "
        f"| {one.driver_s:.2f} | {one.helpers_s:.2f} |"
        for one in costs
    ]
    return [*lines, "", f"Object store: {row_bytes:,.0f} bytes per task, pixels and columns."]


def cost_of_block(costs: list[DriverCost]) -> float:
    """CPU seconds of the driver for one block more; on a busy machine too many, since it waits."""
    few, many = costs[0], costs[1]
    return max(0.0, (many.driver_s - few.driver_s) / (many.blocks - few.blocks))


def describe_steps(steps: StepCosts) -> list[str]:
    """The price of every step."""
    rows = {
        "an exemplar of 640 x 480 px is prepared, ms": 1e3 * steps.prepare,
        "an actor commits a shard, ms": 1e3 * steps.commit_shard,
        "... and each row in it, ms": 1e3 * steps.commit_row,
        "the driver reads a new shard, ms": 1e3 * steps.count_shard,
        "... counts each row of it and writes its line in the log, ms": 1e3 * steps.count_row,
        "a name in a listing of `shards/`, µs": 1e6 * steps.list_entry,
        "an actor reads what another has in flight, after a death, ms": (1e3 * steps.attempts_file),
        "an actor sees that a block is new, ms": 1e3 * steps.begin_block,
        "bytes of a row in the log": steps.log_bytes_per_row,
        "bytes of a committed row beside its picture": steps.row_bytes,
    }
    lines = [f"| {name} | {value:,.2f} |" for name, value in rows.items()]
    return ["| step | CPU time, or bytes |", "| --- | ---: |", *lines]


def describe_time(flow: Flow, steps: StepCosts, block_s: float) -> list[str]:
    """What happens at a number of GPUs, and what of a core is spent on it."""
    listing_s = LISTED_SHARDS * steps.list_entry
    commits = (flow.shards * steps.commit_shard + flow.textures * steps.commit_row) / flow.gpus
    shares = (
        flow.blocks * block_s,
        flow.shards * steps.count_shard + flow.textures * steps.count_row,
        listing_s / max(1.0, listing_s / POLL_SHARE),
        commits,
    )
    return [
        f"{flow.gpus:,}",
        f"{flow.textures:,.2f}",
        f"{flow.shards:,.2f}",
        f"{flow.rows_per_shard:.1f}",
        f"{flow.blocks:.3f}",
        *(f"{100 * share:.2f} %" for share in shares),
        f"{flow.textures * steps.log_bytes_per_row * 86_400 / 2**30:.2f}",
    ]


def describe_requests(flow: Flow) -> list[str]:
    """What is asked of an object store in a second, and its price."""
    checkpoints = flow.gpus * MOST_LANES / CHECKPOINT_SECONDS
    # The file of attempts is written when a texture begins, and when a shard is there.
    puts = 2 * flow.shards + flow.textures + flow.textures / PREPARED_ROWS + flow.blocks
    puts += checkpoints
    # An actor looks whether it is to stop, and with a block for its mark and earlier deaths.
    gets = flow.gpus / STORE_POLL_SECONDS + 2 * flow.blocks + READS_PER_SHARD * flow.shards
    pages = LISTED_SHARDS / LIST_PAGE
    lists = pages / max(STORE_POLL_SECONDS, pages * LIST_PAGE_SECONDS / POLL_SHARE)
    dollars = 3600 * (PUT_DOLLARS * (puts + lists) + GET_DOLLARS * gets)
    return [
        f"{flow.gpus:,}",
        *(f"{number:,.1f}" for number in (puts, gets, lists)),
        f"{dollars:,.2f}",
        f"{dollars / flow.gpus:.4f}",
    ]


def print_table(columns: tuple[str, ...], rows: list[list[str]]) -> None:
    """As Markdown."""
    print(f"| {' | '.join(columns)} |\n|{' ---: |' * len(columns)}")
    print("\n".join(f"| {' | '.join(row)} |" for row in rows), end="\n\n")


TIME_COLUMNS = (
    *("GPUs", "textures/s", "shards/s", "rows/shard", "blocks/s"),
    *("driver: Ray Data", "driver: counting, log", "driver: listing"),
    *("each actor: commits", "log, GiB/day"),
)
REQUEST_COLUMNS = ("GPUs", "PUT/s", "GET/s", "LIST/s", "$/h", "$/h and GPU")


def main() -> None:
    """Print prices and tables, as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--textures-per-hour", type=float, default=3600.0, help="of one GPU")
    parser.add_argument("--size", type=int, default=128, help="px, of exemplars and textures")
    parser.add_argument("--actors", type=int, nargs="+", default=[4, 12])
    arguments = parser.parse_args()
    print("\n".join(describe_environment()))
    print(f"* load when it began: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(f"* {arguments.textures_per_hour:g} textures/h and GPU, {arguments.size} px\n")
    steps = measure_steps(arguments.size)
    print("\n".join(describe_steps(steps)), end="\n\n", flush=True)
    with local_ray():
        first = [measure_driver(arguments.actors[0], n, 16, arguments.size) for n in BLOCKS]
        more = [measure_driver(n, BLOCKS[-1], 16, arguments.size) for n in arguments.actors[1:]]
    costs = [*first, *more]
    block_s = cost_of_block(costs)
    print("\n".join(describe_driver(costs, costs[0].bytes_per_task)))
    print(f"A block more costs the driver {1e3 * block_s:.1f} ms of CPU time, waiting included.\n")
    per_second = arguments.textures_per_hour / 3600
    flows = [simulate_flow(gpus, per_second) for gpus in GPUS]
    print_table(TIME_COLUMNS, [describe_time(flow, steps, block_s) for flow in flows])
    print_table(REQUEST_COLUMNS, [describe_requests(flow) for flow in flows])


if __name__ == "__main__":
    main()
