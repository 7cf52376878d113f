"""What the page on quality says of the flags and of what was seen is what the command prints."""

from pathlib import Path

import pyarrow as pa
import pytest

from benchmarks import seen_by_eye
from pipeline.flags import FAULTS

PAGE = Path(__file__).parents[2] / "docs" / "quality.md"


@pytest.fixture(scope="module")
def textures() -> pa.Table:
    return seen_by_eye.load_textures(seen_by_eye.FILE)


def test_the_page_has_the_table(textures: pa.Table) -> None:
    page = PAGE.read_text(encoding="utf-8")
    table = seen_by_eye.render(textures).split("\n\n")[1]
    assert table in page


def test_counts_are_those_of_a_plain_loop(textures: pa.Table) -> None:
    rows = textures.to_pylist()
    accepted = [row for row in rows if row["accepted"]]
    right = sum(row["good"] for row in accepted)
    line = next(line for line in seen_by_eye.render(textures).splitlines() if "all:" in line)
    assert line.split("|")[3:5] == [f" {len(accepted)} ", f" {right} "]
    assert f"{right / len(accepted):.2f}" in line


def test_an_accepted_texture_has_no_fault(textures: pa.Table) -> None:
    for row in textures.to_pylist():
        assert row["accepted"] != any(row[fault] for fault in FAULTS)
