from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from texsynth.decoding import ImageError
from texsynth.images import (
    image_to_tensor,
    load_exemplar,
    luminance,
    resize,
    round_to_8_bits,
    tensor_to_pil,
    validate_images,
)


def draw_pixels(height: int = 5, width: int = 7) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_a_picture_becomes_red_green_blue_over_255() -> None:
    pixels = draw_pixels()
    tensor = image_to_tensor(Image.fromarray(pixels))
    assert tensor.shape == (3, 5, 7)
    assert tensor.dtype == torch.float32
    for channel, row, column in ((0, 0, 0), (1, 4, 2), (2, 3, 6)):
        assert tensor[channel, row, column].item() == np.float32(pixels[row, column, channel]) / 255


def test_arrays_and_tensors_give_what_the_picture_gives() -> None:
    pixels = draw_pixels()
    expected = image_to_tensor(Image.fromarray(pixels))
    planes = torch.from_numpy(pixels).movedim(-1, 0)
    assert torch.equal(image_to_tensor(pixels), expected)
    assert torch.equal(image_to_tensor(planes), expected)
    assert torch.equal(image_to_tensor(expected), expected)
    assert image_to_tensor(expected.double()).dtype == torch.float32


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "LA"])
def test_every_mode_becomes_three_channels(mode: str) -> None:
    picture = Image.fromarray(draw_pixels()).convert(mode)
    tensor = image_to_tensor(picture)
    assert tensor.shape == (3, 5, 7)
    expected = np.asarray(picture.convert("RGB")).astype(np.float32) / 255
    np.testing.assert_array_equal(tensor.movedim(0, -1).numpy(), expected)


@pytest.mark.parametrize("shape", [(5, 7), (1, 3, 5, 7), (4, 5, 7)])
def test_tensors_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected 3 channels, height, width") as caught:
        image_to_tensor(torch.zeros(shape))
    assert str(shape) in str(caught.value)


def test_gray_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 3 channels"):
        image_to_tensor(np.zeros((5, 7), np.uint8))


def save(path: Path, pixels: np.ndarray, **settings: object) -> Path:
    Image.fromarray(pixels).save(path, **settings)  # type: ignore[arg-type]
    return path


def test_load_exemplar_keeps_a_file_as_it_is(tmp_path: Path) -> None:
    pixels = draw_pixels()
    assert torch.equal(load_exemplar(save(tmp_path / "a.png", pixels)), image_to_tensor(pixels))


@pytest.mark.parametrize(
    ("shape", "size", "kept"),
    [
        ((4, 10), 4, np.s_[:, 3:7]),
        ((10, 4), 4, np.s_[3:7, :]),
        ((6, 8), (6, 4), np.s_[:, 2:6]),
        ((4, 10), (4, 10), np.s_[:, :]),
    ],
)
def test_load_exemplar_crops_the_centre(
    tmp_path: Path,
    shape: tuple[int, int],
    size: int | tuple[int, int],
    kept: tuple[slice, slice],
) -> None:
    pixels = draw_pixels(*shape)
    loaded = load_exemplar(str(save(tmp_path / "a.png", pixels)), size)
    assert torch.equal(loaded, image_to_tensor(pixels[kept]))


def test_load_exemplar_resizes_without_shift(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(0, 256, 4, np.uint8)[None, :, None], (64, 1, 3))
    loaded = load_exemplar(save(tmp_path / "ramp.png", ramp), 16)
    assert loaded.shape == (3, 16, 16)
    means = torch.from_numpy(ramp.reshape(64, 16, 4, 3).mean((0, 2))).float().T / 255
    torch.testing.assert_close(loaded[:, 8, 1:-1], means[:, 1:-1], rtol=0, atol=1 / 255)


def test_load_exemplar_scales_deep_gray(tmp_path: Path) -> None:
    values = np.full((16, 16), 32768, np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    assert load_exemplar(tmp_path / "deep.png").mean().item() == pytest.approx(0.5, abs=0.01)


def test_load_exemplar_names_a_broken_file(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"broken\.png.*cannot be decoded"):
        load_exemplar(tmp_path / "broken.png")


def test_load_exemplar_turns_photographs_upright(tmp_path: Path) -> None:
    pixels = draw_pixels(4, 6)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to view
    loaded = load_exemplar(save(tmp_path / "a.png", pixels, exif=exif))
    assert torch.equal(loaded, image_to_tensor(np.rot90(pixels, -1)))


def test_luminance_is_the_weighted_sum() -> None:
    images = torch.rand((2, 3, 4, 5), dtype=torch.float64)
    gray = luminance(images)
    assert gray.shape == (2, 4, 5)
    for lane in range(2):
        red, green, blue = images[lane]
        torch.testing.assert_close(gray[lane], 0.2989 * red + 0.587 * green + 0.114 * blue)


def test_all_256_values_survive_the_round_trip() -> None:
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.equal(round_to_8_bits(values.float() / 255), values)


def test_rounding_is_to_the_nearest_and_clamps() -> None:
    values = torch.tensor([-0.3, 0.4 / 255, 0.6 / 255, 254.4 / 255, 254.6 / 255, 1.7])
    images = values.view(1, 1, 1, 6).expand(1, 3, 1, 6)
    expected = torch.tensor([0, 0, 1, 254, 255, 255], dtype=torch.uint8)
    assert torch.equal(round_to_8_bits(images)[0, 1, 0], expected)


def test_pictures_survive_the_round_trip() -> None:
    pixels = draw_pixels()
    for tensor in (image_to_tensor(pixels), torch.from_numpy(pixels).movedim(-1, 0)):
        picture = tensor_to_pil(tensor)
        assert picture.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(picture), pixels)


def test_resize_to_the_same_size_is_the_same_tensor() -> None:
    images = torch.rand((2, 3, 6, 8))
    assert resize(images, 6, 8) is images


@pytest.mark.parametrize("size", [(3, 4), (12, 16), (5, 9)])
def test_resize_keeps_what_is_constant(size: tuple[int, int]) -> None:
    images = torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1).expand(2, 3, 6, 8)
    resized = resize(images, *size)
    torch.testing.assert_close(resized, images[:, :, :1, :1].expand(2, 3, *size))


def test_resize_antialiases() -> None:
    stripes = torch.tensor([0.0, 1.0]).repeat(32).expand(1, 3, 64, 64)
    small = resize(stripes, 16, 16)[..., 2:-2]
    torch.testing.assert_close(small, torch.full_like(small, 0.5), rtol=0, atol=0.02)


def test_resize_treats_lanes_alike() -> None:
    images = torch.rand((3, 3, 8, 8))
    singles = torch.cat([resize(image[None], 16, 16) for image in images])
    assert torch.equal(resize(images, 16, 16), singles)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            torch.zeros(3, 4, 4),
            "exemplars is torch.float32 [3, 4, 4], expected floating point [B, 3, H, W]",
        ),
        (
            torch.zeros(1, 4, 4, 4),
            "exemplars is torch.float32 [1, 4, 4, 4], expected floating point [B, 3, H, W]",
        ),
        (
            torch.zeros(1, 3, 4, 4, dtype=torch.uint8),
            "exemplars is torch.uint8 [1, 3, 4, 4], expected floating point [B, 3, H, W]",
        ),
        (torch.zeros(2, 3, 4, 4), "exemplars has 2 images, expected 4"),
    ],
)
def test_images_that_do_not_fit_are_named(images: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match="exemplars") as caught:
        validate_images(images, "exemplars", lanes=4)
    assert str(caught.value) == message


def test_lanes_that_are_not_finite_are_named() -> None:
    images = torch.zeros(4, 3, 4, 4)
    images[1, 0, 2, 2], images[3, 2, 0, 0] = torch.nan, torch.inf
    with pytest.raises(ValueError, match=r"NaN or infinite pixels in lanes \[1, 3\]"):
        validate_images(images, "exemplars")
    validate_images(images[[0, 2]], "exemplars", lanes=2)


def test_tensors_of_pictures_and_arrays_have_the_strides_of_others() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
    for image in (pixels, Image.fromarray(pixels)):
        tensor = image_to_tensor(image)
        assert tensor.is_contiguous()
        assert tensor[1, 2, 3].item() == pytest.approx(pixels[2, 3, 1] / 255)
