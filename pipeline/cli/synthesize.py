"""`texsynth synthesize IMAGE... --out DIR`: single images, without a manifest."""

from pathlib import Path
from typing import Annotated

import torch
from cyclopts import Parameter, validators
from pydantic import ValidationError

from pipeline.cli.places import LocalFile, local_only
from pipeline.config import RunConfig
from pipeline.config_file import describe_validation
from pipeline.downloads import load_network
from texsynth import TextureSynthesizer
from texsynth.config import ConfigError, PresetName
from texsynth.features import Normalisation


def synthesize(
    *images: LocalFile,
    out: Annotated[Path, local_only("pictures are written to a disk")],
    preset: PresetName = "default",
    weights: str = "imagenet",
    normalisation: Normalisation | None = None,
    size: Annotated[int, Parameter(validator=validators.Number(gte=16))] = 256,
    output_size: str | None = None,
    tileable: bool | None = None,
    evaluations: float | None = None,
    device: str | None = None,
    seed: int = 0,
) -> int:
    """Synthesise one texture of each image; write exemplar_NAME.png and synth_NAME.png.

    Args:
        images: Image files; a centred square is taken.
        out: Folder for the pictures, made if need be.
        preset: default: best stored image; reference: the public implementation's steps.
        weights: imagenet, hed, random:SEED, or a .pth or .safetensors file or URI.
        normalisation: Of the network's input; by default what belongs to the weights.
        size: Side of exemplar and texture, px.
        output_size: Of the texture, HEIGHTxWIDTH or one side, px; default: --size.
        tileable: Textures that show no seam side by side; default: the preset's, no.
        evaluations: Budget in evaluations at full size; default: the preset's.
        device: cpu or cuda; default: cuda where there is one.
        seed: Of the start image.
    """
    if not images:
        raise ConfigError("no image given; expected at least one file")
    absent = [str(path) for path in images if not path.is_file()]
    if absent:
        raise ConfigError(f"images {absent}: no such file")
    repeated = {path.stem for path in images if [p.stem for p in images].count(path.stem) > 1}
    if repeated:
        raise ConfigError(f"images share the names {sorted(repeated)}: their results would collide")
    try:
        settings = RunConfig(
            preset=preset,
            size=size,
            output_size=output_size,
            evaluations=evaluations,
            tileable=tileable,
        )
    except ValidationError as error:
        raise ConfigError(describe_validation(error)) from error
    config, texture_size = settings.resolve_synthesis(), settings.texture_size
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device != "cpu" and not torch.cuda.is_available():
        raise ConfigError(f"device is {device!r}, this machine has no CUDA device; expected cpu")
    network = load_network(weights, normalisation=normalisation, device=device)
    synthesizers = [
        TextureSynthesizer(
            path, network, config=config, size=size, output_size=texture_size, device=device
        )
        for path in images
    ]
    out.mkdir(parents=True, exist_ok=True)
    for synthesizer in synthesizers:
        synthesizer.synthesize(seed=seed)
        _, texture = synthesizer.save(out)
        result = synthesizer.result
        assert result is not None  # noqa: S101 (synthesize sets it)
        print(
            f"{texture}: loss {result.float_loss.total:.4g} as computed, "
            f"{result.delivered_loss.total:.4g} as stored, {result.evaluations:.0f} evaluations in "
            f"{result.seconds:.0f} s, stopped by {result.stop_reason}"
        )
    return 0
