import os
from pathlib import Path

import pytest
from hypothesis import settings

# Timings on a busy machine say nothing about the code.
settings.register_profile("texsynth", deadline=None)
settings.load_profile("texsynth")


@pytest.fixture(scope="session")
def shared_path() -> Path:
    """The folder of reference data that is not part of the project."""
    folder = os.environ.get("TEXSYNTH_SHARED")
    if not folder or not Path(folder).is_dir():
        pytest.skip("TEXSYNTH_SHARED names no folder")
    return Path(folder)
