"""The folder of a run: one process at a time, one set of settings."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import math
import os
import pathlib
import sys
from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

from keras_meta import durable_files

if os.name == "nt":
    import msvcrt
else:
    import fcntl

_LOCK = ".lock"
# Errors of network file systems that have no locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


class InUse(RuntimeError):
    """Another process is writing to the folder."""


class OtherSettings(ValueError):
    """The folder holds a run with different settings."""


@contextlib.contextmanager
def owned(folder: pathlib.Path) -> Iterator[None]:
    """Keeps other processes from writing to a folder.

    The system releases the folder when the process ends, however it ends.
    Unfinished files of earlier processes are removed.

    Args:
        folder: The folder. It is created if it does not exist.

    Raises:
        InUse: If another process owns the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT)
    try:
        if not _is_locked_by_us(descriptor):
            owner = os.read(descriptor, 32).decode(errors="replace")
            raise InUse(
                f"Another process (pid {owner or 'unknown'}) is writing to "
                f"{folder}. Wait until it has finished, or choose another "
                "--output."
            )
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        durable_files.remove_unfinished(folder, older_than=math.inf)
        yield
    finally:
        os.close(descriptor)


def _is_locked_by_us(descriptor: int) -> bool:
    try:
        if os.name == "nt":
            # Beyond the process id, which others must be able to read.
            os.lseek(descriptor, 2**20, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.lseek(descriptor, 0, os.SEEK_SET)
        return error.errno in _NO_LOCKS
    return True


def as_json(settings: Any) -> dict[str, Any]:
    """Returns a dataclass of settings as JSON would restore it."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def check_settings(
    path: pathlib.Path,
    recorded: Mapping[str, Any],
    settings: Any,
    way_out: str,
    may_differ: Collection[str] = (),
) -> None:
    """Requires that a file was written with the same settings.

    A setting that the file lacks is younger than the file. It counts as its
    default, if it has one.

    Args:
        path: The file.
        recorded: The settings in the file.
        settings: Dataclass of the current settings.
        way_out: A sentence that says what to do if they differ.
        may_differ: Names of settings that need not match.

    Raises:
        OtherSettings: If any other setting differs.
    """
    now = as_json(settings)
    recorded = {**_defaults(settings), **recorded}
    different = sorted(
        name
        for name in {*now, *recorded} - {*may_differ}
        if name not in now
        or name not in recorded
        or now[name] != recorded[name]
    )
    if different:
        changes = "; ".join(
            f"{name}={_shown(recorded, name)}, now {_shown(now, name)}"
            for name in different
        )
        raise OtherSettings(
            f"{path} belongs to a run with different settings: {changes}. "
            f"{way_out}"
        )


def _defaults(settings: Any) -> dict[str, Any]:
    """Returns the defaults of a dataclass, as JSON would restore them."""
    defaults = {
        field.name: field.default
        for field in dataclasses.fields(settings)
        if field.default is not dataclasses.MISSING
    }
    return json.loads(json.dumps(defaults))


def _shown(settings: Mapping[str, Any], name: str) -> str:
    return repr(settings[name]) if name in settings else "missing"


def start_afresh(folder: pathlib.Path) -> str:
    """Returns a sentence that says how to start a run again."""
    return f"To start afresh, choose another --output or remove {folder}."


def set_aside(path: pathlib.Path) -> pathlib.Path:
    """Renames a damaged file, and returns its new path."""
    aside = path.with_name(f"{path.name}.damaged")
    path.replace(aside)
    return aside


def read_json(path: pathlib.Path, instead: str) -> dict[str, Any] | None:
    """Reads a file that the run can do without.

    Args:
        path: A file that `durable_files.write_json` wrote.
        instead: What happens if the file is damaged, as the end of a sentence.

    Returns:
        The content, or `None` if the file is missing or damaged. A damaged
        file is renamed and reported.
    """
    try:
        return durable_files.read_json(path, way_out="")
    except FileNotFoundError:
        return None
    except durable_files.DamagedFile as error:
        report(f"{error}It is kept as {set_aside(path)}, and {instead}.")
        return None


def report(message: str) -> None:
    """Reports an event concerning the run's files."""
    print(message, file=sys.stderr, flush=True)
