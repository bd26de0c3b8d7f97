"""Weights of an update rule as the content of an `.npz` file.

What a file declares is compared with what the rule has before an array is
made of it, and nothing is unpickled.
"""

from __future__ import annotations

import io
import pathlib
import zipfile
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_meta.update_rules.update_rule import UpdateRule

Shape = tuple[int, ...]


def pack(rule: UpdateRule) -> bytes:
    """Returns the weights of a rule as the content of an `.npz` file.

    Args:
        rule: The rule.

    Raises:
        ValueError: If a weight is not finite.
    """
    arrays = [tf.cast(w.value, _stored(w.dtype)).numpy() for w in rule.weights]
    for array, weight in zip(arrays, rule.weights, strict=True):
        _require_finite(array, weight.path)
    buffer = io.BytesIO()
    np.savez(buffer, *arrays)
    return buffer.getvalue()


def unpack(
    content: bytes,
    expected: Sequence[tuple[Shape, str]],
    path: pathlib.Path,
) -> list[np.ndarray]:
    """Returns the arrays that `pack` wrote.

    Args:
        content: What `pack` returned.
        expected: Shape and type of each weight.
        path: Where the content was read, for error messages.

    Raises:
        ValueError: If the content is not as `expected`, or if a
            number is not finite.
    """
    wanted = [(shape, _stored(dtype)) for shape, dtype in expected]
    try:
        declared = _declared(content)
        arrays = _arrays(content) if declared == wanted else []
    # Damaged archives make the reader raise nearly anything.
    except Exception as error:
        raise ValueError(
            f"{path} is not as `save_to_preset` writes weights: {error}"
        ) from error
    if declared != wanted:
        raise ValueError(
            f"{path} holds weights of the shapes {_written(declared)}; the "
            f"rule beside it has {_written(wanted)}."
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


def _header(archive, member) -> tuple[Shape, np.dtype]:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"{member.filename} is of version {version}")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return shape, dtype


def _stored(dtype: str) -> np.dtype:
    """Returns the type in the file, which NumPy itself must know."""
    return np.dtype(dtype if hasattr(np, dtype) else "float32")


def _written(arrays: Sequence[tuple[Shape, np.dtype]]) -> str:
    return str([(shape, dtype.name) for shape, dtype in arrays[:9]])


def _require_finite(array: np.ndarray, name: str) -> None:
    if not np.isfinite(array).all():
        raise ValueError(
            f"A preset holds finite weights. Received: {name} with NaN or "
            "infinite values. Train the rule again, or go back to weights "
            "from before it diverged."
        )
