import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from safetensors.torch import save_file

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


@pytest.fixture(scope="session")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first two convolutions of a VGG19, He-initialised: a synthesis takes milliseconds."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for index, (inputs, outputs) in {0: (3, 64), 2: (64, 64)}.items():
        kernel = torch.randn((outputs, inputs, 3, 3), generator=generator)
        tensors[f"features.{index}.weight"] = kernel * (2 / (9 * inputs)) ** 0.5
        tensors[f"features.{index}.bias"] = torch.zeros(outputs)
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_file(tensors, path)
    return path
