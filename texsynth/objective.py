"""The loss of a batch of lanes against their exemplars: Gram terms, spectrum term, range penalty.

total = sum over taps of 1e9 * sum((G - G_exemplar)^2) + 1e5 * spectrum term
      + 1e5 * sum(max(x - 1, 0)^2 + max(-x, 0)^2)

with the weights of a `SynthesisConfig`. Targets are computed once per exemplar, under `no_grad`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from texsynth.config import SynthesisConfig
from texsynth.features import TextureNetwork
from texsynth.gram import compute_gram, gram_term
from texsynth.images import luminance, validate_images
from texsynth.shapes import Images, LaneIndex, PerLane, PerTap
from texsynth.spectrum import colour_spectrum_term, compute_spectrum, gray_spectrum_term


@dataclass(frozen=True)
class LossTerms:
    """The parts of a loss, weights included, one number per lane.

    Args:
        gram: [B, L], per tap, in the order of the network.
        spectrum: [B]; zeros without a spectrum term.
        range: [B]; zeros without a range penalty.
    """

    gram: PerTap
    spectrum: PerLane
    range: PerLane

    @property
    def total(self) -> PerLane:
        """Sum of all terms, [B]."""
        return self.gram.sum(1) + self.spectrum + self.range


class TextureObjective:
    """The loss of B textures against B exemplars, lane by lane.

    Args:
        network: a frozen trunk; shared, never copied.
        exemplars: [B, 3, H, W], RGB in [0, 1], on the network's device.
        config: weights, taps and the kind of spectrum term.

    Attributes:
        taps: names of the taps in the loss, in the order of `LossTerms.gram`.

    Raises:
        TapError: if a tap is missing or the exemplars are too small for it.
        ValueError: if the exemplars are not finite [B, 3, H, W].
    """

    def __init__(self, network: TextureNetwork, exemplars: Images, config: SynthesisConfig) -> None:
        validate_images(exemplars, "exemplars")
        self.network = network
        self.config = config
        self.size = (exemplars.shape[-2], exemplars.shape[-1])
        self.taps = network.resolve_taps(config.taps, *self.size)
        self._gram_targets, self._spectrum_target = self._compute_targets(exemplars)

    @property
    def lanes(self) -> int:
        """Number of lanes, B."""
        return len(self._gram_targets[0])

    def __call__(self, images: Images) -> LossTerms:
        """The loss of each lane; differentiable, deterministic.

        Args:
            images: [B, 3, H, W], RGB, of the exemplars' size; values outside [0, 1] are allowed.

        Raises:
            ValueError: if the shape is another one.
        """
        if images.shape != (self.lanes, 3, *self.size):
            raise ValueError(
                f"images are {list(images.shape)}, expected {[self.lanes, 3, *self.size]}"
            )
        features = self.network(images, self.taps)
        pairs = zip(features, self._gram_targets, strict=True)
        gram = torch.stack([gram_term(tap, target) for tap, target in pairs], dim=1)
        return LossTerms(
            gram=self.config.gram_weight * gram,
            spectrum=self._spectrum_term(images),
            range=self._range_term(images),
        )

    def value_and_gradient(self, images: Images) -> tuple[PerLane, Images]:
        """Total loss [B] in float64 and its gradient with respect to the images, [B, 3, H, W]."""
        with torch.enable_grad():
            variables = images.detach().requires_grad_(True)
            total = self(variables).total
            (gradient,) = torch.autograd.grad(total.sum(), variables)
        return total.detach().double(), gradient

    def replace(self, lanes: LaneIndex, other: TextureObjective) -> None:
        """Give the lanes named the targets of another objective's lanes, in place."""
        for mine, theirs in zip(self._targets(), other._targets(), strict=True):
            mine.index_copy_(0, lanes, theirs)

    def select(self, lanes: LaneIndex) -> TextureObjective:
        """An objective of some of the lanes, in the order given."""
        chosen = object.__new__(TextureObjective)
        chosen.__dict__.update(self.__dict__)
        chosen._gram_targets = [target[lanes] for target in self._gram_targets]
        if self._spectrum_target is not None:
            chosen._spectrum_target = self._spectrum_target[lanes]
        return chosen

    def _targets(self) -> list[Tensor]:
        spectrum = [] if self._spectrum_target is None else [self._spectrum_target]
        return [*self._gram_targets, *spectrum]

    @torch.no_grad()
    def _compute_targets(self, exemplars: Images) -> tuple[list[Tensor], Tensor | None]:
        grams = [compute_gram(tap) for tap in self.network(exemplars, self.taps)]
        if self.config.spectrum == "none":
            return grams, None
        if self.config.spectrum == "gray":
            return grams, compute_spectrum(luminance(exemplars)).abs()
        return grams, compute_spectrum(exemplars)

    def _spectrum_term(self, images: Images) -> PerLane:
        if self._spectrum_target is None:
            return images.new_zeros(len(images))
        if self.config.spectrum == "gray":
            term = gray_spectrum_term(luminance(images), self._spectrum_target)
        else:
            term = colour_spectrum_term(images, self._spectrum_target)
        return self.config.spectrum_weight * term

    def _range_term(self, images: Images) -> PerLane:
        """Smooth, so that the curvature pairs stay useful; clamping would break them."""
        if self.config.range_weight == 0:
            return images.new_zeros(len(images))
        outside = images - images.clamp(0, 1)
        return self.config.range_weight * outside.square().sum((1, 2, 3))
