"""Simulates processes that are killed while they write files."""

import contextlib
import itertools
import os

import pytest


class Killed(BaseException):
    """Stands for the death of the process."""


@contextlib.contextmanager
def killed_at(count):
    """Kills the block at its `count`-th flush or rename.

    Nothing is cleaned up afterwards, as if the process were gone.
    """
    calls = itertools.count(1)
    is_dead = False

    def counted(call):
        def wrapped(*args, **kwargs):
            nonlocal is_dead
            is_dead = is_dead or next(calls) >= count
            if is_dead:
                raise Killed
            return call(*args, **kwargs)

        return wrapped

    def unlink(*args, remove=os.unlink, **kwargs):
        if is_dead:
            raise Killed
        return remove(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", counted(os.fsync))
        patch.setattr(os, "replace", counted(os.replace))
        patch.setattr(os, "unlink", unlink)
        yield


def finish_after_kills(run, folders, every=1):
    """Kills a run at each of its writes in turn, and restarts it.

    Args:
        run: A function of the run's folder.
        folders: Where to make a folder for each kill.
        every: Number of writes between kills.

    Yields:
        The result of `run` when it continues after the kill.
    """
    for count in itertools.count(1, every):
        folder = folders / str(count)
        try:
            with killed_at(count):
                run(folder)
        except Killed:
            yield run(folder)
        else:
            return
