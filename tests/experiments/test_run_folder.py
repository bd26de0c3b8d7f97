import dataclasses
import functools
import subprocess
import sys

import pytest

from experiments import plotting
from experiments import run_folder
from experiments.benchmarks import machine
from keras_meta import durable_files


def test_a_damaged_dispensable_file_is_renamed(tmp_path, capsys):
    path = tmp_path / "rates.json"
    assert run_folder.read_json(path, "rates are tuned again") is None
    durable_files.write_json(path, {"adam": 0.1})
    assert run_folder.read_json(path, "rates are tuned again") == {"adam": 0.1}
    path.write_bytes(b"")
    assert run_folder.read_json(path, "rates are tuned again") is None
    assert capsys.readouterr().err == (
        f"{path} is damaged: its checksum does not match. It is kept as "
        f"{path}.damaged, and rates are tuned again.\n"
    )
    assert not path.exists()


@dataclasses.dataclass(frozen=True)
class _Settings:
    seed: int
    rate: float = 0.1


def test_settings_that_an_older_file_lacks_have_their_defaults(tmp_path):
    check = functools.partial(
        run_folder.check_settings, tmp_path / "results.json"
    )
    check({"seed": 3}, _Settings(3), way_out="")
    with pytest.raises(run_folder.OtherSettings, match="rate=0.1, now 0.2"):
        check({"seed": 3}, _Settings(3, rate=0.2), way_out="")
    with pytest.raises(run_folder.OtherSettings, match="seed=missing, now 3"):
        check({"rate": 0.1}, _Settings(3), way_out="")
    with pytest.raises(run_folder.OtherSettings, match="old=1, now missing"):
        check({"seed": 3, "old": 1}, _Settings(3), way_out="")


@pytest.mark.slow
def test_a_killed_process_releases_its_folder(tmp_path):
    program = """
import pathlib, sys, time
from experiments import run_folder
with run_folder.owned(pathlib.Path(sys.argv[1])):
    print("mine", flush=True)
    time.sleep(600)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout.readline() == b"mine\n"
        with pytest.raises(run_folder.InUse, match=rf"\(pid {process.pid}\)"):
            with run_folder.owned(tmp_path):
                pass
    finally:
        process.kill()
        process.wait()
    with run_folder.owned(tmp_path):
        pass


def test_a_figure_that_cannot_be_saved_leaves_the_previous_one(
    tmp_path, monkeypatch
):
    with plotting.saved_figure(tmp_path / "loss") as (_, panels):
        panels[0, 0].plot([1, 2])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(path.name for path in before) == ["loss.pdf", "loss.png"]

    def half(self, path, *args, **kwargs):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", half)
    with pytest.raises(KeyboardInterrupt):
        with plotting.saved_figure(tmp_path / "loss"):
            pass
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}


def test_benchmark_records_have_a_checksum(tmp_path):
    path = tmp_path / "new" / "speed.json"
    machine.write_record(path, rows=[1.5])
    assert durable_files.read_json(path, way_out="")["rows"] == [1.5]
