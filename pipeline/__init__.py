"""The batch job: a manifest of textures in, a Parquet data set of new textures out.

`load_metrics` and `load_images` read what it made. They are imported when they are asked for, so
that other parts of the package do not wait for pandas.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.query import load_images, load_metrics

__all__ = ["load_images", "load_metrics"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("pipeline.query"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
