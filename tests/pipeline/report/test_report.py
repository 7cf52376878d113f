"""The report of a run as a whole: what is in it, and what becomes of it where things go wrong."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from filelock import FileLock

from pipeline.cli.report import report
from pipeline.report import ReportError, order_worst_first, write_report
from pipeline.report.pictures import PictureWriter
from pipeline.resume import RunRecord
from pipeline.rundir import RunDirectory

Row = dict[str, Any]
MakeRow = Callable[..., Row]
OpenReport = Callable[[Path], Any]
OpenPage = Callable[[Path], Any]
Commit = Callable[..., None]


def test_failures_are_listed_with_their_errors(
    run: RunDirectory, texture: MakeRow, make_row: MakeRow, open_report: OpenReport, commit: Commit
) -> None:
    gone = {"error_type": "ImageError", "error": "image 'b.png' is empty\nmore", "path": "b.png"}
    commit(run, texture("a", 0, 10.0), make_row("b-c0-v0", status="failed", **gone))
    commit(run, make_row("c-c0-v0", status="timeout", attempts=3, error="no end after 600 s"))
    report = open_report(write_report(run))
    cells = report.page.cells[-8:]
    assert cells[:3] == ["1", "failed", "ImageError: image 'b.png' is empty"]
    assert cells[4:7] == ["1", "timeout", "no end after 600 s"]
    assert "1 failed, 1 timeout" in report.page.text
    assert "ImageError: image 'b.png' is empty\nmore" in report.rows["error"].values()


def test_limit_leaves_the_best_as_thumbnails_and_says_so(
    run: RunDirectory, texture: MakeRow, make_row: MakeRow, open_report: OpenReport, commit: Commit
) -> None:
    commit(run, *(texture(f"e{k}", v, 10.0 * k + v) for k in range(3) for v in range(2)))
    commit(run, *(make_row(f"f{k}-c0-v0", status="failed") for k in range(4)))
    report = open_report(write_report(run, limit=3))
    rows = zip(report.rows["task"], report.rows["full"], strict=True)
    assert [task for task, full in rows if full] == ["e1-c0-v1", "e2-c0-v0", "e2-c0-v1"]
    assert [bool(full) for full in report.exemplars["full"][:3]] == [False, True, True]
    assert sum(tile >= 0 for tile in report.rows["tile"]) == 6
    assert len(list(report.assets.glob("*.png"))) == 3 + 2
    assert "3 of 6 textures, the worst by delivered loss, are here at full size" in report.page.text
    assert "are here at full size" not in open_report(write_report(run, limit=6)).page.text
    with pytest.raises(ReportError, match="limit 0"):
        write_report(run, limit=0)


def test_a_threshold_is_used_where_there_is_one(
    run: RunDirectory, record: RunRecord, texture: MakeRow, open_report: OpenReport, commit: Commit
) -> None:
    commit(run, texture("a", 0, 1400.0), texture("b", 0, 5000.0))
    report = open_report(write_report(run))
    assert "No loss threshold applies." in report.page.text
    assert "weights hed at 16 x 16 px" in report.page.text
    assert "threshold 1500" not in report.page.text
    assert "below_threshold" not in {flag["name"] for flag in report.data["flags"]}
    commit(
        run,
        *(
            texture(e, 0, x, loss_threshold=1500.0, attempts=2)
            for e, x in (("a", 1400.0), ("b", 5000.0))
        ),
    )
    report = open_report(write_report(run))
    text = report.page.text
    assert "Losses below 1500 count as good: 1 of 2 textures by the float image, 1" in text
    assert "threshold 1500" in text  # in the histogram's legend
    assert report.rows["flags"]["below_threshold"] == [1, 0]
    assert report.rows["flagged"] == [0, 1]
    assert report.rows["reasons"] == [
        [],
        [
            "float loss above the threshold: float loss 5,000 is not below 1,500",
            "delivered loss above the threshold: delivered loss 5,000 is not below 1,500",
        ],
    ]


def test_a_report_during_the_run_and_after_it(
    run: RunDirectory,
    texture: MakeRow,
    open_report: OpenReport,
    open_page: OpenPage,
    commit: Commit,
) -> None:
    empty = open_page(write_report(run))
    assert "This run is not finished." in empty.text
    assert "There are no textures yet." in empty.text
    commit(run, texture("a", 0, 10.0))
    assert "This run is not finished." in open_page(write_report(run)).text
    run.success.touch()
    (run.report / "sheet.jpg").touch()
    path = write_report(run)
    assert path == run.path / "report" / "index.html"
    report = open_report(path)
    assert "not finished" not in report.page.text
    names = {file.name for file in path.parent.iterdir() if not file.name.startswith(".")}
    assert names == {"index.html", "sheet.jpg", report.assets.name}


@pytest.mark.parametrize("where", ["add_full", "flush"])
def test_a_report_that_is_broken_off_leaves_the_last_one_whole(
    run: RunDirectory,
    texture: MakeRow,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    open_report: OpenReport,
    commit: Commit,
) -> None:
    commit(run, texture("a", 0, 10.0))
    before = open_report(write_report(run))
    commit(run, texture("b", 0, 20.0))

    def fill_disk(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(PictureWriter, where, fill_disk)
        with pytest.raises(OSError, match="No space left"):
            write_report(run)
    after = open_report(run.report / "index.html")
    assert (after.page.source, after.data) == (before.page.source, before.data)
    assert open_report(write_report(run)).exemplars["exemplar_id"] == ["a", "b"]


def test_a_killed_report_is_cleared_away_by_the_next(
    run: RunDirectory, texture: MakeRow, open_report: OpenReport, commit: Commit
) -> None:
    commit(run, texture("a", 0, 10.0))
    (run.report / "assets-0badf00d").mkdir(parents=True)
    (run.report / "assets-0badf00d/data.js").write_text("const half")
    (run.report / "_tmp-index.html.1.tmp").write_text("<!doctype")
    report = open_report(write_report(run))
    assert report.assets.name in report.page.source
    assert not list(run.report.glob("_tmp-*"))


def test_one_report_at_a_time(run: RunDirectory, texture: MakeRow, commit: Commit) -> None:
    commit(run, texture("a", 0, 10.0))
    run.report.mkdir()
    with FileLock(run.report / ".lock"), pytest.raises(ReportError, match="another process"):
        write_report(run)
    assert [path.name for path in run.report.iterdir()] == [".lock"]


def test_a_damaged_shard_is_named_and_the_rest_shown(
    run: RunDirectory, texture: MakeRow, open_report: OpenReport, commit: Commit
) -> None:
    commit(run, texture("a", 0, 10.0))
    (run.shards / "part-0.parquet").write_bytes(b"PAR1")
    report = open_report(write_report(run))
    assert "part-0.parquet" in report.page.text
    assert report.exemplars["exemplar_id"] == ["a"]


def test_a_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"no run directory: it has no run\.json"):
        write_report(RunDirectory(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_order_is_total() -> None:
    losses = [1.0, float("nan"), 3.0, float("inf"), 3.0]
    rows = pd.DataFrame({"exemplar_id": list("abcdc"), "crop": 0, "variation": [0, 0, 1, 0, 0]})
    ordered = order_worst_first(rows.assign(delivered_loss=losses))
    assert "".join(ordered["exemplar_id"]) == "bdcca"
    assert list(ordered["variation"])[2:4] == [0, 1]


def test_the_command_prints_where_the_page_is(
    run: RunDirectory, texture: MakeRow, capsys: pytest.CaptureFixture[str], commit: Commit
) -> None:
    commit(run, texture("a", 0, 10.0))
    report(run.path)
    assert Path(capsys.readouterr().out.strip()) == run.report / "index.html"
