"""Orientation of photographs, as EXIF data states it."""

import struct
from collections.abc import Iterator

import tensorflow as tf

UPRIGHT = 1
_START_OF_IMAGE = b"\xff\xd8"
_START_OF_SCAN = 0xDA
_APPLICATION_1 = 0xE1
_EXIF = b"Exif\x00\x00"
_ORIENTATION = 0x0112
_ENTRY_SIZE = 12


def orientation(jpeg: bytes) -> int:
    """Returns the orientation that a JPEG file states in its EXIF data.

    Args:
        jpeg: Contents of the file.

    Returns:
        The EXIF orientation, from 1 to 8. 1, upright, if the file states none
        or is not a JPEG file.
    """
    try:
        for marker, content in _segments(jpeg):
            if marker == _APPLICATION_1 and content.startswith(_EXIF):
                stated = _find_orientation(content[len(_EXIF) :])
                return stated if UPRIGHT <= stated <= 8 else UPRIGHT
    # Truncated or malformed EXIF data.
    except (IndexError, struct.error):
        pass
    return UPRIGHT


def turn_upright(image: tf.Tensor, stated: int) -> tf.Tensor:
    """Turns and mirrors an image to make it upright.

    Args:
        image: `[height, width, channels]`.
        stated: The orientation, from `orientation`.

    Returns:
        The upright image, `[height, width, channels]` or
        `[width, height, channels]`.

    Example:
    >>> turn_upright(tf.zeros([2, 5, 1]), 6).shape
    TensorShape([5, 2, 1])
    """
    # Orientations above 4 exchange rows and columns.
    if stated > 4:
        image = tf.transpose(image, [1, 0, 2])
    if stated in (3, 4, 7, 8):
        image = image[::-1]
    if stated in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image


def _segments(jpeg: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields the marker and content of each segment before the pixels."""
    place = len(_START_OF_IMAGE)
    if jpeg[:place] != _START_OF_IMAGE:
        return
    while jpeg[place] == 0xFF and jpeg[place + 1] != _START_OF_SCAN:
        (size,) = struct.unpack_from(">H", jpeg, place + 2)
        yield jpeg[place + 1], jpeg[place + 4 : place + 2 + size]
        place += 2 + size


def _find_orientation(tiff: bytes) -> int:
    order = "<" if tiff.startswith(b"II") else ">"
    (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
    (entries,) = struct.unpack_from(f"{order}H", tiff, directory)
    for i in range(entries):
        place = directory + 2 + i * _ENTRY_SIZE
        (tag,) = struct.unpack_from(f"{order}H", tiff, place)
        if tag == _ORIENTATION:
            return struct.unpack_from(f"{order}H", tiff, place + 8)[0]
    return UPRIGHT
