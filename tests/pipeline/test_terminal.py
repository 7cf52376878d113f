from __future__ import annotations

import pytest

from pipeline.terminal import duration, first_line, visible, visible_lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, größer 木目", "plain, größer 木目"),
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("a\nb\tc\rd", r"a\nb\tc\rd"),
        ("\x9b31m", r"\x9b31m"),
        ("gnp.\u202eexe", r"gnp.\u202eexe"),
        ("\udcff", r"\udcff"),
    ],
)
def test_what_a_terminal_would_obey_is_shown(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(text).isprintable()


def test_the_ends_of_lines_stay() -> None:
    assert visible_lines("a\x07\nb") == "a\\x07\nb"


def test_the_first_line_is_one_with_text() -> None:
    assert first_line("\n  \nwhat\nwhere") == "what"
    assert first_line("") == first_line(None) == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.4, "3 s"), (62, "1 min 2 s"), (3661, "1 h 1 min"), (59.9, "1 min 0 s")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text
