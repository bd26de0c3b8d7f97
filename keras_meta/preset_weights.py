"""Weights as the content of an `.npz` file.

The declared shapes and types are compared with the expected ones before any
array is made, and nothing is unpickled.
"""

from __future__ import annotations

import io
import pathlib
import zipfile
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

Shape = tuple[int, ...]


def pack(weights: Sequence[keras.Variable]) -> bytes:
    """Returns weights as the content of an `.npz` file.

    Args:
        weights: The weights.

    Raises:
        ValueError: If a weight is not finite.
    """
    arrays = [tf.cast(w.value, _stored(w.dtype)).numpy() for w in weights]
    for array, weight in zip(arrays, weights, strict=True):
        _require_finite(array, weight.path)
    buffer = io.BytesIO()
    np.savez(buffer, *arrays)
    return buffer.getvalue()


def unpack(
    content: bytes,
    expected: Sequence[tuple[Shape, str]],
    path: pathlib.Path,
) -> list[np.ndarray]:
    """Returns the arrays that `pack` packed.

    Args:
        content: The result of `pack`.
        expected: Shape and type of each weight.
        path: The file the content was read from, for error messages.

    Raises:
        ValueError: If the content does not match `expected`, or if a number
            is not finite.
    """
    wanted = [(shape, _stored(dtype)) for shape, dtype in expected]
    try:
        declared = _declared(content)
        arrays = _arrays(content) if declared == wanted else []
    # For damaged archives, the reader may raise nearly any error.
    except Exception as error:
        raise ValueError(
            f"{path} is not a file of weights that `save_to_preset` wrote: "
            f"{error}"
        ) from error
    if declared != wanted:
        raise ValueError(
            f"{path} holds weights of shapes {_written(declared)}, but the "
            f"description beside it is of {_written(wanted)}."
        )
    for i, array in enumerate(arrays):
        _require_finite(array, f"{path}, array {i}")
    return arrays


def _declared(content: bytes) -> list[tuple[Shape, np.dtype]]:
    """Reads shape and type of each array from its header."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        names = [member.filename for member in members]
        if names != [f"arr_{i}.npy" for i in range(len(names))]:
            raise ValueError(f"it holds {names[:3]}")
        return [_header(archive, member) for member in members]


def _arrays(content: bytes) -> list[np.ndarray]:
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        return [file[name] for name in file.files]


def _header(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo
) -> tuple[Shape, np.dtype]:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"{member.filename} has version {version}")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return shape, dtype


def _stored(dtype: str) -> np.dtype:
    """Returns the type in the file, which must be one of NumPy's own."""
    return np.dtype(dtype if hasattr(np, dtype) else "float32")


def _written(arrays: Sequence[tuple[Shape, np.dtype]]) -> str:
    return str([(shape, dtype.name) for shape, dtype in arrays[:9]])


def _require_finite(array: np.ndarray, name: str) -> None:
    if not np.isfinite(array).all():
        raise ValueError(
            f"The weights of a preset must be finite. Received: {name} with "
            "NaN or infinite values. Train it again, or go back to weights "
            "from before it diverged."
        )
