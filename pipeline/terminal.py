"""Text from manifests, images and errors, made fit for a terminal.

A terminal obeys escape sequences, and a manifest may hold any: such characters are shown, not sent.
"""

from __future__ import annotations


def visible(text: str) -> str:
    r"""One line in which every character that is not printable stands as its escape, as `\x1b`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def visible_lines(text: str) -> str:
    """The same of a text of several lines; their ends stay."""
    return "\n".join(visible(line) for line in text.split("\n"))


def first_line(text: str | None) -> str:
    """The first line of a message that is not blank, not yet made visible; empty if there is none.

    Args:
        text: A message; None is none.
    """
    lines = (text or "").strip().split("\n")
    return lines[0].strip()


def duration(seconds: float) -> str:
    """A time in words, with its two largest units: `1 h 5 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
