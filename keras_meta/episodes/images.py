"""Images on their way into memory: decoding, scaling, inverting."""

import tensorflow as tf

from keras_meta.checks import check_choice
from keras_meta.checks import check_positive
from keras_meta.checks import is_number

_CHANNELS = (None, 1, 3)
_INTERPOLATIONS = ("area", "bicubic", "bilinear", "lanczos3", "lanczos5")


def check_image_options(
    image_size: int | tuple[int, int] | None,
    channels: int | None,
    interpolation: str,
) -> tuple[int, int] | None:
    """Checks how images shall be changed.

    Args:
        image_size: One side of a square, `(height, width)`, or None for the
            size that the images have.
        channels: 1, 3 or None for what the images have.
        interpolation: Name of a way to scale.

    Returns:
        `(height, width)` or None.

    Raises:
        ValueError: If one of them cannot be used.

    Example:
    >>> check_image_options(28, 1, "lanczos3")
    (28, 28)
    """
    check_choice("channels", channels, _CHANNELS)
    check_choice("interpolation", interpolation, _INTERPOLATIONS)
    if image_size is None:
        return None
    if is_number(image_size):
        image_size = (image_size, image_size)
    if isinstance(image_size, str) or len(image_size) != 2:
        raise ValueError(
            "`image_size` must be one number or (height, width). Received: "
            f"{image_size!r}."
        )
    check_positive(image_size=image_size[0])
    check_positive(image_size=image_size[1])
    return tuple(map(int, image_size))


def decode(data: tf.Tensor, channels: int | None = None) -> tf.Tensor:
    """Decodes a PNG, JPEG, BMP or GIF file.

    Args:
        data: Content of the file, a scalar string.
        channels: 1, 3 or None for what the file has.

    Returns:
        A uint8 tensor `[height, width, channels]`; of an animation, the
        first picture.

    Raises:
        tf.errors.InvalidArgumentError: If it is no such file.
    """
    return tf.io.decode_image(
        data, channels=channels or 0, expand_animations=False
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
        image_size: `(height, width)` or None for no scaling.
        invert: Whether black becomes white.
        interpolation: Way to scale; scaling down averages, so that no line
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
