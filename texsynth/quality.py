"""All measures of a finished texture beside its exemplar, in one record.

Each measure is a function of batches, in a file of its kind: `displacement`, `copies`, `colour`,
`spectral`, `wavelet`, `artefacts`, `fit`, `perceptual`. docs/quality.md has the table of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from texsynth.artefacts import (
    border_contrast,
    clipped_share,
    local_contrast_drift,
    local_mean_drift,
    out_of_range_share,
    seam_score,
)
from texsynth.colour import colour_covariance_distance, colour_mean_distance, sliced_wasserstein
from texsynth.copies import layout_correlation, phase_correlation_peak, verbatim_share
from texsynth.displacement import displacement_score
from texsynth.features import TapError, TextureNetwork
from texsynth.fit import GramFit, measure_fit
from texsynth.images import image_to_tensor, load_exemplar
from texsynth.pairs import PairError, validate_pairs
from texsynth.perceptual import PerceptualError, perceptual_distance
from texsynth.precision import exact_arithmetic
from texsynth.shapes import Images, PerLane
from texsynth.spectral import (
    autocorrelation_error,
    chroma_noise,
    colour_spectrum_error,
    high_frequency_ratio,
    spectrum_error,
)
from texsynth.wavelet import wavelet_kl

AnyImage = Tensor | Image.Image | np.ndarray | str | Path

MIN_SIDE = 32
"""Shorter side below which nothing is measured, px: coarse wavelets would see borders only."""

_PAIR_MEASURES: tuple[Callable[[Images, Images], PerLane], ...] = (
    *(displacement_score, phase_correlation_peak, verbatim_share),
    *(colour_mean_distance, colour_covariance_distance, sliced_wasserstein),
    *(spectrum_error, colour_spectrum_error, autocorrelation_error, wavelet_kl),
    *(high_frequency_ratio, local_mean_drift, local_contrast_drift),
)
_IMAGE_MEASURES: tuple[Callable[[Images], PerLane], ...] = (
    *(chroma_noise, clipped_share, border_contrast, seam_score),
)
"""Measured of the exemplar as well, for a yardstick."""


@dataclass(frozen=True, kw_only=True)
class QualityMeasures:
    """Numbers about one texture beside its exemplar; None where something is missing.

    Args:
        displacement_score: 0 copied in small patches, about .8 new.
        layout_correlation, layout_correlation_shifted: 1 the same layout, at zero shift and at the
            best cyclic shift.
        phase_correlation_peak: 1 a cyclic shift of the exemplar.
        verbatim_share: share covered by 16 px blocks of the exemplar.
        colour_mean_distance, colour_covariance_distance, sliced_wasserstein: of the colours.
        spectrum_error, colour_spectrum_error: relative, of the Fourier magnitudes.
        autocorrelation_error: relative, at lags to a quarter of the side.
        wavelet_kl: divergence of the wavelet marginals, summed over 27 sub-bands.
        high_frequency_ratio: fine detail over the exemplar's.
        local_mean_drift, local_contrast_drift: how much more uneven than the exemplar.
        out_of_range_share: of the values, before any clamping.
        chroma_noise, clipped_share, border_contrast, seam_score: of the texture; the same names
            with `exemplar_` are of the exemplar.
        gram_errors: relative Gram error of each tap of the loss; empty without a network.
        held_out_tap, held_out_gram_error: the same of a tap that the loss does not use.
        perceptual_distance: DISTS.
        skipped: why, for each measure that is None.
    """

    out_of_range_share: float
    chroma_noise: float
    exemplar_chroma_noise: float
    clipped_share: float
    exemplar_clipped_share: float
    border_contrast: float
    exemplar_border_contrast: float
    seam_score: float
    exemplar_seam_score: float
    displacement_score: float | None = None
    layout_correlation: float | None = None
    layout_correlation_shifted: float | None = None
    phase_correlation_peak: float | None = None
    verbatim_share: float | None = None
    colour_mean_distance: float | None = None
    colour_covariance_distance: float | None = None
    sliced_wasserstein: float | None = None
    spectrum_error: float | None = None
    colour_spectrum_error: float | None = None
    autocorrelation_error: float | None = None
    wavelet_kl: float | None = None
    high_frequency_ratio: float | None = None
    local_mean_drift: float | None = None
    local_contrast_drift: float | None = None
    gram_errors: Mapping[str, float] = field(default_factory=dict)
    held_out_tap: str | None = None
    held_out_gram_error: float | None = None
    perceptual_distance: float | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)


def score(
    texture: AnyImage,
    exemplar: AnyImage,
    network: TextureNetwork | None = None,
    *,
    perceptual: bool = False,
) -> QualityMeasures:
    """All measures of one pair of images of whatever origin.

    Args:
        texture: a file, a PIL image, an array [H, W, 3] of uint8, or a tensor [3, H, W], float in
            [0, 1] or uint8. It is measured at its own size: nothing is resized or cropped.
        exemplar: the same. Of another size, what needs equal sizes is None.
        network: for the Gram errors; None leaves them out.
        perceptual: whether the learned distance is wanted.

    Returns:
        Plain numbers; `skipped` says why those are missing that are.

    Raises:
        ImageError: if a file cannot be decoded.
        OSError: if it cannot be read.
        PairError: for a side below 32 px.
        ValueError: for another shape, or pixels that are not finite.
    """
    device = torch.device("cpu") if network is None else network.device
    textures, exemplars = (_to_tensor(image)[None].to(device) for image in (texture, exemplar))
    (measures,) = measure_quality(textures, exemplars, network, perceptual=perceptual)
    return measures


@torch.no_grad()
def measure_quality(
    textures: Images,
    exemplars: Images,
    network: TextureNetwork | None = None,
    *,
    perceptual: bool = False,
) -> tuple[QualityMeasures, ...]:
    """All measures of B pairs of images, lane by lane.

    Args:
        textures: [B, 3, H, W], nominally in [0, 1]; values outside count as such and are measured.
        exemplars: [B, 3, H', W'] in [0, 1], on the same device.
        network: on that device, for the Gram errors; None leaves them out.
        perceptual: whether the learned distance is wanted.

    Raises:
        PairError: for a side below 32 px.
        ValueError: for images that do not fit each other, or pixels that are not finite.
    """
    validate_pairs(textures, exemplars, fewest_px=MIN_SIDE)
    skipped: dict[str, str] = {}
    with exact_arithmetic():
        values = _compare(textures, exemplars, skipped) | _measure_each(textures, exemplars)
        if perceptual:
            with _skipping(skipped, "perceptual_distance"):
                values["perceptual_distance"] = perceptual_distance(textures, exemplars)
        else:
            skipped["perceptual_distance"] = "not asked for"
        fit = _measure_fit(network, textures, exemplars, skipped)
    if fit.held_out_error is not None:
        values["held_out_gram_error"] = fit.held_out_error
    return tuple(
        QualityMeasures(
            **{name: value[lane].item() for name, value in values.items()},
            gram_errors={tap: error[lane].item() for tap, error in fit.errors.items()},
            held_out_tap=fit.held_out_tap,
            skipped=skipped,
        )
        for lane in range(len(textures))
    )


def _compare(textures: Images, exemplars: Images, skipped: dict[str, str]) -> dict[str, PerLane]:
    values: dict[str, PerLane] = {}
    for measure in _PAIR_MEASURES:
        with _skipping(skipped, measure.__name__):
            values[measure.__name__] = measure(textures, exemplars)
    layouts = ("layout_correlation", "layout_correlation_shifted")
    with _skipping(skipped, *layouts):
        values |= zip(layouts, layout_correlation(textures, exemplars), strict=True)
    return values


def _measure_each(textures: Images, exemplars: Images) -> dict[str, PerLane]:
    values = {"out_of_range_share": out_of_range_share(textures)}
    for measure in _IMAGE_MEASURES:
        values[measure.__name__] = measure(textures)
        values[f"exemplar_{measure.__name__}"] = measure(exemplars)
    return values


def _measure_fit(
    network: TextureNetwork | None, textures: Images, exemplars: Images, skipped: dict[str, str]
) -> GramFit:
    names = ("gram_errors", "held_out_gram_error")
    if network is None:
        skipped |= dict.fromkeys(names, "no network given")
        return GramFit({}, None, None)
    try:
        fit = measure_fit(network, textures, exemplars)
    except TapError as error:
        skipped |= dict.fromkeys(names, str(error))
        return GramFit({}, None, None)
    if fit.held_out_tap is None:
        skipped["held_out_gram_error"] = "the network has no tap to spare"
    return fit


@contextlib.contextmanager
def _skipping(skipped: dict[str, str], *names: str) -> Iterator[None]:
    """Note why these cannot be measured of these images, or here, and go on."""
    try:
        yield
    except (PairError, PerceptualError) as error:
        skipped |= dict.fromkeys(names, str(error))


def _to_tensor(image: AnyImage) -> Tensor:
    return load_exemplar(image) if isinstance(image, str | Path) else image_to_tensor(image)
