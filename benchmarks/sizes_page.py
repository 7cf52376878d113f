"""Pictures of larger textures, of tiles and of a blend, and what tiles do to the seam.

    texsynth manifest demo --out demo.csv
    python -m benchmarks.sizes_page --exemplars demo-images --textures textures --sheet sizes.jpg

The `default` preset, one seed. Writes one sheet: an exemplar, its textures of 1, 2 and 4 times its
side, a texture laid 2 by 2 of which nothing was periodic, one that was made to tile, and a blend of
two exemplars below its parents. Prints the seam score of every exemplar and of four textures: to
tile or not, with the preset's spectrum term and random-phase start, both periodic, or with neither.
Textures are kept as PNG, and a later run takes them up.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from benchmarks.environment import describe_environment
from benchmarks.exemplars import add_options, load_inputs
from benchmarks.published_pairs import obtain_texture
from texsynth import SynthesisConfig, TextureNetwork, seam_score
from texsynth.images import tensor_to_pil

LARGER = {4: 0.6, 2: 1.0}
"""Side over the exemplar's, to the share of the budget: the largest is dear. The dearest first."""
TILEABLE, APERIODIC = "-tileable", "-aperiodic"
PERIODIC: dict[str, dict[str, Any]] = {
    "": {},
    APERIODIC: {"spectrum": "none", "start": "noise"},
}
"""With the preset's spectrum term and start, which are periodic, or without."""
GAP, CAPTION = 8, 18
"""Between pictures, and for the words below one, px."""
JPEG_QUALITY = 88
"""A sheet of 128 px exemplars stays below 250 kB."""


@dataclass(frozen=True)
class Workshop:
    """Where textures come from.

    Args:
        network: that they are made with.
        evaluations: budget, at the texture's own size.
        folder: keeps them.
    """

    network: TextureNetwork
    evaluations: float
    folder: Path

    def make(
        self,
        name: str,
        exemplar: Tensor,
        *,
        factor: int = 1,
        partner: Tensor | None = None,
        **settings: Any,
    ) -> Tensor:
        """A texture, [3, H, W], `factor` times as large as its exemplar."""
        evaluations = LARGER.get(factor, 1.0) * self.evaluations
        config = SynthesisConfig.preset("default", evaluations=evaluations, **settings)
        size = None if factor == 1 else (factor * exemplar.shape[1], factor * exemplar.shape[2])
        path = self.folder / f"{name}.png"
        return obtain_texture(
            path, exemplar, config, self.network, output_size=size, partner=partner
        ).image


def make_tiles(workshop: Workshop, exemplar: Tensor, name: str) -> dict[str, Tensor]:
    """Its textures, [3, H, W] each, by PERIODIC and then by whether they are to tile."""
    return {
        f"{periodic}{tileable}": workshop.make(
            f"{name}{periodic}{tileable}", exemplar, tileable=bool(tileable), **settings
        )
        for periodic, settings in PERIODIC.items()
        for tileable in ("", TILEABLE)
    }


def describe_seams(
    exemplars: Mapping[str, Tensor], tiles: Mapping[str, Mapping[str, Tensor]]
) -> list[str]:
    """Seam scores as a Markdown table, exemplar by exemplar, and their means."""
    lines = [
        "| exemplar | itself | texture | tileable | without spectrum term | the same, tileable |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    rows = {
        name: [float(seam_score(image[None])) for image in (exemplar, *tiles[name].values())]
        for name, exemplar in exemplars.items()
    }
    rows["mean"] = [statistics.mean(column) for column in zip(*rows.values(), strict=True)]
    for name, scores in rows.items():
        lines.append(f"| {name} | {' | '.join(f'{score:.2f}' for score in scores)} |")
    return lines


def draw_sheet(
    exemplars: Mapping[str, Tensor],
    tiles: Mapping[str, Mapping[str, Tensor]],
    larger: Mapping[int, Tensor],
    blend: Tensor,
    arguments: argparse.Namespace,
) -> Image.Image:
    """All pictures with their captions: sizes above, then tiles and the blend."""
    shown, tiled, partner = arguments.shown, arguments.tiled, arguments.partner
    own, partners = exemplars[shown], exemplars[partner]
    texture, open_tile, tile = tiles[shown][""], tiles[tiled][APERIODIC], tiles[tiled][TILEABLE]
    small = _join(
        [_caption(f"{shown}, {own.shape[2]} px", own), _caption("texture", texture)], across=True
    )
    enlarged = {
        factor: _caption(f"texture, {image.shape[2]} px", image) for factor, image in larger.items()
    }
    parents = _join([_caption(shown, own), _caption(partner, partners)], across=True)
    bands = (
        [_join([small, enlarged[2]], across=False), enlarged[4]],
        [
            _caption(f"{tiled}, 2 x 2, neither", open_tile.repeat(1, 2, 2)),
            _caption(f"{tiled}, 2 x 2, tileable", tile.repeat(1, 2, 2)),
            _join([parents, _caption("blend, half of each", blend)], across=False),
        ],
    )
    return _join([_join(band, across=True) for band in bands], across=False)


def _caption(words: str, image: Tensor) -> Image.Image:
    """The picture of [3, H, W], the words below it."""
    picture = tensor_to_pil(image)
    framed = Image.new("RGB", (picture.width, picture.height + CAPTION), "white")
    framed.paste(picture)
    font = ImageFont.load_default(12)
    ImageDraw.Draw(framed).text((0, picture.height + 2), words, fill="black", font=font)
    return framed


def _join(pictures: list[Image.Image], *, across: bool) -> Image.Image:
    """Side by side, or below each other, on white."""
    widths, heights = ([getattr(p, side) for p in pictures] for side in ("width", "height"))
    gaps = GAP * (len(pictures) - 1)
    size = (sum(widths) + gaps, max(heights)) if across else (max(widths), sum(heights) + gaps)
    joined, at = Image.new("RGB", size, "white"), 0
    for picture in pictures:
        joined.paste(picture, (at, 0) if across else (0, at))
        at += (picture.width if across else picture.height) + GAP
    return joined


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_options(parser, size=128)
    parser.add_argument("--evaluations", type=float, default=100, help="budget of a texture")
    parser.add_argument("--textures", type=Path, required=True, help="folder of what is made")
    parser.add_argument("--sheet", type=Path, required=True, help="picture to write, .jpg")
    parser.add_argument("--shown", default="gravel", help="exemplar of the sizes and the blend")
    parser.add_argument("--tiled", default="brick", help="exemplar of the tiles")
    parser.add_argument("--partner", default="tissue", help="second exemplar of the blend")
    return parser.parse_args()


def main() -> None:
    """Write the sheet, print the table as Markdown."""
    arguments = parse_arguments()
    exemplars, network = load_inputs(arguments)
    workshop = Workshop(network, arguments.evaluations, arguments.textures)
    shown = exemplars[arguments.shown]
    larger = {
        factor: workshop.make(f"{arguments.shown}-{factor}", shown, factor=factor)
        for factor in LARGER
    }
    partner = exemplars[arguments.partner]
    name = f"{arguments.shown}-{arguments.partner}"
    blend = workshop.make(name, shown, partner=partner)
    tiles = {name: make_tiles(workshop, own, name) for name, own in exemplars.items()}
    draw_sheet(exemplars, tiles, larger, blend, arguments).save(
        arguments.sheet, quality=JPEG_QUALITY, optimize=True
    )
    print("\n".join(["# Seams of tileable textures and of others", "", *describe_environment()]))
    print(f"* weights: {network.weights_id}; {arguments.size} px; preset `default`, ", end="")
    print(f"at most {arguments.evaluations:g} evaluations, seed 0\n")
    print("\n".join(describe_seams(exemplars, tiles)))


if __name__ == "__main__":
    main()
