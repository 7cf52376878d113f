"""The algorithm of the public reference implementation, its waste included: the baseline of speed.

Liu, Gousseau, Xia, "Texture Synthesis Through Convolutional Neural Networks and Spectrum
Constraints" (ICPR 2016, arXiv 1605.01141), as the public PyTorch implementation TextureSynthesisCNN
does it. Nothing here calls what it is compared with: of `texsynth` it takes the tensors of a
network, the constants of the loss, the start image and the luminance.

What it spends beyond need, all on purpose:

* two whole networks, one for the exemplar and one for the texture, each run to its last layer,
  however deep the deepest tap;
* trainable parameters: every backward pass computes gradients of the weights, adds them up, and
  nobody uses them;
* the projection form of the spectrum term, by full transforms, and the exemplar's transform anew at
  every evaluation;
* one more forward pass after every 20 evaluations, for the loss that it reports.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from texsynth.config import REFERENCE_SPECTRUM_FACTOR, SynthesisConfig
from texsynth.features import TextureNetwork
from texsynth.images import luminance, validate_images
from texsynth.shapes import FeatureMap, Images, Luminance
from texsynth.start import draw_starts

REFERENCE = SynthesisConfig.preset("reference")
ITERATIONS_PER_EPOCH = 20
"""Default of torch.optim.LBFGS, and the reference's epoch."""
EPSILON = 1e-8
"""Keeps z / |z| finite at z = 0."""


@dataclass(frozen=True)
class EpochRecord:
    """What is known after an epoch.

    Args:
        epoch: counted from 1.
        evaluations: closures so far, each a forward and a backward pass.
        seconds: wall clock of all epochs so far; neither what the caller does between two of them
            nor the making of the `ReferenceAlgorithm` counts.
        loss: of the unclamped image, from the forward pass that ends the epoch.
    """

    epoch: int
    evaluations: int
    seconds: float
    loss: float


class ReferenceAlgorithm:
    """One texture by the reference's algorithm: a batch of one, torch.optim.LBFGS, no line search.

    loss = sum over taps of 1e9 * sum((G - G_exemplar)^2) + 1e5 * 1/2 * sum((g - P(g))^2)

    Precision is torch's own, as it stands when `run` is called: TF32 convolutions on a GPU that has
    them, unless the caller turns them off.

    Args:
        network: gives architecture, tensors, input normalisation, device and dtype; copied twice,
            never used itself.
        exemplar: [3, H, W], RGB in [0, 1].
        taps: feature maps in the loss, names out of `network.available_taps`.
        start: seed of a start image sigmoid(N(0, 1)), or the start image itself, [3, H, W].

    Attributes:
        variables: [1, 3, H, W], what L-BFGS moves.
        losses: of every evaluation so far, in order.
        synthesis_features, exemplar_features: the two networks; indices are torchvision's.

    Raises:
        TapError: if a tap is missing or the exemplar is too small for it.
        ValueError: if exemplar or start are not finite [3, H, W], or of two sizes.
    """

    def __init__(
        self, network: TextureNetwork, exemplar: Tensor, taps: Sequence[str], start: int | Tensor
    ) -> None:
        exemplars = exemplar[None].to(network.mean)
        validate_images(exemplars, "exemplar")
        chosen = network.resolve_taps(tuple(taps), *exemplar.shape[-2:])
        self._tap_indices = [
            layer.index + (layer.channels is not None)  # the ReLU follows its convolution
            for layer in network.layers
            if layer.tap in chosen
        ]
        self._mean, self._std = network.mean, network.std
        self.synthesis_features = build_features(network)
        self.exemplar_features = build_features(network)
        self._exemplar_gray = luminance(exemplars)
        maps = self._compute_maps(self.exemplar_features, exemplars)
        self._exemplar_grams = [compute_reference_gram(tap).detach() for tap in maps]
        self.variables = _make_start(exemplars, start).requires_grad_()
        self.losses: list[float] = []
        self._epoch, self._seconds = 0, 0.0
        self._optimizer = torch.optim.LBFGS(
            [self.variables],
            lr=1,
            max_iter=ITERATIONS_PER_EPOCH,
            history_size=REFERENCE.optimizer.history,
        )

    @property
    def image(self) -> Tensor:
        """A copy of the texture as it stands, [3, H, W]; may leave [0, 1]."""
        return self.variables.detach()[0].clone()

    def run(self, epochs: int) -> Iterator[EpochRecord]:
        """Go on by so many epochs, from where the last call ended.

        Yields:
            A record after each; whoever stops asking stops the work.
        """
        for _ in range(epochs):
            begun = time.perf_counter()
            self._optimizer.step(self.evaluate)  # type: ignore[no-untyped-call]
            with torch.no_grad():
                loss = self.compute_loss().item()  # waits for the device
            self._seconds += time.perf_counter() - begun
            self._epoch += 1
            yield EpochRecord(self._epoch, len(self.losses), self._seconds, loss)

    def evaluate(self) -> float:
        """The closure: loss, gradients of image and weights by a backward pass; kept in `losses`.

        The gradient of the image is cleared first, those of the weights never.
        """
        self._optimizer.zero_grad()
        loss = self.compute_loss()
        loss.backward()  # type: ignore[no-untyped-call]
        self.losses.append(loss.item())
        return self.losses[-1]

    def compute_loss(self) -> Tensor:
        """Gram terms and spectrum term of the texture, weights included: a scalar."""
        maps = self._compute_maps(self.synthesis_features, self.variables)
        loss = self.variables.new_zeros(())
        for tap, target in zip(maps, self._exemplar_grams, strict=True):
            difference = compute_reference_gram(tap) - target
            loss = loss + REFERENCE.gram_weight * difference.square().sum()
        return loss + REFERENCE_SPECTRUM_FACTOR * self._spectrum_term()

    def _spectrum_term(self) -> Tensor:
        gray = luminance(self.variables)
        return (gray - project(gray, self._exemplar_gray)).square().sum() / 2

    def _compute_maps(self, features: nn.Sequential, images: Images) -> list[FeatureMap]:
        """The taps, from a pass through all layers."""
        maps: list[FeatureMap] = []
        outputs = (images - self._mean) / self._std
        for index, layer in enumerate(features):
            outputs = layer(outputs)
            if index in self._tap_indices:
                maps.append(outputs)
        return maps


def build_features(network: TextureNetwork) -> nn.Sequential:
    """A trainable copy of all layers, average pools included, numbered as in torchvision."""
    modules: list[nn.Module] = []
    state: dict[str, Tensor] = {}
    for layer in network.layers:
        if layer.channels is None:
            modules.append(nn.AvgPool2d(2))
            continue
        for part in ("weight", "bias"):
            tensor = network.get_buffer(f"features_{layer.index}_{part}")
            state[f"{layer.index}.{part}"] = tensor.clone()
        convolution = nn.Conv2d(*layer.channels, kernel_size=3, padding=1, device="meta")
        modules += [convolution, nn.ReLU(inplace=True)]
    features = nn.Sequential(*modules)
    features.load_state_dict(state, assign=True)
    return features


def compute_reference_gram(features: FeatureMap) -> Float[Tensor, "N N"]:
    """G = F F^T / (4 N M) of a batch of one."""
    _, channels, height, width = features.shape
    flat = features.view(channels, height * width)
    return flat @ flat.T / (4 * channels * height * width)


def project(gray: Luminance, exemplar_gray: Luminance) -> Luminance:
    """P(g), the image with the phase of g and the Fourier magnitudes of the exemplar.

    P(g) = inverse transform of z / |z| * I, z = X conj(I): Liu, Gousseau, Xia (ICPR 2016), eqs. 6
    to 8, for one channel. Equal to X / |X| * |I|, but rounded otherwise: in this form float32
    gives the numbers that the reference prints (tests/benchmarks/test_reference_algorithm.py).
    """
    exemplar_spectrum = torch.fft.fft2(exemplar_gray)
    z = torch.fft.fft2(gray) * exemplar_spectrum.conj()
    projected: Tensor = torch.fft.ifft2(z / (z.abs() + EPSILON) * exemplar_spectrum)
    return projected.real


def _make_start(exemplars: Images, start: int | Tensor) -> Images:
    if isinstance(start, int):
        return draw_starts(exemplars, [start], "noise")
    images = start[None].to(exemplars, copy=True)
    validate_images(images, "start")
    if images.shape != exemplars.shape:
        raise ValueError(f"start is {list(start.shape)}, expected {list(exemplars.shape[1:])}")
    return images
