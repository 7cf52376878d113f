from __future__ import annotations

import pytest
import torch

from benchmarks.delivered_image import VARIANTS, run_variants, table_row
from texsynth import load_network


@pytest.mark.slow
def test_variants_are_the_steps_from_the_float_image_to_the_stored_one() -> None:
    generator = torch.Generator().manual_seed(0)
    # Much of it black or white, so that much would leave [0, 1].
    exemplar = (2 * torch.rand((3, 32, 32), generator=generator) - 0.5).clamp(0, 1)
    found = run_variants(load_network("random:0"), exemplar, 400)
    assert list(found) == list(VARIANTS)
    settled, clamped, free = found.values()
    rises = [result.delivered_loss.total / result.float_loss.total for result in found.values()]
    assert max(rises[:2]) < 1.1
    assert rises[2] > 1.5
    assert free.image.amin() < 0 <= clamped.image.amin()
    assert settled.evaluations == clamped.evaluations == free.evaluations
    delivered = clamped.delivered_loss.total
    row = table_row("x", "y", clamped)
    ratio = delivered / clamped.float_loss.total
    assert row.startswith(f"| x | y | {clamped.float_loss.total:,.0f} | {delivered:,.0f} | ")
    assert f" {ratio:.2f} |" in row
