"""What errors of the stores' clients mean; their classes are of packages that may be missing."""

from __future__ import annotations

HOPELESS = (
    *("NoCredentialsError", "PartialCredentialsError", "ClientAuthenticationError"),
    *("DefaultCredentialsError", "FileExpired", "ObjectChangedError"),
)
"""Errors that no waiting helps, by the names of their classes."""
MISSING = ("ResourceNotFoundError", "EntryNotFoundError", "RemoteEntryNotFoundError")
"""Errors that say that there is no such object or container, by the names of their classes."""
PASSING_STATUS = (408, 429)
"""Answers of HTTP below 500 that are not the last word: a time-out, and too many requests."""


def is_missing(error: Exception) -> bool:
    """Whether it says that there is no such object, or nothing that could hold it."""
    return isinstance(error, FileNotFoundError) or type(error).__name__ in MISSING


def may_pass(error: Exception) -> bool:
    """Whether another attempt may do better: not where the call itself is wrong, or forbidden."""
    if isinstance(error, TypeError | ValueError | AttributeError | PermissionError):
        return False
    # What gcsfs makes of the status 403 is an OSError without it.
    if type(error).__name__ in HOPELESS or str(error).startswith("Forbidden"):
        return False
    status = _find_status(error)
    return status is None or status >= 500 or status in PASSING_STATUS


def _find_status(error: Exception) -> int | None:
    """The status that the store answered with, by the names that clients give it."""
    for holder in (error, getattr(error, "response", None)):
        for name in ("status_code", "code"):
            value = getattr(holder, name, None)
            if isinstance(value, int):
                return value
    return None
