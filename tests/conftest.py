import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# Timings on a busy machine say nothing about the code.
settings.register_profile("texsynth", deadline=None)
settings.load_profile("texsynth")


@pytest.fixture(scope="session")
def shared_path() -> Path:
    """The folder of reference data that is not part of the project.

    Where the variable is set the data must be there: then no test may be skipped for its absence.
    """
    folder = os.environ.get("TEXSYNTH_SHARED")
    if not folder:
        pytest.skip("TEXSYNTH_SHARED is not set")
    if not Path(folder).is_dir():
        pytest.fail(f"TEXSYNTH_SHARED is {folder!r}, expected a folder")
    return Path(folder)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """On small tensors a second thread mostly waits, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
