"""Azure Blob Storage as the pipeline needs it: adlfs with short waits and ranges of one version."""

from __future__ import annotations

from typing import Any

from adlfs import AzureBlobFileSystem
from azure.core import MatchConditions
from azure.core.exceptions import ResourceModifiedError, ResourceNotFoundError
from fsspec.asyn import sync

from pipeline.pinned_file import ObjectChangedError, PinnedFile


class AzureStore(AzureBlobFileSystem):  # type: ignore[misc]
    """The file system of adlfs; the account comes from the variables `AZURE_STORAGE_*`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(connection_timeout=10, read_timeout=30, **options)

    def do_connect(self) -> None:
        """Make the client; called by adlfs.

        Raises:
            ValueError: No variable names the account.
        """
        super().do_connect()
        # By itself it tries four times and sleeps for 15 s and more in between; ours wait, too.
        policy = self.service_client._config.retry_policy
        policy.total_retries = 1
        policy.initial_backoff, policy.increment_base, policy.random_jitter_range = 0.5, 0, 0.25

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode != "rb":
            return super()._open(path, mode, **options)
        return PinnedFile(self, path, mode, **options)

    def read_range(self, path: str, details: dict[str, Any], start: int, end: int) -> bytes:
        """Bytes of the version that `details` tells of.

        Raises:
            ObjectChangedError: It has been replaced or removed.
        """
        data: bytes = sync(self.loop, self._read_range, path, details["etag"], start, end)
        return data

    async def _read_range(self, path: str, etag: str, start: int, end: int) -> bytes:
        container, blob, _ = self.split_path(path)
        async with self.service_client.get_blob_client(container, blob) as client:
            try:
                stream = await client.download_blob(
                    offset=start,
                    length=end - start,
                    etag=etag,
                    match_condition=MatchConditions.IfNotModified,
                    **self._timeout_kwargs,
                )
                data: bytes = await stream.readall()
            except (ResourceModifiedError, ResourceNotFoundError) as error:
                raise ObjectChangedError(f"version {etag} is gone") from error
        return data
