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
    assert all(
        result.image.amin() >= 0 and result.image.amax() <= 1 for result in (settled, clamped)
    )
    assert free.image.amin() < 0 or free.image.amax() > 1
    assert settled.evaluations == clamped.evaluations == free.evaluations
    delivered = clamped.delivered_loss.total
    row = table_row("x", "y", clamped)
    ratio = delivered / clamped.float_loss.total
    assert row.startswith(f"| x | y | {clamped.float_loss.total:,.0f} | {delivered:,.0f} | ")
    assert f" {ratio:.2f} |" in row
