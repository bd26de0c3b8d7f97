"""BMP files with a color table, which TensorFlow misreads.

`tf.io.decode_bmp` mistakes indices into a table of 256 colors for shades of
gray, and refuses smaller tables.
"""

import tensorflow as tf

# Byte offsets of little-endian header fields.
_PIXELS_AT = 10
_HEADER_SIZE = 14
_WIDTH = 18
_HEIGHT = 22
_BITS = 28
_COMPRESSION = 30
_COLORS = 46

_FILE_HEADER = 14
_ROW_ALIGNMENT = 32
_SHORTEST = 54


def has_color_table(data: tf.Tensor) -> tf.Tensor:
    """Whether a BMP file stores indices into a color table.

    Args:
        data: Contents of the file, a scalar string.

    Returns:
        A scalar bool; False if the header is truncated.
    """
    return tf.cond(
        tf.strings.length(data) >= _SHORTEST,
        lambda: _number(data, _BITS, tf.uint16) <= 8,
        lambda: tf.constant(False),
    )


def decode_with_color_table(data: tf.Tensor) -> tf.Tensor:
    """Decodes a BMP file with 1, 4 or 8 bits per pixel.

    Args:
        data: Contents of the file, a scalar string.

    Returns:
        A uint8 tensor `[height, width, 3]`.

    Raises:
        tf.errors.InvalidArgumentError: If the file is truncated or
            compressed.
    """
    bits = _number(data, _BITS, tf.uint16)
    width = _number(data, _WIDTH)
    height = _number(data, _HEIGHT)
    checks = [
        tf.debugging.assert_equal(
            _number(data, _COMPRESSION), 0, "its pixels are compressed"
        ),
        tf.debugging.assert_equal(
            tf.reduce_any(bits == [1, 4, 8]), True, "bits per pixel"
        ),
        tf.debugging.assert_equal(width > 0, True, "width"),
    ]
    with tf.control_dependencies([c for c in checks if c is not None]):
        table = _color_table(data, bits)
    rows = tf.abs(height)
    stride = (bits * width + _ROW_ALIGNMENT - 1) // _ROW_ALIGNMENT * 4
    start = _number(data, _PIXELS_AT)
    pixels = _bytes(data, start, rows * stride)
    places = _unpack(tf.reshape(pixels, [rows, stride]), bits)[:, :width]
    # Most files start with the bottom row; a negative height means the top.
    places = tf.cond(height > 0, lambda: places[::-1], lambda: places)
    return tf.cast(tf.gather(table, places), tf.uint8)


def _color_table(data: tf.Tensor, bits: tf.Tensor) -> tf.Tensor:
    """Returns the red, green and blue of each entry, `[entries, 3]`."""
    used = _number(data, _COLORS)
    entries = tf.where(used > 0, used, tf.bitwise.left_shift(1, bits))
    start = _FILE_HEADER + _number(data, _HEADER_SIZE)
    table = tf.reshape(_bytes(data, start, 4 * entries), [entries, 4])
    return table[:, 2::-1]


def _unpack(rows: tf.Tensor, bits: tf.Tensor) -> tf.Tensor:
    """Splits bytes `[rows, stride]` into entries, highest bits first."""
    shifts = tf.range(8 - bits, -1, -bits)
    mask = tf.bitwise.left_shift(1, bits) - 1
    entries = tf.bitwise.right_shift(rows[:, :, tf.newaxis], shifts)
    return tf.reshape(
        tf.bitwise.bitwise_and(entries, mask), [tf.shape(rows)[0], -1]
    )


def _number(data: tf.Tensor, at: int, dtype: tf.DType = tf.int32) -> tf.Tensor:
    field = tf.strings.substr(data, at, dtype.size)
    return tf.cast(tf.io.decode_raw(field, dtype)[0], tf.int32)


def _bytes(data: tf.Tensor, start: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    part = tf.strings.substr(data, start, size)
    return tf.cast(tf.io.decode_raw(part, tf.uint8), tf.int32)
