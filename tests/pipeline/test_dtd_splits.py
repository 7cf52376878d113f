"""Splits of real photographs: the DTD subset, of one partition and of another."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.config import RunConfig
from pipeline.manifest import dtd_manifest, write_manifest
from pipeline.query import load_metrics
from pipeline.run import run_manifest
from pipeline.rundir import RunDirectory
from pipeline.verify import verify_run

Call = Callable[..., tuple[int, str, str]]

pytestmark = [pytest.mark.slow, pytest.mark.shared, pytest.mark.usefixtures("one_thread")]


def test_a_run_of_one_partition_leaks_in_another_until_it_is_filtered(
    shared_path: Path, quick_config: Callable[..., RunConfig], call: Call, tmp_path: Path
) -> None:
    root, manifest, out = shared_path / "data", tmp_path / "dtd.parquet", tmp_path / "run"
    table = dtd_manifest(root)
    write_manifest(table, manifest)
    config = quick_config(root=str(root), partition=1, split="train")
    assert run_manifest(manifest, out, config, Console(file=io.StringIO())).complete
    rows = load_metrics(out)
    assert set(rows["exemplar_id"]) == {
        row["exemplar_id"] for row in table.to_pylist() if row["split_1"] == "train"
    }

    def check(run: Path, partition: int) -> tuple[int, str]:
        command = ("leakcheck", run, "--against", manifest, "--root", root)
        return call(*command, "--partition", partition)[:2]

    twins = "1 row of 'cobwebbed_0125': the same picture as test row"
    for number in (1, 2):
        held_out = rows[f"split_{number}"].isin(["val", "test"])
        code, said = check(out, number)
        listed = said.count("it is val row") + said.count("it is test row")
        assert listed == held_out.sum()
        assert (listed > 0, twins in said) == ((False, True) if number == 1 else (True, False))
        # In partition 1 nothing leaks but a drawing that the subset has twice, in two colours.
        assert code == 3
        part = tmp_path / f"part{number}"
        assert call("filter", out, "--out", part, "--partition", number, "--root", root)[0] == 0
        assert check(part, number)[0] == 0
        assert all(check.ok for check in verify_run(RunDirectory(part)))
