"""Files that are either complete or absent, and that detect damage.

The package and its experiments write all their files through this module. A
file is written under a temporary name, flushed to disk and renamed, so that a
reader sees either the old file or the new one. A *sealed* file ends in the
SHA-256 digest of its content, so that a flipped bit or a missing end causes
an error that names the file. Other programs can still open sealed HDF5 and
`.npz` files, because these formats are located by their own headers. JSON
carries its digest as the last entry.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import uuid
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

# Suffix of a file that is not complete yet.
UNFINISHED = ".part"
_DIGEST = "sha256"
_SEAL = b"\nkeras_meta sha256 %b\n"
_SEAL_SIZE = len(_SEAL) - len(b"%b") + 64


class DamagedFile(ValueError):
    """A file's content differs from what was written."""


@contextlib.contextmanager
def replacing(
    path: str | os.PathLike,
    suffix: str = "",
    previous: str | os.PathLike | None = None,
) -> Iterator[pathlib.Path]:
    """Replaces a file atomically, once the new one is complete.

    Args:
        path: The file. Its folder is created if it is missing.
        suffix: Suffix of the temporary name, for writers that insist on one.
        previous: Where to keep the old file, or None to discard it. If the
            process is killed, only this file may be left.

    Yields:
        A path in the same folder to write to. When the block ends, the new
        file replaces the old one. If the block raises, the new file is
        removed.

    Raises:
        OSError: If the file cannot be written, for instance because the disk
            is full.

    Example:
    >>> import tempfile
    >>> target = pathlib.Path(tempfile.mkdtemp()) / "numbers.txt"
    >>> with replacing(target) as temporary:
    ...     _ = temporary.write_text("1 2 3")
    >>> target.read_text()
    '1 2 3'
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    name = f"{path.name}.{uuid.uuid4().hex[:8]}{UNFINISHED}{suffix}"
    temporary = path.with_name(name)
    try:
        yield temporary
        _flush(temporary)
        if previous is not None and path.exists():
            path.replace(previous)
        temporary.replace(path)
        _flush(path.parent)
    except OSError as error:
        raise _unwritten(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file atomically.

    Args:
        path: The file.
        content: The content.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_sealed(
    path: str | os.PathLike,
    write: Callable[[pathlib.Path], Any],
    suffix: str = "",
    previous: str | os.PathLike | None = None,
) -> None:
    """Writes a file atomically, with a seal at its end.

    Args:
        path: The file.
        write: Function that writes the content to the path it is given.
        suffix: See `replacing`.
        previous: See `replacing`.
    """
    with replacing(path, suffix, previous) as temporary:
        write(temporary)
        with temporary.open("r+b") as file:
            digest = hashlib.file_digest(file, _DIGEST).hexdigest()
            file.seek(0, os.SEEK_END)
            file.write(_SEAL % digest.encode())


def reserve(path: str | os.PathLike, size: int) -> None:
    """Requires that the disk has room for a file.

    HDF5 may abort the process if the disk fills up during a write. Call this
    function before HDF5 opens the file.

    Args:
        path: The file. It is filled with zeros.
        size: Its size in bytes.

    Raises:
        OSError: If there is not enough room.
    """
    block = bytes(2**20)
    with open(path, "wb") as file:
        for start in range(0, size, len(block)):
            file.write(block[: size - start])
        file.flush()
        os.fsync(file.fileno())


def check_seal(path: str | os.PathLike, way_out: str) -> None:
    """Requires that a file is unchanged since `write_sealed` wrote it.

    Args:
        path: The file.
        way_out: A sentence that says what to do about a damaged file.

    Raises:
        DamagedFile: If the seal is missing or does not match the content.
        FileNotFoundError: If the file does not exist.
    """
    path = pathlib.Path(path)
    with path.open("rb") as file:
        rest = path.stat().st_size - _SEAL_SIZE
        if rest < 0:
            raise _damaged(path, "it is too short", way_out)
        file.seek(rest)
        seal = file.read()
        file.seek(0)
        digest = hashlib.new(_DIGEST)
        while rest > 0 and (block := file.read(min(rest, 2**20))):
            digest.update(block)
            rest -= len(block)
    if seal != _SEAL % digest.hexdigest().encode():
        raise _damaged(path, "its checksum does not match", way_out)


def write_json(path: str | os.PathLike, record: Mapping[str, Any]) -> None:
    """Writes a dict as JSON, atomically and with its checksum.

    Args:
        path: The file.
        record: JSON values by name. The name `"sha256"` is reserved.

    Raises:
        ValueError: If `record` has the entry `"sha256"`.
        TypeError: If `record` has values that JSON cannot represent.
    """
    if _DIGEST in record:
        raise ValueError(
            f"`record` must not have the entry {_DIGEST!r}, which is reserved "
            "for the checksum. Rename the entry."
        )
    write_bytes(path, _render(record))


def read_json(path: str | os.PathLike, way_out: str) -> dict[str, Any]:
    """Reads a file written by `write_json`.

    Args:
        path: The file.
        way_out: A sentence that says what to do about a damaged file.

    Returns:
        The record, without its checksum.

    Raises:
        DamagedFile: If the file has changed since `write_json` wrote it.
        FileNotFoundError: If the file does not exist.
    """
    path = pathlib.Path(path)
    content = path.read_bytes()
    try:
        record = json.loads(content)
        if not isinstance(record, dict):
            raise ValueError("not a dict")
        if _DIGEST not in record:
            why = "it has no checksum; an older version or a person wrote it"
            raise _damaged(path, why, way_out)
        del record[_DIGEST]
        is_whole = _render(record) == content
    except DamagedFile:
        raise
    except (ValueError, RecursionError):
        is_whole = False
    if not is_whole:
        raise _damaged(path, "its checksum does not match", way_out)
    return record


def digest_of(content: bytes) -> str:
    """Returns the digest by which another file can refer to a content.

    Args:
        content: Content of a file.

    Returns:
        64 hexadecimal digits.
    """
    return hashlib.new(_DIGEST, content).hexdigest()


def read_bytes(path: str | os.PathLike, digest: str, way_out: str) -> bytes:
    """Reads a file whose digest is recorded elsewhere.

    Args:
        path: The file.
        digest: Digest of its content, from `digest_of`.
        way_out: A sentence that says what to do about a damaged file.

    Returns:
        The content.

    Raises:
        DamagedFile: If the content does not match the digest.
        FileNotFoundError: If the file does not exist.
    """
    path = pathlib.Path(path)
    content = path.read_bytes()
    if digest_of(content) != digest:
        raise _damaged(path, "its checksum does not match", way_out)
    return content


def remove_unfinished(
    folder: str | os.PathLike, older_than: float, whole: str = "*"
) -> None:
    """Removes unfinished files that killed writers left in a folder.

    Args:
        folder: The folder. If it does not exist, nothing happens.
        older_than: Time in seconds since the epoch. Newer files stay: a
            process may still be writing them.
        whole: Pattern for the final names of the files. Needed in a folder
            that is shared with other programs.
    """
    for path in pathlib.Path(folder).glob(f"{whole}.*{UNFINISHED}*"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < older_than:
                path.unlink()


def _render(record: Mapping[str, Any]) -> bytes:
    body = json.dumps(record, indent=1)
    digest = hashlib.new(_DIGEST, body.encode()).hexdigest()
    whole = {**record, _DIGEST: digest}
    return (json.dumps(whole, indent=1) + "\n").encode()


def _flush(path: pathlib.Path) -> None:
    """Waits until a file, or the names in a folder, are on disk."""
    # Windows cannot open folders.
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _damaged(path: pathlib.Path, why: str, way_out: str) -> DamagedFile:
    return DamagedFile(f"{path} is damaged: {why}. {way_out}")


def _unwritten(path: pathlib.Path, error: OSError) -> OSError:
    """Returns an error that names the file that could not be written."""
    kept = "Its previous content is kept."
    if error.errno is None:
        return OSError(f"{path} could not be written: {error}. {kept}")
    # Libraries report such an error at length, down to their buffers.
    reason = os.strerror(error.errno)
    return OSError(
        error.errno, f"{path} could not be written: {reason}. {kept}"
    )
