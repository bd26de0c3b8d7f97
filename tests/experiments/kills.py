"""Processes that are killed in the middle of writing their files."""

import contextlib
import itertools
import os

import pytest


class Killed(BaseException):
    """The process would be gone by now."""


@contextlib.contextmanager
def killed_at(count):
    """Kills the block at its `count`-th flush or rename.

    What should be cleaned up then stays, as in a process that is gone.
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
    """Kills a run at one of its writes after another, and starts it again.

    Args:
        run: A function of the run's folder.
        folders: Where to make a folder for each kill.
        every: Writes from one kill to the next.

    Yields:
        What `run` returns when it goes on after the kill.
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
