"""`texsynth weights list|get`: where weights come from, and fetching them ahead of a run."""

from cyclopts import App

from pipeline.downloads import load_network
from texsynth.weights import SOURCES, cache_directory

app = App(name="weights", help="List the sources of weights, or fetch one ahead.", version_flags=[])


@app.command(name="list")
def list_sources() -> None:
    """List the sources of weights and the cache directory."""
    for name, what in SOURCES.items():
        print(f"{name:12} {what}")
    print(f"cache: {cache_directory()} (TEXSYNTH_CACHE moves it)")


@app.command
def get(name: str, /) -> None:
    """Fetch weights into the cache, check them, and print their sha256.

    Args:
        name: imagenet or hed; a URI is fetched likewise, a path or random:SEED is checked only.
    """
    network = load_network(name)
    print(f"{network.weights_id}: {network.architecture}, tensors' sha256 {network.weights_sha256}")
