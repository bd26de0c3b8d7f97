"""Image formats, compared with what Pillow reads."""

import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from PIL import ImageOps

from keras_meta.episodes import load_directory
from keras_meta.episodes.images import decode
from keras_meta.episodes.images import pipeline_decoder

# Smooth, so that JPEG preserves it; height and width differ.
ROWS, COLUMNS = np.mgrid[:24, :40]
GRAY = (4 * ROWS + 2 * COLUMNS).astype("uint8")
COLOR = np.dstack([GRAY, 255 - GRAY, (6 * COLUMNS).astype("uint8")])
PICTURE = Image.fromarray(COLOR)
# One half is transparent.
CLEAR = Image.fromarray(np.dstack([COLOR, 255 * (COLUMNS > 20)]).astype("u1"))
PALETTE = PICTURE.quantize(16)


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def bitmap_of_4_bits():
    """A BMP file with two pixels per byte, which Pillow cannot write."""
    table = b"".join(
        struct.pack("4B", 9 * i, 5 * i, 16 * i, 0) for i in range(16)
    )
    rows = b"\x12\x34\x50\x00" * 3
    start = 54 + len(table)
    return (
        struct.pack("<2sIHHI", b"BM", start + len(rows), 0, 0, start)
        + struct.pack("<IiiHHIIiiII", 40, 5, 3, 1, 4, 0, 0, 0, 0, 16, 0)
        + table
        + rows
    )


FILES = {
    "bmp": encoded(PICTURE, "BMP"),
    "bmp-1-bit": encoded(PICTURE.convert("1"), "BMP"),
    "bmp-4-bits": bitmap_of_4_bits(),
    "bmp-alpha": encoded(CLEAR, "BMP"),
    "bmp-gray": encoded(PICTURE.convert("L"), "BMP"),
    "bmp-palette": encoded(PALETTE, "BMP"),
    "gif": encoded(PALETTE, "GIF"),
    "gif-animated": encoded(
        PALETTE,
        "GIF",
        save_all=True,
        append_images=[ImageOps.flip(PALETTE)],
    ),
    "jpeg": encoded(PICTURE, "JPEG", quality=95),
    "jpeg-cmyk": encoded(PICTURE.convert("CMYK"), "JPEG", quality=95),
    "jpeg-gray": encoded(PICTURE.convert("L"), "JPEG", quality=95),
    "jpeg-progressive": encoded(PICTURE, "JPEG", progressive=True, quality=95),
    "png": encoded(PICTURE, "PNG"),
    "png-1-bit": encoded(PICTURE.convert("1"), "PNG"),
    "png-alpha": encoded(CLEAR, "PNG"),
    "png-gray-alpha": encoded(CLEAR.convert("LA"), "PNG"),
    "png-palette": encoded(PALETTE, "PNG"),
    "png-palette-alpha": encoded(PALETTE, "PNG", transparency=3),
    "webp": encoded(PICTURE, "WEBP", lossless=True),
    "webp-alpha": encoded(CLEAR, "WEBP", lossless=True, exact=True),
}
ANIMATED_WEBP = encoded(
    PICTURE,
    "WEBP",
    save_all=True,
    append_images=[ImageOps.flip(PICTURE)],
)
# Libraries interpolate subsampled color differently.
TOLERANCES = {"jpeg": 12, "jpeg-progressive": 12, "jpeg-cmyk": 6}


def read_by_pillow(data, channels):
    image = Image.open(io.BytesIO(data)).convert(
        "L" if channels == 1 else "RGB"
    )
    return np.asarray(image, int).reshape(*image.size[::-1], channels)


@pytest.mark.parametrize("name", FILES)
def test_every_format_becomes_gray_or_color(name):
    for channels in (1, 3):
        image = decode(FILES[name], channels)
        np.testing.assert_allclose(
            image.numpy().astype(int),
            read_by_pillow(FILES[name], channels),
            atol=TOLERANCES.get(name, 1),
        )


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_pipelines_decode_the_same(channels):
    one = pipeline_decoder(channels)
    images = tf.data.Dataset.from_tensor_slices([*FILES.values()]).map(one)
    for data, image in zip(FILES.values(), images, strict=True):
        np.testing.assert_array_equal(image, decode(data, channels))


def test_16_bits_keep_their_upper_half():
    deep = Image.fromarray(GRAY.astype("uint16") * 256 + 77)
    image = decode(encoded(deep, "PNG"), 1)
    np.testing.assert_array_equal(image[..., 0], GRAY)


@pytest.mark.parametrize("size", [1, 7, 8, 9, 33])
@pytest.mark.parametrize("mode", ["1", "P"])
def test_bitmaps_of_any_width(size, mode):
    image = PICTURE.resize([size, 5]).convert(mode)
    data = encoded(image, "BMP")
    upside_down = bytearray(data)
    struct.pack_into("<i", upside_down, 22, -5)
    expected = read_by_pillow(data, 3)
    np.testing.assert_array_equal(decode(data, 3), expected)
    np.testing.assert_array_equal(decode(bytes(upside_down), 3), expected[::-1])


def folder_of(tmp_path, files):
    """A folder with one class, `a`, and these files."""
    (tmp_path / "a").mkdir()
    for name, data in files.items():
        (tmp_path / "a" / name).write_bytes(data)
    return tmp_path


def test_a_folder_of_all_formats(tmp_path):
    files = {
        f"{name}.{name.split('-')[0]}": data
        for name, data in FILES.items()
        if name != "bmp-4-bits"
    }
    for channels in (1, 3):
        (tmp_path / str(channels)).mkdir()
        folder = folder_of(tmp_path / str(channels), files)
        loaded = load_directory(folder, channels=channels)
        assert loaded.counts.tolist() == [len(files)]
        assert loaded.item_shape == (24, 40, channels)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("stated", range(1, 9))
def test_photographs_are_turned_upright(tmp_path, stated, order):
    exif = Image.Exif()
    exif.endian = order
    exif[0x0112] = stated
    data = encoded(PICTURE, "JPEG", exif=exif, quality=95)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    (image,) = load_directory(folder_of(tmp_path, {"p.jpg": data})).items_of(
        "a"
    )
    np.testing.assert_allclose(
        image.astype(int), np.asarray(expected, int), atol=12
    )


def damaged_bitmap(place, value):
    data = bytearray(FILES["bmp-palette"])
    data[place] = value
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is empty. Move it out"),
        (b"hello", "it starts with b'hello', which is not an image format"),
        (b"RIFF\x00\x00\x00\x00WAVE", "which is not an image format"),
        (encoded(PICTURE, "TIFF"), "it is a TIFF file.* convert it to PNG"),
        (encoded(PICTURE, "ICO"), "it is an ICO file.* convert it to PNG"),
        (encoded(PICTURE, "PPM"), "it is a PNM file"),
        (b"<?xml version='1.0'?>\n<svg/>", "it is an SVG file"),
        (FILES["png"][:-30], "it is a PNG file that is damaged, truncated"),
        (FILES["jpeg"][:-30], "it is a JPEG file that is damaged"),
        (FILES["jpeg"][:20], "it is a JPEG file that is damaged"),
        (FILES["gif"][:-30], "it is a GIF file that is damaged"),
        (FILES["webp"][:-30], "it is a WebP file that is damaged"),
        (ANIMATED_WEBP, r"it is a WebP file .* variety .*\(WebP Animation"),
        (FILES["bmp"][:-30], "it is a BMP file that is damaged"),
        (FILES["bmp-palette"][:-30], "it is a BMP file that is damaged"),
        (FILES["bmp-palette"][:40], "it is a BMP file that is damaged"),
        (b"BM", "it is a BMP file that is damaged"),
        (damaged_bitmap(28, 16), r"BMP .* variety .*\(Number of channels"),
        (damaged_bitmap(28, 2), r"BMP .*\(bits per pixel"),
        (damaged_bitmap(30, 1), r"BMP .*\(its pixels are compressed"),
        (damaged_bitmap(21, 255), r"BMP .*\(width"),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_unreadable_files_are_named_with_the_reason(
    tmp_path, data, message, channels
):
    folder = folder_of(tmp_path, {"x.png": data})
    with pytest.raises(ValueError, match=f"x.png' cannot be read.* {message}"):
        load_directory(folder, channels=channels)
