from __future__ import annotations

import pytest

from benchmarks import tile_cost


def test_the_table_sets_tiles_against_the_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tile_cost, "EXEMPLAR_PX", 32)
    words = ["--side", "48", "--tiles", "32", "--weights", "random:0", "--seconds", "0.01"]
    monkeypatch.setattr("sys.argv", ["tile_cost", *words])
    tile_cost.main()
    *_, whole, tiles = capsys.readouterr().out.splitlines()
    assert whole.startswith("| whole | 48 | ")
    assert whole.endswith("| 1.00 |")
    assert tiles.startswith("| 32 | ")
    assert float(tiles.split("|")[-2]) > 0
