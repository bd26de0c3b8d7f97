"""The cache of decoded images: damage, killed writers, keys."""

import os
import threading
import time

import numpy as np
import pytest

from keras_meta.episodes.cache import cached

KEY = {"name": "pets/1.0.0", "channels": 3}
IMAGES = np.arange(12, dtype="uint8").reshape(3, 2, 2, 1)


class Builder:
    """Makes arrays and counts its calls."""

    def __init__(self, images=IMAGES):
        self.calls = 0
        self._images = images

    def __call__(self):
        self.calls += 1
        return {"images": self._images, "labels": np.arange(3)}


def the_file(folder):
    (file,) = folder.glob("*.npz")
    return file


def assert_rebuilt(folder, damaged):
    """Checks that a file with this content is rebuilt and then used."""
    the_file(folder).write_bytes(damaged)
    build = Builder()
    for _ in range(2):
        arrays = cached(folder, KEY, build)
        np.testing.assert_array_equal(arrays["images"], IMAGES)
        np.testing.assert_array_equal(arrays["labels"], np.arange(3))
    assert build.calls == 1


def test_the_second_start_reads_what_the_first_built(tmp_path):
    build = Builder()
    for _ in range(3):
        arrays = cached(tmp_path, KEY, build)
        assert list(arrays) == ["images", "labels"]
    assert build.calls == 1
    assert the_file(tmp_path).name.startswith("pets-1.0.0-")


def test_every_flipped_byte_is_noticed(tmp_path, monkeypatch):
    # Waiting for the disk is slow, and durability is tested elsewhere.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    cached(tmp_path, KEY, Builder())
    whole = the_file(tmp_path).read_bytes()
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        assert_rebuilt(tmp_path, bytes(flipped))


def test_every_truncation_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    cached(tmp_path, KEY, Builder())
    whole = the_file(tmp_path).read_bytes()
    for size in range(0, len(whole), 7):
        assert_rebuilt(tmp_path, whole[:size])
    assert_rebuilt(tmp_path, whole + b"\n")


def test_an_array_file_without_a_seal_is_rebuilt(tmp_path):
    cached(tmp_path, KEY, Builder())
    file = the_file(tmp_path)
    np.savez(file, key=np.array("{}"), images=IMAGES + 1)
    assert_rebuilt(tmp_path, file.read_bytes())


def test_each_key_has_its_own_file(tmp_path):
    other = Builder(IMAGES + 1)
    cached(tmp_path, KEY, Builder())
    arrays = cached(tmp_path, KEY | {"channels": 1}, other)
    np.testing.assert_array_equal(arrays["images"], IMAGES + 1)
    assert len(list(tmp_path.glob("*.npz"))) == 2


def test_old_leftovers_of_killed_writers_are_removed(tmp_path):
    long_ago = time.time() - 86400
    names = ("pets-1.npz.0a1b2c3d.part.npz", "film.part", "old.npz")
    for name in names:
        (tmp_path / name).write_bytes(b"unfinished")
        os.utime(tmp_path / name, (long_ago, long_ago))
    at_work = tmp_path / "pets-1.npz.99999999.part.npz"
    at_work.write_bytes(b"unfinished")
    cached(tmp_path, KEY, Builder())
    left = {file.name for file in tmp_path.iterdir()}
    # Other files and those that another process is writing stay.
    assert left >= {"film.part", "old.npz", at_work.name}
    assert names[0] not in left


def test_a_writer_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(file, **arrays):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    arrays = cached(tmp_path, KEY, Builder())
    np.testing.assert_array_equal(arrays["images"], IMAGES)
    assert not list(tmp_path.iterdir())


def test_several_writers_at_once(tmp_path):
    writers = 4
    together = threading.Barrier(writers)
    results = []

    def build():
        together.wait(timeout=60)
        return Builder()()

    threads = [
        threading.Thread(
            target=lambda: results.append(cached(tmp_path, KEY, build))
        )
        for _ in range(writers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == writers
    for arrays in results:
        np.testing.assert_array_equal(arrays["images"], IMAGES)
    assert [file.suffix for file in tmp_path.iterdir()] == [".npz"]
    build_again = Builder()
    cached(tmp_path, KEY, build_again)
    assert build_again.calls == 0


@pytest.mark.parametrize("below", ["file/cache", "file"])
def test_nothing_is_cached_if_the_folder_cannot_be_created(tmp_path, below):
    (tmp_path / "file").write_text("")
    arrays = cached(tmp_path / below, KEY, Builder())
    np.testing.assert_array_equal(arrays["images"], IMAGES)
