import dataclasses
import errno
import os
import re
from typing import ClassVar

import keras
import numpy as np
import pytest
import tensorflow as tf
from kills import Killed
from kills import finish_after_kills
from kills import killed_at

from experiments import checkpoint
from experiments import results
from experiments import run_folder
from keras_meta import durable_files

_EPOCHS = 3


@dataclasses.dataclass(frozen=True)
class Settings:
    rate: float = 0.1
    test_tasks: int = 5

    MAY_DIFFER: ClassVar = ("test_tasks",)


class KeepLast(keras.callbacks.Callback):
    def __init__(self, progress):
        super().__init__()
        self._progress = progress

    def on_epoch_end(self, epoch, logs=None):
        self._progress.best = self.model.get_weights()


def run(folder, settings=Settings(), epochs=_EPOCHS):  # noqa: B008
    """Fits a line in two steps per epoch, and records the result."""
    with run_folder.owned(folder):
        record = results.read(folder, settings)
        if record is not None:
            return record
        model = keras.Sequential(
            [keras.Input([1]), keras.layers.Dense(1, kernel_initializer="ones")]
        )
        optimizer = keras.optimizers.Adam(settings.rate)
        model.compile(optimizer, "mse", run_eagerly=True)
        progress = checkpoint.resume(model, folder, settings)
        data = tf.data.Dataset.range(progress.iterations, 2 * epochs)
        data = data.map(lambda i: (tf.fill([1, 1], 0.5 * float(i)), [[1.0]]))
        model.fit(
            data,
            epochs=epochs,
            initial_epoch=len(progress.history),
            steps_per_epoch=2,
            callbacks=[
                checkpoint.NoteProgress(progress),
                KeepLast(progress),
                checkpoint.Checkpoint(folder, settings, progress),
            ],
            shuffle=False,
            verbose=0,
        )
        for row in progress.history:
            del row["seconds"]
        measurements = {
            "weights": [w.tolist() for w in model.get_weights()],
            "best": [w.tolist() for w in progress.best],
            "history": progress.history,
        }
        return results.write(
            folder, settings, measurements, iterations=6, seconds=0.0
        )


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The record of an uninterrupted run."""
    return run(tmp_path_factory.mktemp("straight"))


def stop_after(epochs, folder):
    """Leaves a run as if it had been killed after `epochs` epochs."""
    run(folder, epochs=epochs)
    (folder / "results.json").unlink()


def flip_a_bit(content):
    middle = len(content) // 2
    flipped = bytes([content[middle] ^ 1])
    return content[:middle] + flipped + content[middle + 1 :]


DAMAGES = {
    "emptied": lambda content: b"",
    "truncated": lambda content: content[:-7],
    "flipped": flip_a_bit,
}
damaged = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)


@pytest.mark.slow
def test_a_run_killed_at_any_write_ends_like_an_uninterrupted_one(
    tmp_path, straight
):
    records = list(finish_after_kills(run, tmp_path))
    # Three checkpoints and the record, each flushed, renamed and flushed.
    assert len(records) >= 12
    for record in records:
        assert record == straight


def test_unfinished_files_of_a_killed_run_are_removed(tmp_path):
    with pytest.raises(Killed), killed_at(1):
        run(tmp_path)
    assert any(".part" in name for name in os.listdir(tmp_path))
    run(tmp_path)
    assert not any(".part" in name for name in os.listdir(tmp_path))


@pytest.mark.slow_variants("emptied", "truncated")
@damaged
def test_after_damage_the_previous_checkpoint_is_used(
    tmp_path, straight, damage, capsys
):
    stop_after(2, tmp_path)
    path = tmp_path / "checkpoint.weights.h5"
    path.write_bytes(damage(path.read_bytes()))
    assert run(tmp_path) == straight
    said = capsys.readouterr().err
    assert f"{path} is damaged" in said
    assert "Continuing at iteration 2" in said
    assert (tmp_path / "checkpoint.weights.h5.damaged").exists()


@damaged
def test_without_an_intact_checkpoint_the_error_names_a_way_out(
    tmp_path, damage
):
    stop_after(2, tmp_path)
    paths = sorted(tmp_path.glob("checkpoint*"))
    assert len(paths) == 2
    for path in paths:
        path.write_bytes(damage(path.read_bytes()))
    match = f"checkpoint.weights.h5 is damaged.*--output or remove {tmp_path}"
    with pytest.raises(durable_files.DamagedFile, match=match):
        run(tmp_path)
    assert sorted(tmp_path.glob("checkpoint*")) == paths


@damaged
def test_a_damaged_record_is_rewritten(tmp_path, straight, damage, capsys):
    run(tmp_path)
    path = tmp_path / "results.json"
    path.write_bytes(damage(path.read_bytes()))
    assert run(tmp_path) == straight
    assert f"{path} is damaged" in capsys.readouterr().err
    assert run(tmp_path) == straight


def test_a_full_disk_leaves_the_previous_checkpoint(
    tmp_path, straight, monkeypatch
):
    stop_after(1, tmp_path)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="h5 could not be written: No space"):
            run(tmp_path)
    assert run(tmp_path) == straight


def test_a_failed_hdf5_write_leaves_the_previous_checkpoint(tmp_path, straight):
    resource = pytest.importorskip("resource")
    stop_after(1, tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match="h5 could not be written: "):
            run(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert run(tmp_path) == straight


@pytest.mark.parametrize("is_finished", [False, True])
def test_other_settings_are_refused_and_named(tmp_path, is_finished):
    if is_finished:
        run(tmp_path)
    else:
        stop_after(1, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.glob("*.*5*")}
    match = r"rate=0.1, now 0.5\..*choose another --output or remove"
    with pytest.raises(run_folder.OtherSettings, match=match):
        run(tmp_path, Settings(rate=0.5))
    assert before == {path: path.read_bytes() for path in before}


def test_a_stopped_run_may_continue_with_other_test_settings(
    tmp_path, straight
):
    stop_after(1, tmp_path)
    record = run(tmp_path, Settings(test_tasks=9))
    assert record["settings"]["test_tasks"] == 9
    assert record["measurements"] == straight["measurements"]
    # A record is not replaced silently.
    with pytest.raises(run_folder.OtherSettings, match="test_tasks=9, now 5"):
        run(tmp_path)


@dataclasses.dataclass(frozen=True)
class LaterSettings:
    rate: float
    particles: int | None = None


def test_settings_on_only_one_side_are_named(tmp_path):
    with pytest.raises(run_folder.OtherSettings) as raised:
        run_folder.check_settings(
            tmp_path, {"depth": 2}, LaterSettings(0.1), way_out="Remove it."
        )
    assert "depth=2, now missing; rate=missing, now 0.1" in str(raised.value)


def test_a_setting_that_is_younger_than_a_file_has_its_default_there(tmp_path):
    recorded = {"rate": 0.1}
    run_folder.check_settings(tmp_path, recorded, LaterSettings(0.1), "")
    with pytest.raises(run_folder.OtherSettings, match="particles=None, now 8"):
        run_folder.check_settings(tmp_path, recorded, LaterSettings(0.1, 8), "")


def test_seconds_of_all_processes_are_added(tmp_path):
    stop_after(1, tmp_path)
    first = checkpoint.read(tmp_path, Settings()).seconds
    stop_after(2, tmp_path)
    progress = checkpoint.read(tmp_path, Settings())
    assert progress.seconds > first > 0
    assert progress.iterations == 4


def test_a_second_process_learns_who_owns_the_folder(tmp_path):
    match = re.escape(f"(pid {os.getpid()}) is writing to {tmp_path}")
    with run_folder.owned(tmp_path):
        with pytest.raises(run_folder.InUse, match=match):
            run(tmp_path)
    run(tmp_path)


def test_the_lock_of_a_dead_process_does_not_block(tmp_path):
    (tmp_path / ".lock").write_text("99999999")
    with run_folder.owned(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_best_arrays_round_trip(tmp_path):
    stop_after(1, tmp_path)
    best = checkpoint.read(tmp_path, Settings()).best
    assert [w.dtype for w in best] == [np.float32] * 2
    assert [w.shape for w in best] == [(1, 1), (1,)]
