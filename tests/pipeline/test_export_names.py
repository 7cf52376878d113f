from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.export.names import make_names

NASTY = (
    *("..", ".", "", " ", "a/b", "a\\b", "/etc/passwd", "C:\\x", "con", "NUL", "com1", "x.", " x"),
    *("a\nb", "a\0b", "\u202egnp", "a" * 300, "é" * 150, "_tmp-export", "manifest.csv", "{a..b}"),
    *("é", "e\u0301", "Wool", "wool", "WOOL", "a_b", "-rf", "~", "*", "a:b", "ﬁ", "fi", "all"),
)
TEXTS = st.lists(st.one_of(st.sampled_from(NASTY), st.text()), unique=True, max_size=20)


def assert_is_name(name: str) -> None:
    assert 0 < len(name.encode()) <= 200
    assert name == name.strip()
    assert name.isprintable()
    assert not re.search(r'[<>:"/\\|?*.]', name)
    assert name.lower() not in {"con", "nul", "com1", "_tmp-export", "all"}


@given(TEXTS)
def test_every_text_has_a_name_of_its_own(texts: list[str]) -> None:
    names = make_names(texts)
    assert set(names) == set(texts)
    for name in names.values():
        assert_is_name(name)
    folded = {unicodedata.normalize("NFD", name).upper().lower() for name in names.values()}
    assert len(folded) == len(texts)
    assert make_names(reversed(texts)) == names


@given(TEXTS)
def test_names_of_words(texts: list[str]) -> None:
    names = make_names(texts, r"\W")
    assert len(set(names.values())) == len(texts)
    assert all(re.fullmatch(r"\w+", name) for name in names.values())


@pytest.mark.parametrize("text", ["banded_0002-c0-v11", "knitted wool", "Ätna", "x" * 200])
def test_a_text_that_is_a_name_is_its_own(text: str) -> None:
    assert make_names([text]) == {text: text}


def test_what_is_mended_takes_no_name_from_what_is_not() -> None:
    plain = make_names(["a/b"])["a/b"]
    assert plain.startswith("a_b_")
    names = make_names(["a/b", "a_b", plain])
    assert names["a_b"] == "a_b"
    assert names[plain] == plain
    assert len(set(names.values())) == 3
