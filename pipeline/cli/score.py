"""`texsynth score EXEMPLAR TEXTURE`: all measures of a pair of images of whatever origin."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from pipeline.cli.places import LocalFile
from pipeline.downloads import load_network
from pipeline.terminal import visible
from texsynth import (
    ExemplarTriage,
    PairError,
    QualityMeasures,
    load_exemplar,
    measure_quality,
    triage_exemplars,
)
from texsynth.config import ConfigError
from texsynth.features import Normalisation
from texsynth.quality import MIN_SIDE

GOOD = {
    "displacement_score": "above 0.7; a copy is 0",
    "verbatim_share": "near 0; a copy is 1",
    "layout_correlation": "below 0.5; a copy is 1",
    "layout_correlation_shifted": "low, unless the exemplar is periodic",
    "phase_correlation_peak": "below 0.2; a cyclic shift is 1",
    "colour_mean_distance": "near 0",
    "colour_covariance_distance": "near 0",
    "sliced_wasserstein": "near 0",
    "spectrum_error": "near 0",
    "colour_spectrum_error": "near 0",
    "autocorrelation_error": "low; white noise is about 1",
    "high_frequency_ratio": "1; blur is below, noise above",
    "wavelet_kl": "below 1",
    "chroma_noise": "as the exemplar's",
    "out_of_range_share": "0",
    "clipped_share": "as the exemplar's",
    "local_mean_drift": "near 0; stains are above",
    "local_contrast_drift": "near 0; uneven contrast is above",
    "border_contrast": "as the exemplar's",
    "seam_score": "1 tiles; a photograph has more",
    "held_out_gram_error": "as another crop's of the exemplar",
    "perceptual_distance": "low among new textures",
}
"""In the order of the table; docs/quality.md has the whole story."""


def score(
    exemplar: LocalFile,
    texture: LocalFile,
    /,
    *,
    weights: str | None = None,
    normalisation: Normalisation | None = None,
    perceptual: Annotated[bool, Parameter(negative="")] = False,
    device: str | None = None,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Measure a texture beside its exemplar: copies, colour, spectrum, artefacts, fit.

    Both images are measured at their own size; nothing is resized or cropped.

    Args:
        exemplar: Image file.
        texture: Image file, of whatever origin.
        weights: imagenet, hed, random:SEED, or a .pth or .safetensors file or URI, for the Gram
            errors; default: none, and no Gram errors.
        normalisation: Of the network's input; by default what belongs to the weights.
        perceptual: Measure DISTS as well; it needs the extra `perceptual` and VGG16's weights.
        device: cpu, cuda or cuda:N; default: cuda where there is one.
        json_: Print one JSON object instead of a table.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device != "cpu" and not torch.cuda.is_available():
        raise ConfigError(f"device is {device!r}, this machine has no CUDA device; expected cpu")
    images = [_load(path).to(device) for path in (exemplar, texture)]
    network = None
    if weights is not None:
        network = load_network(weights, normalisation=normalisation, device=device)
    (measures,) = measure_quality(images[1][None], images[0][None], network, perceptual=perceptual)
    (kind,) = triage_exemplars(images[0][None])
    if json_:
        print(json.dumps(_to_json((exemplar, texture), images, measures, kind), indent=2))
    else:
        _print_table((exemplar, texture), images, measures, kind)
    return 0


def _load(path: Path) -> Tensor:
    image = load_exemplar(path)
    _, height, width = image.shape
    if min(height, width) < MIN_SIDE:
        raise PairError(f"image {str(path)!r}: {width}x{height} px, expected at least {MIN_SIDE}")
    return image


def _to_json(
    paths: tuple[Path, Path], images: list[Tensor], measures: QualityMeasures, kind: ExemplarTriage
) -> dict[str, Any]:
    files = [
        {"path": str(path), "height": image.shape[1], "width": image.shape[2]}
        for path, image in zip(paths, images, strict=True)
    ]
    return {
        "exemplar": files[0] | dataclasses.asdict(kind),
        "texture": files[1],
        "measures": dataclasses.asdict(measures),
    }


def _print_table(
    paths: tuple[Path, Path], images: list[Tensor], measures: QualityMeasures, kind: ExemplarTriage
) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for name, path, image in zip(("exemplar", "texture"), paths, images, strict=True):
        size = f"{image.shape[2]}x{image.shape[1]} px"
        console.print(Text(visible(f"{name}: {path}, {size}")))
    console.print(Text(_describe(kind)))
    table = Table("measure", "texture", "exemplar", "good", box=None, pad_edge=False)
    for column in table.columns[1:3]:
        column.justify = "right"
    for row in _rows(measures):
        table.add_row(*row)
    console.print(table)
    for reason, names in _reasons(measures).items():
        console.print(Text(visible(f"not measured: {', '.join(names)}: {reason}")))


def _describe(kind: ExemplarTriage) -> str:
    period = "no period"
    if kind.dominant_period_px is not None:
        period = f"period {kind.dominant_period_px:.0f} px"
    return (
        f"the exemplar is {kind.kind.replace('_', ' ')}: autocorrelation peak "
        f"{kind.autocorrelation_peak:.2f}, {period}, quadrant spread {kind.quadrant_spread:.2f}, "
        f"contrast {kind.contrast:.3f}"
    )


def _rows(measures: QualityMeasures) -> Iterator[tuple[str, str, str, str]]:
    values = dataclasses.asdict(measures)
    for name, good in GOOD.items():
        if name == "held_out_gram_error":
            for tap, error in measures.gram_errors.items():
                yield f"gram_error {tap}", f"{error:.3g}", "", "near 0"
        if values[name] is not None:
            label = f"{name} {measures.held_out_tap}" if name.startswith("held") else name
            own = values.get(f"exemplar_{name}")
            yield label, f"{values[name]:.3g}", "" if own is None else f"{own:.3g}", good


def _reasons(measures: QualityMeasures) -> dict[str, list[str]]:
    """Reason to the measures that were skipped for it."""
    reasons: dict[str, list[str]] = {}
    for name, reason in measures.skipped.items():
        reasons.setdefault(reason, []).append(name)
    return reasons
