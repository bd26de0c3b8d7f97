"""Decoding, scaling and inverting images."""

import functools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_meta.checks import check_choice
from keras_meta.checks import check_positive
from keras_meta.checks import describe
from keras_meta.checks import is_whole
from keras_meta.episodes.bitmaps import decode_with_color_table
from keras_meta.episodes.bitmaps import has_color_table

_CHANNELS = (1, 3)
# First bytes of files.
_BMP = b"BM"
_GIF = b"GIF8"
_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PN"
_WEBP = b"RIFF"
_INTERPOLATIONS = ("area", "bicubic", "bilinear", "lanczos3", "lanczos5")
# First bytes of files of other formats, as regular expressions.
_UNSUPPORTED = {
    rb"II\*\x00|MM\x00\*": "a TIFF",
    rb"....ftyp(avif|avis)": "an AVIF",
    rb"....ftyp(heic|heix|mif1|msf1)": "a HEIC",
    rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51": "a JPEG 2000",
    rb"\x00\x00\x01\x00": "an ICO",
    rb"P[1-7]\s": "a PNM",
    rb"8BPS": "a Photoshop",
    rb"%PDF": "a PDF",
    rb"\s*(<\?xml.*)?<svg": "an SVG",
}
_SUPPORTED = {
    _BMP: "BMP",
    _GIF: "GIF",
    _JPEG: "JPEG",
    _PNG: "PNG",
    _WEBP + b"....WEBP": "WebP",
}
_CONVERT = "convert it to PNG, or move it out of the folder."
# Offset of the flags in an extended WebP file, and the bit for an animation.
_WEBP_FLAGS = 20
_WEBP_ANIMATION = 0x02


def check_image_options(
    image_size: int | tuple[int, int] | None,
    channels: int | None,
    interpolation: str,
) -> tuple[tuple[int, int] | None, int | None]:
    """Checks the options for decoding and scaling images.

    Args:
        image_size: Side of a square, `(height, width)`, or None to keep the
            images' own size.
        channels: 1, 3, or None to keep the images' own.
        interpolation: Name of a resizing method.

    Returns:
        `(height, width)` or None, and the channels. All numbers are Python
        integers.

    Raises:
        ValueError: If an option is not valid.

    Example:
    >>> check_image_options(28, 1, "lanczos3")
    ((28, 28), 1)
    """
    check_choice("interpolation", interpolation, _INTERPOLATIONS)
    if channels is not None:
        if not is_whole(channels) or channels not in _CHANNELS:
            raise ValueError(
                "`channels` must be 1 for gray, 3 for color, or None. "
                f"Received: channels={describe(channels)}"
            )
        channels = int(channels)
    if image_size is None:
        return None, channels
    size: Any = [image_size] * 2 if is_whole(image_size) else image_size
    if isinstance(size, np.ndarray):
        size = size.tolist()
    if not isinstance(size, (tuple, list)) or len(size) != 2:
        raise ValueError(
            "`image_size` must be an integer or (height, width). Received: "
            f"image_size={describe(image_size)}"
        )
    check_positive(image_size=size[0])
    check_positive(image_size=size[1])
    return (int(size[0]), int(size[1])), channels


def decode(data: bytes | tf.Tensor, channels: int | None = None) -> tf.Tensor:
    """Decodes a BMP, GIF, JPEG, PNG or WebP file.

    Images are converted between color and gray as `channels` asks. 16 bits
    become 8, CMYK becomes RGB, and transparency is dropped. Works eagerly and
    in graphs.

    Args:
        data: Contents of the file, a scalar string.
        channels: 1, 3, or None to keep the file's own. BMP and GIF files have
            3.

    Returns:
        A uint8 tensor `[height, width, channels]`; the first frame of an
        animation.

    Raises:
        tf.errors.InvalidArgumentError: If the file has another format, or
            TensorFlow cannot decode it. `why_not` explains the error.
    """
    data = tf.convert_to_tensor(data)
    image = tf.case(
        [
            (
                _starts_with(data, start),
                functools.partial(decoder, data, channels),
            )
            for start, decoder in (
                (_BMP, _decode_bmp),
                (_GIF, _decode_gif),
                (_JPEG, _decode_jpeg),
                (_WEBP, _decode_webp),
            )
        ],
        default=lambda: _decode(data, channels),
    )
    return tf.ensure_shape(image, [None, None, channels])


def pipeline_decoder(
    channels: int | None,
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a version of `decode` for many files in a `tf.data` pipeline.

    Args:
        channels: See `decode`.

    Returns:
        A function from the contents of a file to a uint8 image.
    """
    convert = tf.function(
        lambda data: decode(data, channels),
        input_signature=[tf.TensorSpec([], tf.string)],
        autograph=False,
        # Nearly all files need no conversion. If the conversions were
        # inlined, each of their operations would be visited for every file.
        experimental_attributes={"_noinline": True},
    )
    at_once = [_PNG] if channels == 1 else [_PNG, _JPEG]

    def decode_one(data: tf.Tensor) -> tf.Tensor:
        start = tf.strings.substr(data, 0, len(_PNG))
        image = tf.cond(
            tf.reduce_any(start == at_once),
            lambda: _decode(data, channels),
            lambda: convert(data),
        )
        return tf.ensure_shape(image, [None, None, channels])

    return decode_one


def why_not(data: bytes, error: tf.errors.OpError) -> str:
    """Explains why `decode` failed, and what to do.

    Args:
        data: Contents of the file.
        error: The error that `decode` raised.

    Returns:
        A clause and a sentence, such as "it is empty. Move it out of the
        folder."

    Example:
    >>> why_not(b"", None)
    'it is empty. Move it out of the folder.'
    """
    if not data:
        return "it is empty. Move it out of the folder."
    for start, kind in _UNSUPPORTED.items():
        if re.match(start, data[:1024], re.DOTALL):
            return (
                f"it is {kind} file, and that format is not supported. You can "
                f"{_CONVERT}"
            )
    for start, kind in _SUPPORTED.items():
        if re.match(start, data, re.DOTALL):
            # The name of the operation means nothing to a user.
            said = re.sub(r"\{\{.*?\}\} ?| ?\[Op:.*", "", error.message)
            return (
                f"it is a {kind} file that is damaged, truncated, or of an "
                f"unsupported variety ({said.splitlines()[0]}). Repair it, or "
                f"{_CONVERT}"
            )
    return (
        f"it starts with {data[:8]!r}, which is not an image format. Move it "
        "out of the folder."
    )


def finish(
    image: tf.Tensor,
    *,
    image_size: tuple[int, int] | None,
    invert: bool,
    interpolation: str,
) -> tf.Tensor:
    """Scales and inverts an image.

    Args:
        image: uint8 `[height, width, channels]`.
        image_size: `(height, width)`, or None for no scaling.
        invert: Whether to swap black and white.
        interpolation: Resizing method. Scaling down averages, so that no line
            is lost.

    Returns:
        A uint8 tensor `[height, width, channels]`.

    Example:
    >>> white = tf.fill([8, 8, 1], tf.constant(255, tf.uint8))
    >>> black = finish(white, image_size=(4, 4), invert=True,
    ...                interpolation="area")
    >>> black.shape, int(tf.reduce_max(black))
    (TensorShape([4, 4, 1]), 0)
    """
    if image_size is not None:
        image = tf.image.resize(
            image, image_size, method=interpolation, antialias=True
        )
        image = tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
    return 255 - image if invert else image


def _decode(data: tf.Tensor, channels: int | None) -> tf.Tensor:
    return tf.io.decode_image(
        data, channels=channels or 0, expand_animations=False
    )


def _decode_bmp(data: tf.Tensor, channels: int | None) -> tf.Tensor:
    color = tf.cond(
        has_color_table(data),
        lambda: decode_with_color_table(data),
        lambda: _decode(data, 3),
    )
    return _of_channels(color, channels)


def _decode_gif(data: tf.Tensor, channels: int | None) -> tf.Tensor:
    return _of_channels(_decode(data, 3), channels)


def _decode_jpeg(data: tf.Tensor, channels: int | None) -> tf.Tensor:
    if channels != 1:
        return _decode(data, channels)
    # libjpeg converts CMYK to color only.
    return tf.cond(
        tf.io.extract_jpeg_shape(data)[2] == 4,
        lambda: _of_channels(_decode(data, 3), channels),
        lambda: _decode(data, channels),
    )


def _decode_webp(data: tf.Tensor, channels: int | None) -> tf.Tensor:
    # TensorFlow 2.21 writes out of bounds when it decodes an animation without
    # transparency. Asked for 3 channels, it refuses the animation instead.
    color = tf.cond(
        _is_animated_webp(data),
        lambda: _decode(data, 3),
        lambda: _decode(data, None),
    )
    return _of_channels(color, channels)


def _of_channels(color: tf.Tensor, channels: int | None) -> tf.Tensor:
    """Converts `[height, width, 3 or 4]` to the requested channels."""
    if channels is None:
        return color
    color = tf.ensure_shape(color[..., :3], [None, None, 3])
    return tf.image.rgb_to_grayscale(color) if channels == 1 else color


def _starts_with(data: tf.Tensor, start: bytes) -> tf.Tensor:
    return tf.strings.substr(data, 0, len(start)) == start


def _is_animated_webp(data: tf.Tensor) -> tf.Tensor:
    header = tf.strings.substr(data, 0, _WEBP_FLAGS + 1)
    header = tf.io.decode_raw(header, tf.uint8)
    header = tf.concat([header, tf.zeros([_WEBP_FLAGS + 1], tf.uint8)], 0)
    flags = tf.bitwise.bitwise_and(header[_WEBP_FLAGS], _WEBP_ANIMATION)
    is_extended = tf.strings.substr(data, 12, 4) == b"VP8X"
    return tf.logical_and(is_extended, flags != 0)
