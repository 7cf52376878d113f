"""Google Cloud Storage as the pipeline needs it: gcsfs with short waits and plain requests."""

from __future__ import annotations

import logging
from typing import Any

from aiohttp import ClientTimeout
from gcsfs.core import GCSFileSystem
from gcsfs.retry import retry_request

from pipeline.pinned_file import ObjectChangedError, PinningStore

TIMEOUT = ClientTimeout(total=None, sock_connect=10.0, sock_read=30.0)
"""Of a request; gcsfs itself waits for minutes."""

# What it logs there, with tracebacks, it raises as well.
logging.getLogger("gcsfs").setLevel(logging.CRITICAL)


class GoogleStore(PinningStore, GCSFileSystem):  # type: ignore[misc]
    """The plain file system of gcsfs, not the one that it registers for `gs://`.

    That one asks a second service, by gRPC, what kind of bucket it has before every call, and goes
    on asking where it may not; in zonal buckets it writes objects that can be seen half-written.
    """

    # Two attempts, as the other clients have: six, as gcsfs has it, sleep for half a minute.
    _request = retry_request(GCSFileSystem._request.__wrapped__, retries=2)

    def __init__(self, **options: Any) -> None:
        super().__init__(requests_timeout=TIMEOUT, **options)

    def read_range(self, path: str, details: dict[str, Any], start: int, end: int) -> bytes:
        """Bytes of the generation that `details` tells of.

        Raises:
            ObjectChangedError: It has been replaced or removed.
        """
        generation = details["generation"]
        try:
            data: bytes = self.cat_file(path, start=start, end=end, generation=generation)
        except FileNotFoundError as error:
            raise ObjectChangedError(f"generation {generation} is gone") from error
        return data
