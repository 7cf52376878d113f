from __future__ import annotations

import pytest

from benchmarks import scale_costs
from benchmarks.ray_driver import DriverCost, local_ray, measure_driver
from benchmarks.scale_model import (
    FLUSH_SECONDS,
    ROWS_PER_SHARD,
    cost_of_block,
    describe_requests,
    simulate_flow,
)


def test_shards_are_cut_by_time_where_textures_are_slow_and_by_number_where_fast() -> None:
    slow, fast = simulate_flow(50, 0.5), simulate_flow(5, 40.0)
    # One texture begins a shard, those of the next seconds join it: a renewal process.
    assert slow.shards / 50 == pytest.approx(1 / (1 / 0.5 + FLUSH_SECONDS), rel=0.03)
    assert slow.rows_per_shard == pytest.approx(1 + 0.5 * FLUSH_SECONDS, rel=0.03)
    assert slow.textures == pytest.approx(25, rel=0.05)
    assert fast.rows_per_shard == pytest.approx(ROWS_PER_SHARD, rel=0.01)


def test_the_price_of_a_block_is_the_slope() -> None:
    same = {"rows_per_block": 8, "seconds": 1.0, "helpers_s": 0.0, "bytes_per_task": 0.0}
    costs = [DriverCost(actors=4, blocks=n, driver_s=2 + 0.01 * n, **same) for n in (40, 240)]
    assert cost_of_block(costs) == pytest.approx(0.01)


def test_requests_of_one_gpu_by_hand() -> None:
    flow = simulate_flow(1, 1.0)
    _, puts, gets, lists, _, _ = describe_requests(flow)
    by_hand = 2 * flow.shards + flow.textures * (1 + 1 / 32) + flow.blocks + 64 / 300
    assert float(puts) == pytest.approx(by_hand, abs=0.06)
    assert float(gets) == pytest.approx(1 / 5 + 2 * flow.blocks + 3 * flow.shards, abs=0.06)
    assert float(lists) == pytest.approx(1.0, abs=0.06)


def test_every_step_has_a_price(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SHARDS": 6, "LISTED": 100, "ACTORS": 3}.items():
        monkeypatch.setattr(scale_costs, name, value)
    steps = scale_costs.measure_steps(16)
    assert min(steps.list_entry, steps.attempts_file, steps.begin_block) > 0
    # The writer's price is per file, not per row; a log line has the numbers of a task.
    assert steps.commit_shard > steps.commit_row
    assert 200 < steps.log_bytes_per_row < 1000
    assert steps.row_bytes > 1000


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray, about its own settings
def test_sleeping_actors_do_a_real_job() -> None:
    with local_ray():
        cost = measure_driver(2, 5, 4, 16)
    assert (cost.blocks, cost.rows_per_block) == (5, 4)
    assert cost.bytes_per_task > 3 * 16**2
    assert cost.driver_s > 0
