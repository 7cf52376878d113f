from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import performance_page
from benchmarks.performance_page import PAGE, fill


def test_the_page_has_the_committed_results() -> None:
    page = PAGE.read_text()
    assert "<!-- begin " in page
    assert fill(page) == page


def test_a_table_is_put_between_its_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "speed.md").write_text(
        "# Speed\n\n* device: x\n\n## Lanes\n\n| a |\n| --- |\n| 1 |\n"
    )
    monkeypatch.setattr(performance_page, "RESULTS", tmp_path)
    page = "before\n<!-- begin speed -->\nold\n<!-- end speed -->\nafter\n"
    expected = "* device: x\n\n### Lanes\n\n| a |\n| --- |\n| 1 |"
    assert fill(page) == page.replace("old", expected)


def test_a_missing_result_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(performance_page, "RESULTS", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"speed\.md"):
        fill("<!-- begin speed -->\n<!-- end speed -->")
