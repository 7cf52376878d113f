"""PNGs of rows, and the sources that textures were made from."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.resume import write_run_record
from pipeline.verify import Check
from pipeline.verify.images import find_png_problem

Story = Any
ChecksOf = Callable[..., dict[str, Check]]
ProblemsOf = Callable[..., dict[str, str]]


def png_of_mode(mode: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (8, 8)).save(file, options.pop("format", "PNG"), **options)
    return file.getvalue()


def test_a_texture_is_a_whole_png_with_8_bits(make_png: Callable[[str], bytes]) -> None:
    good = make_png("a")
    assert find_png_problem(good, 8, 8) == ""
    for mode in ("RGBA", "L", "P", "1", "I;16"):
        assert "expected RGB with 8 bits" in find_png_problem(png_of_mode(mode), 8, 8)
    for data in (b"", b"text", png_of_mode("RGB", format="JPEG"), good[:-20], good[:60]):
        assert "no whole PNG" in find_png_problem(data, 8, 8)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_changed_byte_of_a_png_is_found(data: st.DataObject) -> None:
    good = png_of_mode("RGB")
    index = data.draw(st.integers(0, len(good) - 1))
    flip = data.draw(st.integers(1, 255))
    changed = bytearray(good)
    changed[index] ^= flip
    end = len(good) - 12
    if index < end:  # after the last chunk of pixels nothing is of use
        assert find_png_problem(bytes(changed), 8, 8) != ""
    else:
        find_png_problem(bytes(changed), 8, 8)


def test_sources_that_are_gone_are_no_problem_and_changed_ones_are(
    finished: Story, checks_of: ChecksOf, problems_of: ProblemsOf
) -> None:
    (finished.root / "images/t00.jpg").unlink()
    check = checks_of(finished.run)["exemplars"]
    assert check.ok
    assert "9 sources read; not checked: 1 source cannot be read here" in check.found
    (finished.root / "images/t01.jpg").write_bytes(b"another picture")
    assert "'images/t01.jpg': sha256 is" in problems_of(finished.run)["exemplars"]
    shutil.rmtree(finished.root)
    check = checks_of(finished.run)["exemplars"]
    assert check.ok
    assert "not checked: 10 sources" in check.found


def test_sources_outside_the_root_are_read_where_the_run_did(
    finished: Story, checks_of: ChecksOf
) -> None:
    outside = finished.root.parent / "outside"
    (finished.root / "images").rename(outside)
    (finished.root / "images").symlink_to(outside)
    assert "not checked: 10 sources" in checks_of(finished.run)["exemplars"].found
    config = {"allow_outside_root": True, "max_pixels": 100}
    write_run_record(finished.run, replace(finished.record, config=config))
    assert checks_of(finished.run)["exemplars"].found == "10 sources read"


def test_one_source_cannot_have_been_two_files(story: Story, problems_of: ProblemsOf) -> None:
    story.commit(story.ids[:9])
    story.commit(story.ids[9:], path="images/t00.jpg")
    assert "made from 2 different files" in problems_of(story.run)["exemplars"]


def test_without_images_none_is_opened(finished: Story, checks_of: ChecksOf) -> None:
    (finished.root / "images/t01.jpg").write_bytes(b"another picture")
    checks = checks_of(finished.run, images=False)
    assert checks["images"].found == checks["exemplars"].found == "not checked: --no-images"
    assert all(check.ok for check in checks.values())
