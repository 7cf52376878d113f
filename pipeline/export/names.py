"""File names made of a manifest's ids, categories and splits, which may be anyone's.

A name is one part of a path on every common file system, and no two are the same where case and
the composition of letters do not count. It has no dot, because a WebDataset key ends at the first.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable

from pipeline.manifest.checks import MAX_ID_BYTES
from pipeline.rundir import TEMPORARY_PREFIX

WORK = f"{TEMPORARY_PREFIX}export"
"""Folder of an export that is not whole yet."""
# What Windows refuses in a name ("Naming Files, Paths, and Namespaces"), and the dot.
UNUSABLE = r'[<>:"/\\|?*.]'
PORTS = {f"{port}{number}" for port in ("com", "lpt") for number in range(10)}
# "all" is for `datasets` the union of all splits.
RESERVED = frozenset(PORTS | {"con", "prn", "aux", "nul", WORK, "all"})
DIGITS = range(8, 65, 8)


def make_names(texts: Iterable[str], unusable: str = UNUSABLE) -> dict[str, str]:
    """A name for each of some texts.

    A text that is a name is its own; any other has "_" for what cannot be in it, and ends in
    digits of its SHA-256. Of texts that differ only in case, the first in order keeps its own.

    Args:
        texts: Any texts, in any order.
        unusable: Regular expression of the characters that a name must not have, beside those that
            are not printable.

    Returns:
        Name by text: at most MAX_ID_BYTES bytes of UTF-8, not empty.
    """
    mended = {text: _mend(text, unusable) for text in texts}
    taken = set(RESERVED)
    names = {}
    for text in sorted(mended, key=lambda text: (mended[text] != text, text)):
        name = mended[text]
        if name != text or _folded(name) in taken:
            digest = hashlib.sha256(text.encode()).hexdigest()
            longer = (_cut(name, MAX_ID_BYTES - n - 1) + f"_{digest[:n]}" for n in DIGITS)
            name = next(other for other in longer if _folded(other) not in taken)
        taken.add(_folded(name))
        names[text] = name
    return names


def _mend(text: str, unusable: str) -> str:
    """The text with "_" for what a name cannot have; the same text if it is a name."""
    composed = unicodedata.normalize("NFC", text)
    printable = "".join(c if c.isprintable() else "_" for c in composed)
    return _cut(re.sub(unusable, "_", printable).strip(), MAX_ID_BYTES) or "_"


def _cut(text: str, size: int) -> str:
    return text.encode()[:size].decode(errors="ignore").rstrip()


def _folded(name: str) -> str:
    """What a file system that ignores case and composition takes for the same name."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
