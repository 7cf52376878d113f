from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("selenium", reason="selenium is not installed")

from benchmarks.report_opening import VARIATIONS, make_run, measure_pictures
from pipeline.query import load_metrics
from pipeline.report import write_report


def test_the_run_that_is_timed_has_every_picture(tmp_path: Path) -> None:
    run = make_run(tmp_path, 3, 64)
    rows = load_metrics(run)
    assert len(rows) == 3 * VARIATIONS
    assert not rows["displacement_score"].isna().any()
    page = write_report(run)
    (assets,) = page.parent.glob("assets-*")
    # Three pictures, each the source of one exemplar and the textures of another; their spectra.
    assert len(list(assets.glob("*.png"))) == 3 + 3
    assert '"problem":["","",""]' in (assets / "data.js").read_text().replace("\\", "")
    picture, spectrum = measure_pictures(assets)
    everything = sum(path.stat().st_size for path in assets.glob("*.png"))
    assert 3e3 * (picture + spectrum) == pytest.approx(everything)
    assert picture > spectrum > 0
