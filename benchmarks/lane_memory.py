"""What a synthesis takes of memory at its highest, as torch's allocator counts it."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from texsynth import SynthesisConfig, TextureNetwork, synthesize
from texsynth.shapes import Images, Size


def measure_peak(
    network: TextureNetwork,
    config: SynthesisConfig,
    exemplar: Images,
    lanes: int,
    output_size: Size | None = None,
) -> int:
    """Bytes alive at once, at most, in a synthesis whose lanes are all taken, and taken again.

    Those that torch's allocator has given out. A process on a CPU grows by more, and by another
    amount in every run, because the C library keeps some of what is freed.

    Args:
        network: on the device; not counted.
        config: one evaluation is made at every level.
        exemplar: [1, 3, H, W].
        lanes: B, for 2 B + 1 tasks: the last keeps all levels from giving back their lanes.
        output_size: of the textures; the exemplar's unless given.
    """
    tasks = 2 * lanes + 1
    exemplars = exemplar.expand(tasks, -1, -1, -1).cpu()
    config = dataclasses.replace(config, evaluations=1)
    device = network.device

    def run() -> None:
        results = synthesize(
            exemplars,
            range(tasks),
            config,
            network,
            output_size=output_size,
            lanes=lanes,
            device=device,
        )
        list(results)

    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as traced:
        run()
    profiler: Any = traced.profiler
    events = [e for e in profiler.kineto_results.events() if e.name() == "[memory]"]
    total = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        highest = max(highest, total)
    return highest
