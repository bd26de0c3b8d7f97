"""Starts TensorFlow without the messages that nobody needs.

Importing TensorFlow writes some fifteen lines to the standard error stream:
what the processor can do, and on a machine without a GPU that there is none,
some of it as an error. No environment variable silences all of them, as a
part is written before TensorFlow has read any. So while it starts, a second
process reads the stream, drops these lines and passes on all others at once:
if TensorFlow kills the process, its last words are still seen.

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
    # Information and warnings, in both formats that TensorFlow writes.
    rb"[IW]\d{4} \d\d:\d\d:\d\d"
    rb"|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IW] "
    rb"|WARNING: All log messages before absl::InitializeLog\(\)"
    rb"|To enable the following instructions: "
    # There is no driver, or no GPU.
    rb"|.*failed call to cuInit: .*(\(303\)|CUDA_ERROR_NO_DEVICE)"
)


def start_tensorflow() -> None:
    """Imports TensorFlow and looks for its devices, silently."""
    # A process that another one starts has inherited the level set here.
    level = os.environ.setdefault(_LEVEL, _ERRORS)
    if level != _ERRORS or sys.stderr is None:
        return
    with _filtered_stderr():
        import tensorflow as tf

        tf.config.list_physical_devices()


def is_noise(line: bytes) -> bool:
    """Returns whether a line is what TensorFlow always writes at its start."""
    return _NOISE.match(line) is not None


@contextlib.contextmanager
def _filtered_stderr() -> Iterator[None]:
    """Sends what is written to the stream, by C++ too, through a filter."""
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
    # Ctrl-C reaches both processes; what the other one says comes through.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin.buffer:
        if not is_noise(line):
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()


if __name__ == "__main__":
    _pass_on_what_is_not_noise()
