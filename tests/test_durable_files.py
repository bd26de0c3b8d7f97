import errno
import json
import os

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_meta import durable_files

WAY_OUT = "Remove it."


def write_text(content):
    return lambda path: path.write_bytes(content)


def test_replacing_keeps_the_old_file_if_the_writer_fails(tmp_path):
    path = tmp_path / "file"
    durable_files.write_bytes(path, b"old")
    with pytest.raises(OSError, match="full"):
        with durable_files.replacing(path) as temporary:
            temporary.write_bytes(b"ne")
            raise OSError("the disk is full")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_is_reported_with_the_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    durable_files.write_bytes(path, b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "long account of a library")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError) as raised:
        durable_files.write_bytes(path, b"new")
    assert raised.value.errno == errno.ENOSPC
    assert f"{path} could not be written: No space left" in str(raised.value)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_replacing_keeps_the_previous_file_if_asked(tmp_path):
    path, previous = tmp_path / "file", tmp_path / "previous"
    for content in (b"1", b"2", b"3"):
        with durable_files.replacing(path, previous=previous) as temporary:
            temporary.write_bytes(content)
    assert (path.read_bytes(), previous.read_bytes()) == (b"3", b"2")
    assert sorted(os.listdir(tmp_path)) == ["file", "previous"]


@pytest.mark.parametrize("size", [0, 7, 2**20 + 3])
def test_reserve_allocates_the_size(tmp_path, size):
    path = tmp_path / "file"
    durable_files.reserve(path, size)
    assert path.stat().st_size == size


def test_reserve_fails_without_room(tmp_path):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            durable_files.reserve(tmp_path / "file", 1001)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_sealed_file_passes_and_ends_in_its_digest(tmp_path):
    path = tmp_path / "file"
    durable_files.write_sealed(path, write_text(b"content"))
    durable_files.check_seal(path, WAY_OUT)
    assert path.read_bytes().startswith(b"content\nkeras_meta sha256 ")


@pytest.mark.parametrize("content", [b"", b"some content"])
def test_every_flipped_bit_and_truncation_of_a_sealed_file_is_noticed(
    tmp_path, content
):
    path = tmp_path / "file"
    durable_files.write_sealed(path, write_text(content))
    whole = path.read_bytes()
    flipped = [
        whole[:i] + bytes([whole[i] ^ (1 << bit)]) + whole[i + 1 :]
        for i in range(len(whole))
        for bit in range(8)
    ]
    cut = [whole[:size] for size in range(len(whole))]
    for damaged in [*flipped, *cut, whole + b"\n"]:
        path.write_bytes(damaged)
        with pytest.raises(
            durable_files.DamagedFile, match=f"{path} is damaged.*Remove it"
        ):
            durable_files.check_seal(path, WAY_OUT)


def test_hdf5_and_npz_files_can_be_read_despite_the_seal(tmp_path):
    array = np.arange(3.0)

    def write_h5(path):
        with h5py.File(path, "w") as file:
            file["array"] = array

    durable_files.write_sealed(
        tmp_path / "a.npz", lambda path: np.savez(path, array=array), ".npz"
    )
    durable_files.write_sealed(tmp_path / "a.h5", write_h5)
    with np.load(tmp_path / "a.npz") as file:
        np.testing.assert_array_equal(file["array"], array)
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["array"], array)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    max_leaves=10,
)


@given(
    record=st.dictionaries(
        st.text().filter(lambda name: name != "sha256"), json_values
    )
)
@settings(max_examples=20, deadline=None)
def test_json_round_trip(tmp_path_factory, record):
    path = tmp_path_factory.mktemp("json") / "record.json"
    durable_files.write_json(path, record)
    read = durable_files.read_json(path, WAY_OUT)
    # NaN is not equal to itself.
    assert json.dumps(read) == json.dumps(record)


def test_every_flipped_bit_and_truncation_of_json_is_noticed(tmp_path):
    path = tmp_path / "record.json"
    durable_files.write_json(path, {"rate": 0.1, "name": "adam"})
    whole = path.read_bytes()
    flipped = [
        whole[:i] + bytes([whole[i] ^ (1 << bit)]) + whole[i + 1 :]
        for i in range(len(whole))
        for bit in range(8)
    ]
    for damaged in [*flipped, *(whole[:i] for i in range(len(whole)))]:
        path.write_bytes(damaged)
        with pytest.raises(durable_files.DamagedFile, match="record.json"):
            durable_files.read_json(path, WAY_OUT)


def test_json_without_a_checksum_is_refused(tmp_path):
    path = tmp_path / "record.json"
    path.write_text('{"rate": 0.1}\n')
    with pytest.raises(durable_files.DamagedFile, match="has no checksum"):
        durable_files.read_json(path, WAY_OUT)


def test_old_unfinished_files_are_removed(tmp_path):
    for name in ("a.npz.1234.part", "b.h5.1234.part.h5", "whole.npz"):
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (0, 0))
    young = tmp_path / "c.npz.1234.part"
    young.write_bytes(b"")
    durable_files.remove_unfinished(tmp_path, older_than=1000.0)
    assert sorted(os.listdir(tmp_path)) == [young.name, "whole.npz"]
    durable_files.remove_unfinished(tmp_path / "absent", older_than=1000.0)


def test_a_file_is_checked_against_a_recorded_digest(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    digest = durable_files.digest_of(b"content")
    assert durable_files.read_bytes(path, digest, WAY_OUT) == b"content"
    path.write_bytes(b"Content")
    with pytest.raises(
        durable_files.DamagedFile, match=f"{path} is damaged.*Remove it"
    ):
        durable_files.read_bytes(path, digest, WAY_OUT)
