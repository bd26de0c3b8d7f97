"""A cache of decoded images on disk, which makes later starts quick."""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_meta.durable_files import DamagedFile
from keras_meta.durable_files import check_seal
from keras_meta.durable_files import remove_unfinished
from keras_meta.durable_files import write_sealed

Arrays = dict[str, np.ndarray]

_FOLDER = "keras_meta"
_SUFFIX = ".npz"
# Seconds without a write after which a file counts as abandoned.
_ABANDONED = 3600


def cache_folder(data_dir: str | os.PathLike) -> Path:
    """Returns the folder to cache arrays in.

    Args:
        data_dir: Folder of the data sets that the arrays are made from.

    Returns:
        A folder in `data_dir` if `data_dir` is writable, else one in the
        user's cache folder.
    """
    if os.access(data_dir, os.W_OK):
        return Path(data_dir) / _FOLDER
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / _FOLDER


def cached(
    folder: str | os.PathLike,
    key: Mapping[str, Any],
    build: Callable[[], Arrays],
) -> Arrays:
    """Reads arrays from the cache, or builds and caches them.

    A file that is damaged or has another key is rebuilt. Where nothing can be
    written, nothing is cached. Several processes may use one folder at once:
    each sees only complete files. Files that a killed process left unfinished
    are removed after an hour.

    Args:
        folder: Folder of the cache. It is created if it is missing.
        key: Everything the arrays depend on, as JSON values. The file name
            starts with `key["name"]`.
        build: Function that returns the arrays, a dict by name.

    Returns:
        The arrays that `build` returns, now or when the file was written.
    """
    text = json.dumps(dict(key), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    stem = str(key["name"]).replace("/", "-")
    path = Path(folder) / f"{stem}-{digest}{_SUFFIX}"
    with contextlib.suppress(OSError):
        remove_unfinished(folder, time.time() - _ABANDONED, whole=f"*{_SUFFIX}")
    arrays = _read(path, text)
    if arrays is None:
        arrays = build()
        content: dict[str, Any] = {"key": np.array(text), **arrays}
        # A read-only or full disk only makes the next start slower.
        with contextlib.suppress(OSError):
            write_sealed(
                path,
                lambda file: np.savez(file, **content),
                _SUFFIX,
            )
    return arrays


def _read(path: Path, text: str) -> Arrays | None:
    """Returns the arrays in a file, or None if it is damaged or another key's.

    An intact file was written by `cached`, so reading it cannot fail.
    """
    try:
        check_seal(path, "It is rebuilt.")
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, DamagedFile):
        return None
    stored = arrays.pop("key", None)
    return arrays if stored is not None and str(stored) == text else None
