from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.delivered_image import VARIANTS, run_variants, table_row
from texsynth import load_network


def test_variants_are_the_steps_from_the_float_image_to_the_stored_one(weights_file: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    # Black and white, so that much would leave [0, 1].
    exemplar = (torch.rand((3, 32, 32), generator=generator) > 0.5).float()
    found = run_variants(load_network(str(weights_file)), exemplar, 100)
    assert list(found) == list(VARIANTS)
    settled, clamped, free = found.values()
    assert free.image.min() < 0 < free.out_of_range
    assert clamped.image.min() >= 0
    assert settled.evaluations == clamped.evaluations == free.evaluations
    losses = [result.delivered_loss.total for result in (settled, clamped, free)]
    assert losses[1] < losses[2]
    row = table_row("x", "y", clamped)
    ratio = clamped.delivered_loss.total / clamped.float_loss.total
    assert row.startswith(f"| x | y | {clamped.float_loss.total:,.0f} | {losses[1]:,.0f} | ")
    assert f" {ratio:.2f} |" in row
