"""The loss of a batch of lanes against their exemplars: Gram terms, spectrum term, range penalty.

total = sum over taps of 1e9 * sum((G - G_exemplar)^2) + 1e5 * spectrum term
      + 1e5 * sum(max(x - 1, 0)^2 + max(-x, 0)^2)

with the weights of a `SynthesisConfig`; where it says `clamp`, all but the last term are of x
clamped to [0, 1], so that what falls is the loss of the image that is stored. Targets are computed
once per exemplar, under `no_grad`. What is minimised may weight the parts of the sums otherwise
(`texsynth.sensitivity`); what is reported is the loss of the `reference` preset, without clamping
or a range penalty.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from texsynth.blend import Blend
from texsynth.borders import compute_position_weights
from texsynth.config import SynthesisConfig
from texsynth.features import Padding, TextureNetwork
from texsynth.gram import GramMetric, gram_distance, gram_term
from texsynth.images import luminance, validate_images
from texsynth.sensitivity import LossMetric, choose_padding, measure_metric
from texsynth.shapes import Images, LaneIndex, PerLane, PerTap
from texsynth.spectrum import colour_spectrum_term, compute_spectrum, gray_spectrum_term
from texsynth.tiling import choose_tile_px, compute_grams


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
        exemplars: [B, 3, H', W'], RGB in [0, 1], on the network's device; targets of the Gram
            terms.
        config: weights, taps and the kind of spectrum term.
        canvas: [B, 3, H, W], targets of what is of the whole image, of the textures' size
            (`texsynth.canvas`); the exemplars unless given.
        blend: second exemplars, whose Gram matrices enter the targets by their weights.

    Attributes:
        size: (H, W) of the textures.
        taps: names of the taps in the loss, in the order of `LossTerms.gram`.

    Raises:
        TapError: if a tap is missing, or exemplars or textures are too small for it.
        ValueError: if exemplars or canvas are not as many finite images.
    """

    def __init__(
        self,
        network: TextureNetwork,
        exemplars: Images,
        config: SynthesisConfig,
        canvas: Images | None = None,
        blend: Blend | None = None,
    ) -> None:
        validate_images(exemplars, "exemplars")
        canvas = exemplars if canvas is None else canvas
        validate_images(canvas, "canvas", lanes=len(exemplars))
        self.network = network
        self.config = config
        self.size = (canvas.shape[-2], canvas.shape[-1])
        exemplar_size = (exemplars.shape[-2], exemplars.shape[-1])
        self.taps = network.resolve_taps(config.taps, *self.size, exemplar_size)
        if config.tileable:
            network.require_tiling(self.taps, *self.size)
        self._gram_targets = self._compute_gram_targets(exemplars)
        if blend is not None:
            self._blend_gram_targets(blend)
        self._spectrum_target = self._compute_spectrum_target(canvas)
        self._metric: LossMetric | None = None

    @property
    def lanes(self) -> int:
        """Number of lanes, B."""
        return len(self._gram_targets[0])

    def __call__(self, images: Images) -> LossTerms:
        """The loss of each lane, all parts weighted as the config says; differentiable.

        Args:
            images: [B, 3, H, W], RGB, of the canvas' size; values outside [0, 1] are allowed.

        Raises:
            ValueError: if the shape is another one.
        """
        return self._compute_terms(images, None)

    def even_out(self, images: Images) -> None:
        """From here on let every part of the loss count by how it answers to changes of the images.

        It concerns `value_and_gradient` alone, and costs `sensitivity.PROBE_COST` evaluations.

        Args:
            images: [B, 3, H, W], where a descent begins.
        """
        self._metric = measure_metric(
            self.network, self.taps, self._gram_targets, self._seen(images), self.config
        )

    def make_plain(self, lane: int) -> None:
        """Let all parts of one lane's loss count alike again, as before `even_out`."""
        if self._metric is not None:
            taps = [tap.weight for tap in self._metric.gram]
            for weights in (*taps, self._metric.spectrum, self._metric.range):
                weights[lane] = 1

    def value_and_gradient(self, images: Images) -> tuple[PerLane, Images]:
        """What is minimised: total [B] in float64 and its gradient by the images, [B, 3, H, W].

        The loss, or after `even_out` the loss with all parts weighted anew.
        """
        with torch.enable_grad():
            variables = images.detach().requires_grad_(True)
            total = self._compute_terms(variables, self._metric).total
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
        if self._metric is not None:
            chosen._metric = LossMetric(
                tuple(GramMetric(*(part[lanes] for part in tap)) for tap in self._metric.gram),
                self._metric.spectrum[lanes],
                self._metric.range[lanes],
            )
        return chosen

    def _targets(self) -> list[Tensor]:
        """All that belongs to single lanes."""
        targets = list(self._gram_targets)
        if self._spectrum_target is not None:
            targets.append(self._spectrum_target)
        if self._metric is not None:
            targets += [part for tap in self._metric.gram for part in tap]
            targets += [self._metric.spectrum, self._metric.range]
        return targets

    def _compute_terms(self, images: Images, metric: LossMetric | None) -> LossTerms:
        if images.shape != (self.lanes, 3, *self.size):
            raise ValueError(
                f"images are {list(images.shape)}, expected {[self.lanes, 3, *self.size]}"
            )
        seen = self._seen(images)
        gram = self._gram_terms(seen, metric)
        spectrum, outside = self._spectrum_term(seen), self._range_term(images)
        return LossTerms(
            gram=self.config.gram_weight * gram,
            spectrum=spectrum if metric is None else metric.spectrum * spectrum,
            range=outside if metric is None else metric.range * outside,
        )

    def _gram_terms(self, images: Images, metric: LossMetric | None) -> PerTap:
        """Without weight, [B, L]; a large image passes the network by tiles."""
        metrics = [None] * len(self.taps) if metric is None else metric.gram
        padding = choose_padding(self.config)
        tile_px = choose_tile_px(self.config.tile_px, self.size)
        if tile_px is None:
            maps = self.network(images, self.taps, padding)
            wholes = zip(maps, self._gram_targets, metrics, strict=True)
            return torch.stack([gram_term(*whole) for whole in wholes], dim=1)
        grams = compute_grams(self.network, images, self.taps, padding, tile_px)
        triples = zip(grams, self._gram_targets, metrics, strict=True)
        return torch.stack([gram_distance(*triple) for triple in triples], dim=1)

    @torch.no_grad()
    def _compute_gram_targets(self, exemplars: Images) -> list[Tensor]:
        # A tile has no border, an exemplar has one: mirrored there, its Gram matrices are nearer to
        # those without a border than with zeros (measured: benchmarks/tile_borders).
        padding: Padding = "reflect" if self.config.tileable else "constant"
        tile_px = choose_tile_px("auto", (exemplars.shape[-2], exemplars.shape[-1]))
        # One by one, and by tiles of no other setting: an eigenbasis (`texsynth.sensitivity`)
        # magnifies how they round.
        weights = self._weigh_positions(exemplars)
        singles = [
            compute_grams(
                self.network, exemplar[None], self.taps, padding, tile_px, weights=weights
            )
            for exemplar in exemplars
        ]
        return [torch.cat(lanes) for lanes in zip(*singles, strict=True)]

    def _weigh_positions(self, exemplars: Images) -> list[Tensor] | None:
        """How often the exemplars' positions count; None: all alike."""
        own = (exemplars.shape[-2], exemplars.shape[-1])
        if self.config.tileable or own == self.size:
            return None
        return compute_position_weights(self.network, self.taps, own, self.size)

    def _blend_gram_targets(self, blend: Blend) -> None:
        lanes = blend.lanes
        others = self._compute_gram_targets(blend.partners[lanes]) if len(lanes) else []
        for target, other in zip(self._gram_targets, others, strict=False):
            share = blend.weights[lanes, None, None].to(other)
            target.index_copy_(0, lanes, torch.lerp(target[lanes], other, share))

    def _compute_spectrum_target(self, canvas: Images) -> Tensor | None:
        if self.config.spectrum == "none":
            return None
        if self.config.spectrum == "gray":
            return compute_spectrum(luminance(canvas)).abs()
        return compute_spectrum(canvas)

    def _seen(self, images: Images) -> Images:
        """What all terms but the range penalty are of."""
        return images.clamp(0, 1) if self.config.clamp else images

    def _spectrum_term(self, images: Images) -> PerLane:
        if self._spectrum_target is None:
            return images.new_zeros(len(images))
        if self.config.spectrum == "gray":
            term = gray_spectrum_term(luminance(images), self._spectrum_target)
        else:
            term = colour_spectrum_term(images, self._spectrum_target)
        return self.config.spectrum_factor(math.prod(self.size)) * term

    def _range_term(self, images: Images) -> PerLane:
        """Its gradient is continuous, and the only one that a pixel has far outside."""
        if self.config.range_weight == 0:
            return images.new_zeros(len(images))
        outside = images - images.clamp(0, 1)
        return self.config.range_weight * outside.square().sum((1, 2, 3))
