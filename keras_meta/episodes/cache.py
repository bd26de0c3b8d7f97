"""A folder that keeps decoded images, so that a second start is quick."""

import contextlib
import hashlib
import json
import os
import uuid
import zipfile
from collections.abc import Callable
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]

_FOLDER = "keras_meta"


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
    again. Where nothing can be written, nothing is kept.

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
    path = Path(folder) / f"{stem}-{digest}.npz"
    arrays = _read(path, text)
    if arrays is None:
        arrays = build()
        # A read-only or full disk makes the next start slower, no more.
        with contextlib.suppress(OSError):
            _write(path, text, arrays)
    return arrays


def _read(path: Path, text: str) -> Arrays | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    stored = arrays.pop("key", None)
    return arrays if stored is not None and str(stored) == text else None


def _write(path: Path, text: str, arrays: Arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written under another name first: a reader sees a whole file or none.
    # By `open`, so that others may read what the user's mask lets them.
    temporary = path.with_name(f"{uuid.uuid4().hex}.part")
    try:
        with temporary.open("xb") as file:
            np.savez(file, key=np.array(text), **arrays)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
