"""Local copies of objects that are read more than once: manifests and weights.

They lie in the cache of texsynth, under a name that a digest of the URI and of the object's version
begins: one that is replaced in the store is fetched anew, and of several processes of a machine one
fetches.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from filelock import FileLock

import texsynth
from pipeline.object_store import StorageError
from pipeline.storage import AnyPath, as_path, download, is_uri
from texsynth.features import Normalisation
from texsynth.weights import cache_directory


def fetch(path: AnyPath) -> Path:
    """A local file with the content: itself, or a copy in the cache.

    Raises:
        FileNotFoundError: There is no such object.
        StorageError: It cannot be read.
        OSError: The cache cannot be written.
    """
    if isinstance(path, Path):
        return path
    found = path.stat()
    digest = hashlib.sha256(f"{path} {found.version} {found.st_size}".encode()).hexdigest()[:16]
    copy = cache_directory() / "objects" / digest / path.name
    if copy.is_file():
        return copy
    copy.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(copy.with_name(".lock")):
        if copy.is_file():
            return copy
        with tempfile.TemporaryDirectory(dir=copy.parent, prefix=".fetch-") as folder:
            unfinished = Path(folder) / path.name
            download(path, unfinished)
            if unfinished.stat().st_size != found.st_size:
                got = unfinished.stat().st_size
                raise StorageError(f"{path}: got {got} bytes, expected {found.st_size}")
            unfinished.replace(copy)
    return copy


def load_network(
    weights: str, *, normalisation: Normalisation | None = None, device: str = "cpu"
) -> texsynth.TextureNetwork:
    """As `texsynth.load_network`; the weights may also be an object of a store.

    Raises:
        WeightsError: They cannot be had, are damaged, or do not fit.
    """
    if is_uri(weights):
        try:
            weights = str(fetch(as_path(weights)))
        except OSError as error:
            raise texsynth.WeightsError(f"weights {weights!r}: {error}") from error
    return texsynth.load_network(weights, normalisation=normalisation, device=device)
