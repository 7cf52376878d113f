"""A learned perceptual distance, for those who install the extra `perceptual`.

Ding, Ma, Wang, Simoncelli, "Image quality assessment: unifying structure and texture similarity"
(IEEE TPAMI 2022), as in torchmetrics, which brings the distance's own weights; those of its VGG16
come from torch hub's cache or the network.
"""

from __future__ import annotations

import torch
from torch.nn import Module

from texsynth.pairs import validate_equal_shapes
from texsynth.shapes import Images, PerLane


class PerceptualError(RuntimeError):
    """The learned distance cannot be had here; the message says why and what to do."""


@torch.no_grad()
def perceptual_distance(textures: Images, exemplars: Images) -> PerLane:
    """DISTS: 1 - a weighted mean of the similarities of means and of covariances of VGG16 features.

    The texture part, of means, forgives other positions; the structure part does not, so that a
    sound texture scores worse than a slightly blurred copy. It compares textures of one exemplar.

    Args:
        textures: [B, 3, H, W] in [0, 1].
        exemplars: [B, 3, H, W] in [0, 1].

    Returns:
        [B] in [0, 1]; 0 for a copy, good is low among textures that are no copies.

    Raises:
        PerceptualError: if torchmetrics is not installed, or the weights cannot be had.
        ValueError: if the shapes differ.
    """
    validate_equal_shapes(textures, exemplars)
    network = _load_network().to(textures.device)
    distances: PerLane = network(textures.float(), exemplars.float())
    return distances.reshape(len(textures)).to(textures.dtype)


def _load_network() -> Module:
    try:
        from torchmetrics.functional.image.dists import DISTSNetwork
    except ImportError as error:
        raise PerceptualError(
            f"torchmetrics cannot be imported ({error}): pip install 'texsynth[perceptual]'"
        ) from error
    try:
        network: Module = DISTSNetwork()
    except (OSError, RuntimeError) as error:
        raise PerceptualError(
            f"the VGG16 weights of DISTS cannot be had ({error}): put vgg16-397923af.pth into "
            f"{torch.hub.get_dir()}/checkpoints"
        ) from error
    return network.eval()
