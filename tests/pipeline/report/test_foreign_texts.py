"""Texts of a manifest stay texts in the page, and nothing is fetched."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from pipeline.report import write_report
from pipeline.resume import RunRecord, write_run_record
from pipeline.rundir import RunDirectory

Row = dict[str, Any]
MakeRow = Callable[..., Row]
OpenReport = Callable[[Path], Any]
OpenPage = Callable[[Path], Any]
Commit = Callable[..., None]


def test_nothing_is_fetched(
    run: RunDirectory, texture: MakeRow, open_report: OpenReport, commit: Commit
) -> None:
    commit(run, texture("a", 0, 10.0))
    report = open_report(write_report(run))
    folder = report.assets.name
    assert f"{folder}/report.js" in report.page.links
    assert all(link.startswith((f"{folder}/", "#")) for link in report.page.links)
    assert all((run.report / link).is_file() for link in report.page.links if "/" in link)
    style = (report.assets / "report.css").read_text()
    assert re.findall(r"url\([^#)]", report.page.source + style) == []
    assert "@import" not in report.page.source + style
    policy = re.findall(r'Content-Security-Policy" content="([^"]*)"', report.page.source)
    assert "default-src 'none'" in policy[0]
    assert not re.search(r"https?:|\*|data:|script-src[^;]*unsafe", policy[0])


def test_texts_of_the_manifest_are_data_in_the_script(
    run: RunDirectory, texture: MakeRow, open_report: OpenReport, commit: Commit
) -> None:
    evil = '"></script><script>alert(1)</script>\0\u2028`${alert(2)}`'
    commit(
        run,
        texture(evil, 0, 10.0, category=evil, stop_reason=evil),
        texture("f", 0, None, status="failed", error=evil, error_type=evil, path=evil),
    )
    report = open_report(write_report(run))
    assert report.exemplar(evil)["category"] == evil
    assert report.row(f"{evil}-c0-v0")["stopReason"] == evil
    assert f"{evil}: {evil}" in report.rows["error"].values()
    assert (report.assets / "data.js").read_bytes().isascii()
    names = {path.name for path in report.assets.iterdir()}
    plain = r"[0-9a-f]{20}\.png|sheet-0\.jpg|data\.js|report\.(js|css)"
    assert all(re.fullmatch(plain, name) for name in names)


QUOTED = """'"></title></dd></div><script>alert(1)</script><img src=x onerror='alert(2)'>\0"""


def test_texts_stay_texts_wherever_they_stand(
    tmp_path: Path, record: RunRecord, texture: MakeRow, open_page: OpenPage, commit: Commit
) -> None:
    def page_with(text: str) -> Any:
        name = text.replace("/", "")[:60]
        run = RunDirectory(tmp_path / name)
        run.create()
        versions = {text: text}
        write_run_record(
            run, dataclasses.replace(record, weights=text, manifest=text, versions=versions)
        )
        both = dict.fromkeys(("category", "path", "preset", "texsynth_version", "device"), text)
        failed = {"status": "failed", "error": text, "error_type": text}
        commit(run, texture(text, 0, 10.0, stop_reason=text, **both))
        commit(run, texture("f", 0, None, **failed, **both))
        (run.shards / f"{name}.parquet").write_bytes(b"PAR1")
        return open_page(write_report(run))

    page, plain = page_with(QUOTED), page_with("plain")
    assert tags_of(page) == tags_of(plain)
    assert "\0" not in page.source
    for pattern in (r"<script.*?</script>", r"<style.*?</style>", r"<meta[^>]*>"):
        found, wanted = (
            re.findall(pattern, re.sub(r"assets-\w+", "", p.source), re.DOTALL)
            for p in (page, plain)
        )
        assert found == wanted != []
    text = page.text
    for form in (
        QUOTED.replace("\0", "\N{SYMBOL FOR NULL}"),
        QUOTED.replace("/", "")[:60],
    ):
        assert form in text
        text = text.replace(form, "plain")
    assert text == plain.text


def tags_of(page: Any) -> list[tuple[str, list[str]]]:
    """Every tag of a page with the names of its attributes, in order."""
    found: list[tuple[str, list[str]]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: found.append((tag, [k for k, _ in attrs]))  # type: ignore[method-assign]
    parser.feed(page.source)
    return found
