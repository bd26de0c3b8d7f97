"""Starts TensorFlow without its routine messages.

Importing TensorFlow writes about fifteen lines to the standard error stream.
They describe the processor and, on a machine without a GPU, report that there
is none, partly as an error. No environment variable silences all of them,
because some are written before TensorFlow reads any. So during the import, a
second process reads the stream, drops these lines and immediately passes on
all others. If TensorFlow kills the process, its last words are still visible.

`TF_CPP_MIN_LOG_LEVEL=0` shows everything.
"""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_ERRORS = "2"
_NOISE = re.compile(
    # Information and warnings, in both of TensorFlow's formats.
    rb"[IW]\d{4} \d\d:\d\d:\d\d"
    rb"|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IW] "
    rb"|WARNING: All log messages before absl::InitializeLog\(\)"
    rb"|To enable the following instructions: "
    # Errors about a missing driver or GPU.
    rb"|.*failed call to cuInit: .*(\(303\)|CUDA_ERROR_NO_DEVICE)"
)


def start_tensorflow() -> None:
    """Silently imports TensorFlow and initializes its devices."""
    # A child process inherits the level set here.
    level = os.environ.setdefault(_LEVEL, _ERRORS)
    if level != _ERRORS or sys.stderr is None:
        return
    with _filtered_stderr():
        import tensorflow as tf

        tf.config.list_physical_devices()


def is_noise(line: bytes) -> bool:
    """Returns whether a line is a routine message of TensorFlow's startup."""
    return _NOISE.match(line) is not None


@contextlib.contextmanager
def _filtered_stderr() -> Iterator[None]:
    """Filters everything written to the stream, including by C++ code."""
    reader = subprocess.Popen(
        [sys.executable, "-I", "-S", str(pathlib.Path(__file__))],
        stdin=subprocess.PIPE,
    )
    stderr = os.dup(2)
    os.dup2(reader.stdin.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        reader.stdin.close()
        reader.wait()


def _pass_on_what_is_not_noise() -> None:
    # Ctrl-C reaches both processes. This one must outlive the other's output.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin.buffer:
        if not is_noise(line):
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()


if __name__ == "__main__":
    _pass_on_what_is_not_noise()
