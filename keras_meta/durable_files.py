"""Files that are whole or absent, and whose damage is noticed.

Everything that the package and its experiments write goes through here. A
file is written beside its place, flushed to the disk and renamed, so that a
reader sees the old file or the new one. A *sealed* file ends in the SHA-256
digest of what comes before: a flipped bit or a missing end is an error that
names the file. Formats that are read from their own headers, as HDF5 and
`.npz` are, can still be opened by other programs. JSON carries its digest as
the last entry.
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

# Ends the name of a file that is not whole yet.
UNFINISHED = ".part"
_DIGEST = "sha256"
_SEAL = b"\nkeras_meta sha256 %b\n"
_SEAL_SIZE = len(_SEAL) - len(b"%b") + 64


class DamagedFile(ValueError):
    """A file is not what was written."""


@contextlib.contextmanager
def replacing(
    path: str | os.PathLike,
    suffix: str = "",
    previous: str | os.PathLike | None = None,
) -> Iterator[pathlib.Path]:
    """Puts a file in its place once it is whole.

    Args:
        path: Where the file belongs. Its folder is made if it is not there.
        suffix: What the temporary name must end in, for writers that insist
            on one.
        previous: Where to keep the old file, if it is to be kept. If the
            process is killed, this may be the only file.

    Yields:
        A path in the same folder to write to. What is written there replaces
        the old file at the end, or is removed if the block raises.

    Raises:
        OSError: If the file cannot be written, say because the disk is full.

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
    """Writes a file as a whole.

    Args:
        path: The file.
        content: What it holds.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_sealed(
    path: str | os.PathLike,
    write: Callable[[pathlib.Path], Any],
    suffix: str = "",
    previous: str | os.PathLike | None = None,
) -> None:
    """Writes a file as a whole, with a seal at its end.

    Args:
        path: The file.
        write: Writes the content to the path that it is given.
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
    """Requires that there is room for a file.

    HDF5 may end the process if the disk fills up while it writes. Call this
    before it opens the file.

    Args:
        path: The file; only zeros will be in it.
        size: Its size, bytes.

    Raises:
        OSError: If there is no room.
    """
    block = bytes(2**20)
    with open(path, "wb") as file:
        for start in range(0, size, len(block)):
            file.write(block[: size - start])
        file.flush()
        os.fsync(file.fileno())


def check_seal(path: str | os.PathLike, way_out: str) -> None:
    """Requires that a file is as `write_sealed` left it.

    Args:
        path: The file.
        way_out: A sentence that says what to do about a damaged file.

    Raises:
        DamagedFile: If the seal is missing or is that of another content.
        FileNotFoundError: If there is no file.
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
        raise _damaged(path, "its checksum does not fit", way_out)


def write_json(path: str | os.PathLike, record: Mapping[str, Any]) -> None:
    """Writes a dict as JSON, as a whole and with its checksum.

    Args:
        path: The file.
        record: JSON values by name; `"sha256"` is taken.

    Raises:
        ValueError: If `record` holds `"sha256"`.
        TypeError: If `record` holds what JSON cannot.
    """
    if _DIGEST in record:
        raise ValueError(f"`record` must not hold {_DIGEST!r}.")
    write_bytes(path, _render(record))


def read_json(path: str | os.PathLike, way_out: str) -> dict[str, Any]:
    """Reads what `write_json` wrote, without its checksum.

    Args:
        path: The file.
        way_out: A sentence that says what to do about a damaged file.

    Raises:
        DamagedFile: If the file is not as `write_json` left it.
        FileNotFoundError: If there is no file.
    """
    path = pathlib.Path(path)
    content = path.read_bytes()
    try:
        record = json.loads(content)
        if not isinstance(record, dict):
            raise ValueError("no dict")
        if _DIGEST not in record:
            why = "it has no checksum, so an older version or a person wrote it"
            raise _damaged(path, why, way_out)
        del record[_DIGEST]
        is_whole = _render(record) == content
    except DamagedFile:
        raise
    except (ValueError, RecursionError):
        is_whole = False
    if not is_whole:
        raise _damaged(path, "its checksum does not fit", way_out)
    return record


def digest_of(content: bytes) -> str:
    """Returns the digest by which another file may name a content.

    Args:
        content: What a file holds.

    Returns:
        64 hexadecimal digits.
    """
    return hashlib.new(_DIGEST, content).hexdigest()


def read_bytes(path: str | os.PathLike, digest: str, way_out: str) -> bytes:
    """Reads a file whose digest is known from elsewhere.

    Args:
        path: The file.
        digest: What `digest_of` returned for its content.
        way_out: A sentence that says what to do about a damaged file.

    Raises:
        DamagedFile: If the file holds another content.
        FileNotFoundError: If there is no file.
    """
    path = pathlib.Path(path)
    content = path.read_bytes()
    if digest_of(content) != digest:
        raise _damaged(path, "its checksum does not fit", way_out)
    return content


def remove_unfinished(
    folder: str | os.PathLike, older_than: float, whole: str = "*"
) -> None:
    """Removes what writers that were killed left in a folder.

    Args:
        folder: The folder. Nothing happens if it is not there.
        older_than: Time in seconds since the epoch; younger files may be
            those of a writer at work, and stay.
        whole: Pattern of the names that the files would have got, in a
            folder where others keep files too.
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
    """Waits until a file, or the names in a folder, are on the disk."""
    # Windows opens no folders.
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
    """Returns the error that says which file could not be written."""
    kept = "What it held before is kept."
    if error.errno is None:
        return OSError(f"{path} could not be written: {error}. {kept}")
    # A library's own account of such an error is long and names its buffers.
    reason = os.strerror(error.errno)
    return OSError(
        error.errno, f"{path} could not be written: {reason}. {kept}"
    )
