"""Find the factor of each HED convolution, on textures that scikit-image ships.

    python -m benchmarks.calibrate_hed

prints the mean activation of every convolution as published and the factors for `texsynth.hed`,
which bring the means to TARGETS, near those of VGG19 with input in [0, 1].
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import skimage.data
import torch

from texsynth.features import TextureNetwork
from texsynth.hed import HED_MEAN, convert_hed, fetch_hed_file
from texsynth.images import load_exemplar

TEXTURES = ("brick.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png")
TARGETS = (0.12, 0.45, 0.45, 0.45, 0.35, 0.4, 0.6) + (0.6,) * 6


def load_calibration_images(side_px: int = 256) -> torch.Tensor:
    """The textures, centre-cropped and resized: [5, 3, side, side]."""
    directory = Path(skimage.data.__file__).parent
    return torch.stack([load_exemplar(directory / name, side_px) for name in TEXTURES])


@torch.no_grad()
def compute_means(source: Path, images: torch.Tensor) -> list[float]:
    """Mean activation after each ReLU of the trunk as published."""
    tensors = convert_hed(source, (1.0,) * len(TARGETS))
    network = TextureNetwork(
        "vgg16", tensors, mean=HED_MEAN, weights_id="hed", weights_sha256="unscaled"
    )
    taps = [tap for tap in network.available_taps if tap.startswith("relu")]
    return [float(features.mean()) for features in network(images, taps)]


def main() -> None:
    """Print means and factors."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        means = compute_means(fetch_hed_file(Path(scratch)), load_calibration_images())
    print("mean activations:", " ".join(f"{mean:.4g}" for mean in means))
    scales = [target / mean for target, mean in zip(TARGETS, means, strict=True)]
    print("HED_SCALES:", ", ".join(f"{scale:.5g}" for scale in scales))


if __name__ == "__main__":
    main()
