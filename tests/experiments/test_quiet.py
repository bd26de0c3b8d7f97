import subprocess
import sys

import pytest

from experiments import quiet


@pytest.mark.parametrize(
    "line",
    [
        "WARNING: All log messages before absl::InitializeLog() is called are "
        "written to STDERR",
        "I0000 00:00:1795686470.544767 8245 cudart_stub.cc:31] Could not find "
        "cuda drivers on your machine, GPU will not be used.",
        "W0000 00:00:1795686470.544767 8245 gpu_device.cc:2431] Skipping "
        "registering GPU devices...",
        "2025-11-26 09:47:50.544767: I tensorflow/core/util/port.cc:153] "
        "oneDNN custom operations are on.",
        "To enable the following instructions: AVX2 FMA, in other operations, "
        "rebuild TensorFlow with the appropriate compiler flags.",
        "E0000 00:00:1795686476.241385 8245 cuda_platform.cc:52] failed call "
        "to cuInit: INTERNAL: CUDA error: Failed call to cuInit: UNKNOWN "
        "ERROR (303)",
    ],
)
def test_routine_messages_of_tensorflow_are_noise(line):
    assert quiet.is_noise(line.encode() + b"\n")


@pytest.mark.parametrize(
    "line",
    [
        "E0000 00:00:1795686476.241385 8245 cuda_platform.cc:52] failed call "
        "to cuInit: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
        "F0000 00:00:1795686476.241385 8245 cpu_feature_guard.cc:54] The "
        "TensorFlow library was compiled to use AVX instructions, but these "
        "aren't available on your machine.",
        "2025-11-26 09:47:50.544767: E tensorflow/core/x.cc:1] broken",
        "WARNING: the disk is failing",
        "Traceback (most recent call last):",
        "",
    ],
)
def test_errors_are_not_noise(line):
    assert not quiet.is_noise(line.encode() + b"\n")


def test_last_words_of_a_process_that_dies_are_passed_on():
    program = """
import os
from experiments import quiet
with quiet._filtered_stderr():
    os.write(2, b"I0000 00:00:17.1 1 a.cc:1] hello\\nfatal\\n")
    os.abort()
"""
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=60
    )
    assert finished.returncode
    assert finished.stderr == b"fatal\n"


def test_errors_after_the_start_are_visible():
    program = """
import sys
from experiments import quiet
try:
    with quiet._filtered_stderr():
        raise ImportError("no TensorFlow")
except ImportError as error:
    print(error, file=sys.stderr)
"""
    finished = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (finished.stdout, finished.stderr) == ("", "no TensorFlow\n")
