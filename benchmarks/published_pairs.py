"""Pairs of exemplar and published texture in a folder, and textures of ours, kept as PNG.

A pair is `exemplar_NAME.png` and `synth_NAME.png`. A texture of ours carries in its PNG what it was
made from and by, so that one that was kept is taken for no other.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, PngImagePlugin
from torch import Tensor

import texsynth
from texsynth import (
    SynthesisConfig,
    SynthesisResult,
    TextureNetwork,
    load_exemplar,
    synthesize,
)
from texsynth.config import ALGORITHM_VERSION
from texsynth.images import tensor_to_pil
from texsynth.shapes import Size

SEED = 0
BLEND_WEIGHT = 0.5
"""Of the second exemplar of a blend."""


@dataclass(frozen=True)
class Effort:
    """What a texture took.

    Args:
        evaluations: at full size.
        seconds: wall clock.
        stop_reason: of the last level.
    """

    evaluations: float
    seconds: float
    stop_reason: str


@dataclass(frozen=True)
class Texture:
    """One of ours.

    Args:
        image: [3, H, W] in [0, 1], as the PNG has it.
        effort: of its making.
    """

    image: Tensor
    effort: Effort


def load_pairs(directory: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Name to exemplar and published texture, [3, H, W] each, at their own size.

    Ends the program if there is no pair, or the two are not of one size.
    """
    pairs = {}
    for path in sorted(directory.glob("exemplar_*.png")):
        name = path.stem.removeprefix("exemplar_")
        published = path.with_name(f"synth_{name}.png")
        if published.is_file():
            pairs[name] = (load_exemplar(path), load_exemplar(published))
            sizes = [list(image.shape[1:]) for image in pairs[name]]
            if sizes[0] != sizes[1]:
                sys.exit(f"{published}: {sizes[1]} px, expected the exemplar's {sizes[0]}")
    if not pairs:
        sys.exit(f"no exemplar_NAME.png with a synth_NAME.png in {directory}")
    return pairs


def obtain_texture(
    path: Path,
    exemplar: Tensor,
    config: SynthesisConfig,
    network: TextureNetwork,
    *,
    seed: int = SEED,
    output_size: Size | None = None,
    partner: Tensor | None = None,
) -> Texture:
    """The texture in a file, which is made first where it is missing.

    Of the exemplar's size unless `output_size`, (height, width) in px, says another; half of a
    partner, [3, H, W], if there is one. Ends the program if the file holds a texture that was made
    from or by anything else.
    """
    making = _describe_making(exemplar, config, network, seed, output_size, partner)
    if not path.exists():
        results = synthesize(
            exemplar[None],
            [seed],
            config,
            network,
            output_size=output_size,
            blend_with=None if partner is None else partner[None],
            blend_weights=None if partner is None else [BLEND_WEIGHT],
            lanes=1,
            device=network.device,
        )
        _keep_texture(path, next(results), making)
    with Image.open(path) as image:
        kept = image.info
    if kept.get("making") != making:
        sys.exit(f"{path} was made as {kept.get('making')}, expected {making}; move it away")
    return Texture(load_exemplar(path), Effort(**json.loads(kept["effort"])))


def _describe_making(
    exemplar: Tensor,
    config: SynthesisConfig,
    network: TextureNetwork,
    seed: int,
    output_size: Size | None,
    partner: Tensor | None,
) -> str:
    """All that decides on the pixels of a texture."""
    making: dict[str, object] = {
        "algorithm": ALGORITHM_VERSION,
        "config": config.to_dict(),
        "exemplar_sha256": _hash_pixels(exemplar),
        "mean": network.mean.flatten().tolist(),
        "seed": seed,
        "size": list(exemplar.shape[1:]),
        "std": network.std.flatten().tolist(),
        "texsynth": texsynth.__version__,
        "weights_sha256": network.weights_sha256,
    }
    # Only where they are asked for: textures that were kept before there was a choice stay good.
    if output_size is not None:
        making["output_size"] = list(output_size)
    if partner is not None:
        making |= {"partner_sha256": _hash_pixels(partner), "partner_weight": BLEND_WEIGHT}
    return json.dumps(making, sort_keys=True)


def _hash_pixels(image: Tensor) -> str:
    return hashlib.sha256(tensor_to_pil(image).tobytes()).hexdigest()


def _keep_texture(path: Path, result: SynthesisResult, making: str) -> None:
    effort = Effort(result.evaluations, result.seconds, result.stop_reason)
    text = PngImagePlugin.PngInfo()
    text.add_text("making", making)
    text.add_text("effort", json.dumps(dataclasses.asdict(effort)))
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    tensor_to_pil(result.image_8bit).save(unfinished, "PNG", pnginfo=text)
    unfinished.replace(path)
