"""Between pictures and tensors in [0, 1]: conversion, luminance, 8-bit rounding, resizing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional

from texsynth.decoding import ImageError, convert_rgb, load_image
from texsynth.shapes import Images, Luminance

LUMINANCE_WEIGHTS = (0.2989, 0.587, 0.114)
"""R, G, B: ITU-R BT.601 in the digits that the public reference implementation uses."""


def image_to_tensor(image: Image.Image | np.ndarray | Tensor) -> Tensor:
    """An image as float32 [3, H, W] in [0, 1].

    Args:
        image: a PIL image of any mode; an array [H, W, 3] of uint8; or a tensor [3, H, W], float in
            [0, 1] or uint8.

    Raises:
        ValueError: for an array or tensor of another shape.
    """
    if isinstance(image, Image.Image):
        image = np.asarray(convert_rgb(image))
    if isinstance(image, np.ndarray):
        # Other strides of the same pixels are rounded otherwise by convolutions.
        image = torch.from_numpy(np.array(image)).movedim(-1, 0).contiguous()
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(
            f"image has shape {tuple(image.shape)}, expected 3 channels, height, width"
        )
    return image.float() / 255 if image.dtype == torch.uint8 else image.float()


def load_exemplar(path: str | Path, size: int | tuple[int, int] | None = None) -> Tensor:
    """Read one image file, centre-crop it to the aspect of `size` and resize it (Lanczos).

    Args:
        path: any file that `texsynth.decoding.load_image` reads.
        size: side, or (height, width), px; None keeps the file's own.

    Returns:
        float32 [3, H, W] in [0, 1].

    Raises:
        ImageError: if the file cannot be decoded.
        OSError: if it cannot be read.
    """
    try:
        image = load_image(Path(path).read_bytes())
    except ImageError as error:
        raise ImageError(f"image {str(path)!r}: {error}") from error
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
        image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    return image_to_tensor(image)


def luminance(images: Images) -> Luminance:
    """0.2989 R + 0.587 G + 0.114 B, [B, H, W]."""
    weights = images.new_tensor(LUMINANCE_WEIGHTS)
    return torch.einsum("bchw,c->bhw", images, weights)


def round_to_8_bits(images: Images) -> UInt8[Tensor, "B 3 H W"]:
    """Clamp to [0, 1] and round to the nearest of 256 values: the image that is stored."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def tensor_to_pil(image: Tensor) -> Image.Image:
    """[3, H, W], uint8 or float (clamped and rounded), as an RGB picture."""
    eight_bits = image if image.dtype == torch.uint8 else round_to_8_bits(image[None])[0]
    return Image.fromarray(eight_bits.movedim(0, -1).contiguous().cpu().numpy())


def resize(images: Images, height: int, width: int, *, periodic: bool = False) -> Images:
    """Bicubic resize with antialiasing; the same size is returned as it is.

    Args:
        images: [B, 3, h, w].
        height: of what comes back, px.
        width: of what comes back, px.
        periodic: whether the images go on at their opposite edges.
    """
    if images.shape[-2:] == (height, width):
        return images
    if periodic:
        # Three by three of them; what is cut out of the middle knows no border.
        tiled = resize(images.repeat(1, 1, 3, 3), 3 * height, 3 * width)
        return tiled[..., height : 2 * height, width : 2 * width]
    return functional.interpolate(
        images, (height, width), mode="bicubic", antialias=True, align_corners=False
    )


def validate_images(images: Tensor, name: str, *, lanes: int | None = None) -> None:
    """Raise unless `images` is float [B, 3, H, W], finite, of `lanes` lanes.

    Raises:
        ValueError: naming what was got and what was expected.
    """
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(
            f"{name} is {images.dtype} {list(images.shape)}, expected floating point [B, 3, H, W]"
        )
    if lanes is not None and images.shape[0] != lanes:
        raise ValueError(f"{name} has {images.shape[0]} images, expected {lanes}")
    bad: Sequence[int] = (~images.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
    if bad:
        raise ValueError(f"{name} has NaN or infinite pixels in lanes {bad}")
