"""What a measure of textures beside their exemplars demands of the two batches."""

from __future__ import annotations

from texsynth.images import validate_images
from texsynth.shapes import Images


class PairError(ValueError):
    """Two batches of images that a measure cannot compare; the message says why."""


def validate_pairs(textures: Images, exemplars: Images, *, fewest_px: int) -> None:
    """Raise unless there are as many finite textures as exemplars, of at least this side.

    Raises:
        ValueError: for another number of images, a wrong shape, or pixels that are not finite.
        PairError: for a side below `fewest_px`.
    """
    validate_images(textures, "textures", lanes=len(exemplars))
    validate_images(exemplars, "exemplars")
    for name, images in (("textures", textures), ("exemplars", exemplars)):
        height, width = images.shape[-2:]
        if min(height, width) < fewest_px:
            raise PairError(f"{name} of {width}x{height} px, expected at least {fewest_px}")


def validate_equal_shapes(textures: Images, exemplars: Images) -> None:
    """Raise unless all images are finite and of one size.

    Raises:
        ValueError: for a wrong shape, or pixels that are not finite.
        PairError: for textures of another size or number than the exemplars.
    """
    if textures.shape != exemplars.shape:
        raise PairError(
            f"textures are {list(textures.shape)}, exemplars {list(exemplars.shape)}; expected the "
            "same"
        )
    validate_pairs(textures, exemplars, fewest_px=1)
