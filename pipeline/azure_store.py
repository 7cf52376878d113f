"""Azure Blob Storage as the pipeline needs it: adlfs with short waits and ranges of one version."""

from __future__ import annotations

import logging
from typing import Any

from adlfs import AzureBlobFileSystem
from azure.core import MatchConditions
from azure.core.exceptions import ResourceModifiedError, ResourceNotFoundError
from fsspec.asyn import sync

from pipeline.pinned_file import ObjectChangedError, PinningStore

ACCOUNT_VARIABLES = (
    "AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME and what azure-identity finds, "
    "AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN"
)

# What it logs there, at length, it raises as well.
logging.getLogger("azure.identity").setLevel(logging.CRITICAL)


class NoAccountError(ValueError):
    """The environment does not say which account of Azure is meant, or not in a form that works."""


class AzureStore(PinningStore, AzureBlobFileSystem):  # type: ignore[misc]
    """The file system of adlfs; the account comes from the variables `AZURE_STORAGE_*`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(connection_timeout=10, read_timeout=30, **options)

    def do_connect(self) -> None:
        """Make the client; called by adlfs.

        Raises:
            NoAccountError: Says which variables may name the account.
        """
        try:
            super().do_connect()
        except ValueError as error:
            raise NoAccountError(
                f"az:// has no account: set {ACCOUNT_VARIABLES}; {error}"
            ) from error
        # By itself it tries four times and sleeps for 15 s and more in between; ours wait, too.
        policy = self.service_client._config.retry_policy
        policy.total_retries = 1
        policy.initial_backoff, policy.increment_base, policy.random_jitter_range = 0.5, 0, 0.25

    async def _ls(self, path: str, detail: bool = False, **options: Any) -> list[Any]:
        """One request for a page; adlfs asks for every folder whose name begins alike, too."""
        container, name, _ = self.split_path(path)
        prefix = f"{name.rstrip('/')}/" if name else ""
        async with self.service_client.get_container_client(container) as client:
            pages = client.walk_blobs(name_starts_with=prefix, include=["metadata"])
            try:
                entries = await self._details([found async for found in pages])
            except ResourceNotFoundError as error:
                raise FileNotFoundError(path) from error
        if not entries:
            raise FileNotFoundError(path)
        return entries if detail else [entry["name"] for entry in entries]

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
