"""What an exemplar's network should see beyond its border where the texture has none.

Prints, for each padding, the relative error of the Gram matrices of a 128 px crop against those of
288 px around it, of positions that no padding reaches: `python -m benchmarks.tile_borders FOLDER
--weights FILE --normalisation imagenet`. Images smaller than 288 px are passed over.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from texsynth import TextureNetwork, load_exemplar, load_network
from texsynth.features import Padding
from texsynth.gram import compute_gram
from texsynth.shapes import GramMatrix, Images

LARGE, SMALL, TAPS = 288, 128, ("relu1_1", "pool1", "pool2", "pool3")
MARGIN = 26
"""Half the receptive field of pool3, px."""
PADDINGS: tuple[Padding, ...] = ("constant", "circular", "reflect")


def compute_inner_grams(network: TextureNetwork, images: Images) -> list[GramMatrix]:
    """Of the positions that see no padding."""
    grams = []
    for tap, features in zip(TAPS, network(images, TAPS), strict=True):
        stride = next(layer.stride for layer in network.layers if layer.tap == tap)
        margin = -(-MARGIN // stride)
        grams.append(compute_gram(features[..., margin:-margin, margin:-margin]))
    return grams


def cut_centre(image: Tensor, side: int) -> Tensor:
    """The square in the middle, [..., side, side]."""
    top, left = ((length - side) // 2 for length in image.shape[-2:])
    return image[..., top : top + side, left : left + side]


@torch.no_grad()
def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--normalisation", default=None)
    parser.add_argument("--images", type=int, default=16)
    arguments = parser.parse_args()
    network = load_network(arguments.weights, normalisation=arguments.normalisation)
    errors: dict[Padding, list[Tensor]] = {padding: [] for padding in PADDINGS}
    for path in sorted(arguments.folder.rglob("*.jpg")):
        image = load_exemplar(path)
        if min(image.shape[-2:]) < LARGE or len(errors["constant"]) == arguments.images:
            continue
        targets = compute_inner_grams(network, cut_centre(image, LARGE)[None])
        crop = cut_centre(image, SMALL)[None]
        for padding, found in errors.items():
            grams = [compute_gram(tap) for tap in network(crop, TAPS, padding)]
            pairs = zip(grams, targets, strict=True)
            found.append(torch.stack([(g - t).norm() / t.norm() for g, t in pairs]))
    print(f"| padding | {' | '.join(TAPS)} |")
    print("| --- |" + " ---: |" * len(TAPS))
    for padding, found in errors.items():
        means = torch.stack(found).mean(0).tolist()
        print(f"| {padding} | {' | '.join(f'{mean:.3f}' for mean in means)} |")


if __name__ == "__main__":
    main()
