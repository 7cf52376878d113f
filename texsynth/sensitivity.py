"""How strongly each part of the loss answers to the image, and weights that even it out.

Seen as a sum of squares, the loss has entries of very unequal slope: some entries of a Gram
difference D answer to any change of the image far more strongly than others, and a method of
descent spends its evaluations on them. With U the eigenvectors of the exemplar's Gram matrix of
a tap, the mean square of the answer of entry (i, j) of U^T D U to white noise v is measured,

    d_ij = gram_weight * E[(U^T (G(x + h v) - G(x)) U / h)_ij^2],   |J_ij|^2 of a Jacobian J,

and the entry counts w_ij = (1 + d_ij / (FLOOR * d_max))^(-1/2) times. The spectrum term and the
range penalty, whose slopes are known, are weighted alike. All weights lie in (0, 1], so the loss
has the same zeros; its entries are to fall at like rates. It is the Jacobi preconditioner of the
normal equations in the space of residuals (Saad, "Iterative Methods for Sparse Linear Systems",
2003, section 9.5), with half its exponent. What it brings, and what other values of FLOOR and
PROBES do: benchmarks/convergence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from texsynth.config import Spectrum, SynthesisConfig
from texsynth.features import Padding, TextureNetwork
from texsynth.gram import GramMetric
from texsynth.shapes import GramMatrix, Images, PerLane
from texsynth.tiling import choose_tile_px, compute_grams

PROBES = 8
"""Noise images that the answers are averaged over."""
PROBE_STEP = 0.01
"""Standard deviation of the noise, in the units of a pixel: small beside the contrast of textures,
large beside the rounding of float32."""
PROBE_SEED = 0
"""The noise is the same for all lanes, so that no lane depends on its neighbours."""
FLOOR = 1e-4
"""Share of the strongest answer up to which entries count alike."""
SLOPES_OF_SPECTRUM: dict[Spectrum, float] = {"none": 0.0, "gray": 0.22, "colour": 0.5}
"""Mean square slope of a residual of the spectrum term: 1/2 |w|^2 with the luminance weights w; 1/2
in colour."""
PROBE_COST = (PROBES + 1) / 2
"""Evaluations that measuring costs: a forward pass is half of one."""


def measuring_cost(config: SynthesisConfig) -> float:
    """Evaluations at a level that go to measuring its weights; 0 where there are none."""
    return 0.0 if config.weighting == "none" else PROBE_COST


def choose_padding(config: SynthesisConfig) -> Padding:
    """What the network sees beyond the border of a texture."""
    return "circular" if config.tileable else "constant"


@dataclass(frozen=True)
class LossMetric:
    """Weights of all parts of the loss, per lane, in (0, 1].

    Args:
        gram: of every tap's Gram differences.
        spectrum, range: [B], of the two other terms.
    """

    gram: tuple[GramMetric, ...]
    spectrum: PerLane
    range: PerLane


@torch.no_grad()
def measure_metric(
    network: TextureNetwork,
    taps: Sequence[str],
    targets: Sequence[GramMatrix],
    images: Images,
    config: SynthesisConfig,
) -> LossMetric:
    """Weights for a descent that begins at some images.

    Args:
        network: the trunk; PROBES + 1 forward passes are made.
        taps: of the loss.
        targets: [B, N, N] of every tap, of the exemplars.
        images: [B, 3, H, W].
        config: weights of the terms.
    """
    bases = [_compute_eigenvectors(target) for target in targets]
    answers = _measure_answers(network, taps, bases, images, config)
    slopes = [config.gram_weight * answer for answer in answers]
    factor = config.spectrum_factor(images[0, 0].numel())
    slope_of_spectrum = factor * SLOPES_OF_SPECTRUM[config.spectrum]
    strongest = torch.stack([slope.amax((1, 2)) for slope in slopes]).amax(0)
    strongest = strongest.clamp(min=max(slope_of_spectrum, config.range_weight))
    # Where nothing answers, all entries count alike.
    floor = FLOOR * strongest + torch.finfo(strongest.dtype).tiny
    return LossMetric(
        gram=tuple(
            GramMetric(basis, (1 + slope / floor[:, None, None]).rsqrt())
            for basis, slope in zip(bases, slopes, strict=True)
        ),
        spectrum=(1 + slope_of_spectrum / floor).rsqrt(),
        range=(1 + config.range_weight / floor).rsqrt(),
    )


def _compute_eigenvectors(target: GramMatrix) -> GramMatrix:
    """Columns, of each lane by itself: a batched solver may turn those of equal eigenvalues."""
    return torch.stack([torch.linalg.eigh(lane.double())[1].to(lane) for lane in target])


def _measure_answers(
    network: TextureNetwork,
    taps: Sequence[str],
    bases: Sequence[GramMatrix],
    images: Images,
    config: SynthesisConfig,
) -> list[GramMatrix]:
    """Mean square answers of every tap's Gram entries, in its basis."""
    generator = torch.Generator().manual_seed(PROBE_SEED)
    size = images.shape[-2], images.shape[-1]
    how = choose_padding(config), choose_tile_px(config.tile_px, size)
    before = compute_grams(network, images, taps, *how)
    answers = [torch.zeros_like(gram) for gram in before]
    for _ in range(PROBES):
        noise = torch.randn(images.shape[1:], generator=generator).to(images)
        after = compute_grams(network, images + PROBE_STEP * noise, taps, *how)
        for answer, gram, moved, basis in zip(answers, before, after, bases, strict=True):
            change = (moved - gram) / PROBE_STEP
            answer += (basis.mT @ change @ basis).square() / PROBES
    return answers
