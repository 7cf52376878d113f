"""The batch job: a manifest of textures in, a Parquet data set of new textures out.

What is here reads what it made: as data frames and images, or to train on. Names are imported when
they are asked for, so that other parts of the package do not wait for pandas.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.dataset import BufferedShuffle, SyntheticTextures
    from pipeline.query import load_images, load_metrics
    from pipeline.stream import StreamedTextures

__all__ = [
    "BufferedShuffle",
    "StreamedTextures",
    "SyntheticTextures",
    "load_images",
    "load_metrics",
]

_MODULES = {
    "BufferedShuffle": "pipeline.dataset",
    "StreamedTextures": "pipeline.stream",
    "SyntheticTextures": "pipeline.dataset",
    "load_images": "pipeline.query",
    "load_metrics": "pipeline.query",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
