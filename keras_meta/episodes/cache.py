"""A folder that keeps decoded images, so that a second start is quick."""

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
# Seconds after which a file that nobody has written to is abandoned.
_ABANDONED = 3600


def cache_folder(data_dir: str | os.PathLike) -> Path:
    """Where to keep arrays made from the data sets of a folder.

    Args:
        data_dir: Folder of the data sets.

    Returns:
        A folder in `data_dir` if that can be written, else in the user's
        folder for caches.
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
    """Reads arrays from the cache, or builds and keeps them.

    A file that is damaged, or was written for something else, is built
    again. Where nothing can be written, nothing is kept. Several processes
    may use one folder at once: each sees only whole files. What a killed
    process left unfinished is removed an hour later.

    Args:
        folder: Folder of the cache; it is made if it is not there.
        key: All that the arrays depend on, as JSON values. `key["name"]`
            begins the name of the file.
        build: Function that makes the arrays, a dict by name.

    Returns:
        What `build` returns or returned.
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
        # A read-only or full disk makes the next start slower, no more.
        with contextlib.suppress(OSError):
            write_sealed(
                path,
                lambda file: np.savez(file, key=np.array(text), **arrays),
                _SUFFIX,
            )
    return arrays


def _read(path: Path, text: str) -> Arrays | None:
    """Returns what a file holds, or None unless it is whole and has the key.

    An intact file was written by `cached`, so that reading it cannot fail.
    """
    try:
        check_seal(path, "It is built again.")
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, DamagedFile):
        return None
    stored = arrays.pop("key", None)
    return arrays if stored is not None and str(stored) == text else None
