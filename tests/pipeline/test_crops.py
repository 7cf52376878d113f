import hashlib
import io
import itertools
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from pipeline.crops import prepare_crop
from texsynth.decoding import IMAGE_FORMATS, ImageError, image_suffixes, load_image

GRAY = np.linspace(0, 255, 12).round().astype(np.uint8).reshape(3, 4)
COLOUR = np.random.default_rng(0).integers(0, 256, (3, 4, 3), np.uint8)


def encode(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def decode(data: bytes) -> np.ndarray:
    image = load_image(data)
    assert image.mode == "RGB"
    return np.asarray(image)


def stack(gray: np.ndarray) -> np.ndarray:
    return np.stack([gray] * 3, axis=-1)


def png(width: int, height: int, depth: int, colour_type: int, pixels: bytes = b"") -> bytes:
    """A PNG made by hand, for what Pillow cannot write."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(pixels)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def over_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return colour * (alpha / 255) + 255 * (1 - alpha / 255)


def test_rgb_is_untouched():
    assert np.array_equal(decode(encode(Image.fromarray(COLOUR))), COLOUR)


def test_gray_and_one_bit():
    assert np.array_equal(decode(encode(Image.fromarray(GRAY))), stack(GRAY))
    bits = GRAY > 100
    assert np.array_equal(decode(encode(Image.fromarray(bits))), stack(bits * np.uint8(255)))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_lies_over_white(mode):
    alpha = np.array([[0, 255, 128, 7]] * 3, np.uint8)
    image = Image.fromarray(COLOUR).convert(mode[:-1])
    colour = np.asarray(image.convert("RGB"))
    image.putalpha(Image.fromarray(alpha))
    expected = over_white(colour.astype(float), alpha[..., None])
    assert np.abs(decode(encode(image)) - expected).max() <= 1
    assert (decode(encode(image))[:, 0] == 255).all()


def test_palettes_with_and_without_transparency():
    image = Image.fromarray(COLOUR).quantize(16)
    colour = np.asarray(image.convert("RGB"))
    assert np.array_equal(decode(encode(image)), colour)
    clear = np.asarray(image) == 3
    assert 0 < clear.sum() < clear.size
    for transparency in (3, bytes([255, 255, 255, 0])):
        expected = np.where(clear[..., None], 255, colour)
        assert np.array_equal(decode(encode(image, transparency=transparency)), expected)


def test_one_transparent_colour():
    image = Image.fromarray(COLOUR)
    expected = COLOUR.copy()
    expected[0, 0] = 255
    data = encode(image, transparency=tuple(int(value) for value in COLOUR[0, 0]))
    assert np.array_equal(decode(data), expected)


def test_cmyk():
    inks = np.random.default_rng(1).integers(0, 256, (3, 4, 4), np.uint8)
    key = 1 - inks[..., 3:] / 255
    expected = 255 * (1 - inks[..., :3] / 255) * key
    data = encode(Image.fromarray(inks, "CMYK"), "TIFF")
    assert np.abs(decode(data) - expected).max() <= 1


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_sixteen_bit_gray(file_format):
    deep = np.linspace(0, 65535, 12).round().astype(np.uint16).reshape(3, 4)
    data = encode(Image.fromarray(deep), file_format)
    assert np.array_equal(decode(data), stack(GRAY))


def test_sixteen_bit_big_endian_gray():
    deep = np.array([[0, 257 * 100, 65535]], ">u2")
    assert decode(encode(Image.frombytes("I;16B", (3, 1), deep.tobytes()), "TIFF"))[
        0, :, 0
    ].tolist() == [0, 100, 255]


def test_sixteen_bit_colour():
    deep = np.array([[[0, 257 * 100, 65535], [257 * 7, 0, 257]]], ">u2")
    rows = b"\x00" + deep.tobytes()
    assert decode(png(2, 1, 16, 2, rows))[0].tolist() == [[0, 100, 255], [7, 0, 1]]


def test_integer_gray():
    data = encode(Image.fromarray(GRAY.astype(np.int32) * 257), "TIFF")
    assert np.array_equal(decode(data), stack(GRAY))
    with pytest.raises(ImageError, match="values -5 to -5: expected 0 to 65535"):
        load_image(encode(Image.new("I", (2, 2), -5), "TIFF"))


@pytest.mark.parametrize("white", [1, 255, 65535])
def test_float_gray(white):
    values = (GRAY / 255 * white).astype(np.float32)
    assert np.array_equal(decode(encode(Image.fromarray(values), "TIFF")), stack(GRAY))


@pytest.mark.parametrize("value", [float("nan"), -0.5, 1e6])
def test_float_gray_without_meaning(value):
    values = np.array([[0.5, value]], np.float32)
    with pytest.raises(ImageError, match="expected 0 to 65535"):
        load_image(encode(Image.fromarray(values), "TIFF"))


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG"])
def test_animations_give_their_first_frame(file_format):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    data = encode(frames[0], file_format, save_all=True, append_images=frames[1:])
    pixels = decode(data).astype(int)
    assert (pixels[..., 0] > 240).all()
    assert (pixels[..., 1:] < 15).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP"])
def test_orientations(file_format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encode(Image.fromarray(COLOUR), file_format, exif=exif, **options)
    # Row 0 and column 0 of the file, as the EXIF standard names them.
    flips = {1: "tl", 2: "tr", 3: "br", 4: "bl", 5: "lt", 6: "rt", 7: "rb", 8: "lb"}
    first_row, first_column = flips[orientation]
    upright = COLOUR if first_row in "tb" else COLOUR.swapaxes(0, 1)
    if "b" in (first_row, first_column):
        upright = upright[::-1]
    if "r" in (first_row, first_column):
        upright = upright[:, ::-1]
    assert np.array_equal(decode(data), upright)
    assert np.array_equal(decode(data), np.asarray(ImageOps.exif_transpose(_open(data))))


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_damaged_exif_leaves_the_pixels():
    for exif in (
        b"Exif\x00\x00nonsense",
        b"Exif\x00\x00II*\x00\xff\xff\xff\x7f",
        b"Exif\x00\x00MM",
    ):
        assert decode(encode(Image.fromarray(COLOUR), "JPEG", exif=exif)).shape == COLOUR.shape


def test_bombs_are_refused_before_they_are_decoded():
    with pytest.raises(ImageError, match="15000x10000 px: expected at most 100000000 pixels"):
        load_image(png(15_000, 10_000, 8, 2))
    with pytest.raises(ImageError, match="exceeds limit"):
        load_image(png(20_000, 10_000, 8, 2), max_pixels=10**9)
    with pytest.raises(ImageError, match="9500x10000 px: expected at most 1000000 pixels"):
        load_image(png(9_500, 10_000, 8, 2), max_pixels=1_000_000)
    # 95 million pixels are below the limit: this one fails because it has no pixels.
    with pytest.raises(ImageError, match="cannot be decoded"):
        load_image(png(9_500, 10_000, 8, 2))


def test_the_limit_counts_pixels():
    data = encode(Image.new("RGB", (10, 10)))
    assert load_image(data, max_pixels=100).size == (10, 10)
    with pytest.raises(ImageError, match="10x10 px: expected at most 99 pixels"):
        prepare_crop(data, size=8, max_pixels=99)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP"])
def test_truncated_files(file_format):
    noise = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    data = encode(Image.fromarray(noise), file_format)
    load_image(data)
    for kept in (0.02, 0.1, 0.5, 0.9):
        with pytest.raises(ImageError, match="cannot be decoded"):
            load_image(data[: int(len(data) * kept)])


@pytest.mark.parametrize("data", [b"", b"\x00", b"plain text", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_image(data):
    with pytest.raises(ImageError, match="image file"):
        load_image(data)


def test_damaged_files_raise_nothing_but_image_errors():
    generator = np.random.default_rng(0)
    for file_format in ("PNG", "JPEG", "TIFF", "GIF", "BMP"):
        data = np.frombuffer(encode(Image.fromarray(COLOUR), file_format), np.uint8)
        refused = 0
        for _ in range(60):
            damaged = data.copy()
            damaged[generator.integers(0, len(data), 6)] = generator.integers(0, 256, 6)
            try:
                load_image(damaged.tobytes())
            except ImageError:
                refused += 1
        assert refused > 0


def test_suffixes_are_of_readable_formats():
    assert {".png", ".jpg", ".jpeg", ".tif", ".webp", ".bmp", ".gif"} <= image_suffixes()
    assert not {".eps", ".pdf", ".txt"} & image_suffixes()
    assert "EPS" not in IMAGE_FORMATS


def ramp(width: int, height: int) -> Image.Image:
    """Red is the column, green the row: pixels say where they come from."""
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([columns, rows, 0 * rows], axis=-1).astype(np.uint8))


@pytest.mark.parametrize(
    ("mode", "size", "box"),
    [
        ("centre", (90, 60), (15, 0)),
        ("centre", (60, 91), (0, 15)),
        ("centre", (60, 60), (0, 0)),
        ("reference", (90, 60), (0, 0)),
        ("reference", (60, 90), (0, 0)),
    ],
)
def test_largest_squares(mode, size, box):
    data = encode(ramp(*size))
    crop = prepare_crop(data, size=60, mode=mode)
    assert (crop.left, crop.top, crop.side) == (*box, 60)
    assert (crop.source_width, crop.source_height) == size
    assert not crop.upscaled
    assert crop.sha256 == hashlib.sha256(data).hexdigest()
    assert crop.pixels.dtype == np.uint8
    assert crop.pixels.flags.writeable
    left, top = box
    assert np.array_equal(crop.pixels, np.asarray(ramp(*size))[top : top + 60, left : left + 60])


def test_the_box_is_that_of_the_upright_image():
    exif = Image.Exif()
    exif[0x0112] = 6
    crop = prepare_crop(encode(ramp(90, 60), exif=exif), size=60)
    assert (crop.source_width, crop.source_height) == (60, 90)
    assert (crop.left, crop.top) == (0, 15)


def test_downscaling_is_antialiased():
    checks = (np.indices((256, 256)).sum(axis=0) % 2 * 255).astype(np.uint8)
    pixels = prepare_crop(encode(Image.fromarray(checks)), size=64).pixels
    assert np.abs(pixels.astype(int) - 127).max() <= 2


def test_the_resize_sees_nothing_outside_the_square():
    inside = np.full((60, 90, 3), 255, np.uint8)
    inside[:, 15:75] = 0
    assert not prepare_crop(encode(Image.fromarray(inside)), size=30).pixels.any()


def test_small_images_are_upscaled_and_flagged():
    crop = prepare_crop(encode(ramp(20, 30)), size=64)
    assert crop.pixels.shape == (64, 64, 3)
    assert crop.upscaled
    assert crop.side == 20
    assert not prepare_crop(encode(ramp(64, 64)), size=64).upscaled


def test_random_crops():
    data = encode(ramp(200, 120))
    boxes = []
    for index in range(200):
        crop = prepare_crop(data, size=50, mode="random", index=index, seed=3)
        again = prepare_crop(data, size=50, mode="random", index=index, seed=3)
        assert np.array_equal(crop.pixels, again.pixels)
        assert 50 <= crop.side <= 120
        assert 0 <= crop.left <= 200 - crop.side
        assert 0 <= crop.top <= 120 - crop.side
        centre = np.array([crop.left, crop.top]) + (crop.side - 1) / 2
        assert np.abs(crop.pixels.mean(axis=(0, 1))[:2] - centre).max() < 1
        boxes.append((crop.left, crop.top, crop.side))
    assert len(set(boxes)) > 190
    sides = np.array(boxes)[:, 2]
    assert sides.min() < 55
    assert sides.max() > 115


def test_random_crops_differ_by_seed_and_by_file():
    datas = [encode(ramp(200, 120)), encode(ramp(200, 120), compress_level=1)]
    boxes = set()
    for data, seed in itertools.product(datas, (0, 1)):
        crop = prepare_crop(data, size=50, mode="random", seed=seed)
        boxes.add((crop.left, crop.top, crop.side))
    assert len(boxes) == 4


def test_random_crops_of_small_images_move_along_the_long_side():
    crops = [prepare_crop(encode(ramp(90, 30)), size=50, mode="random", index=k) for k in range(20)]
    assert {crop.side for crop in crops} == {30}
    assert all(crop.upscaled and crop.top == 0 for crop in crops)
    assert len({crop.left for crop in crops}) > 10


@pytest.mark.parametrize("arguments", [{"size": 0}, {"size": 8, "index": -1}])
def test_arguments_out_of_range(arguments):
    with pytest.raises(ValueError, match="expected at least"):
        prepare_crop(encode(ramp(9, 9)), **arguments)


@pytest.mark.shared
def test_every_image_of_the_dtd_subset(shared_path):
    files = sorted((shared_path / "data/dtd/dtd/images").rglob("*.jpg"))
    assert len(files) == 120
    shapes = set()
    for file in files:
        crop = prepare_crop(file.read_bytes(), size=64, mode="reference")
        assert crop.pixels.shape == (64, 64, 3)
        assert crop.side == min(crop.source_width, crop.source_height)
        shapes.add(np.sign(crop.source_width - crop.source_height))
    assert shapes == {-1, 0, 1}
