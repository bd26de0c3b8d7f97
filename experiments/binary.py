"""Startup and error handling of the experiments' programs.

A program must import this module before any module that imports TensorFlow.
"""

from __future__ import annotations

import functools
import pathlib
import sys
from collections.abc import Callable
from collections.abc import Sequence
from logging import LogRecord

from experiments import quiet

quiet.start_tensorflow()

# isort: split
import tensorflow as tf  # noqa: E402
from absl import app  # noqa: E402
from absl import flags  # noqa: E402
from absl import logging  # noqa: E402

from experiments import run_folder  # noqa: E402
from keras_meta import durable_files  # noqa: E402

# Errors that the user can fix, and whose messages say how.
_EXPLAINED = (
    durable_files.DamagedFile,
    run_folder.InUse,
    run_folder.OtherSettings,
)


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Runs a program with its flags.

    Args:
        main: Called with the arguments that are not flags.
    """
    app.run(functools.partial(_run, main))


def announce(plan: str, output: pathlib.Path) -> None:
    """Prints the first line of a program.

    Args:
        plan: What the program is about to do, as the start of a sentence.
        output: Folder that the program writes to.
    """
    print(
        f"{plan}, on {_device()}. Weights, records and figures go to {output}; "
        "if training is stopped, the same command continues it.",
        flush=True,
    )


def _device() -> str:
    """Describes the device that TensorFlow computes on."""
    gpus = len(tf.config.list_physical_devices("GPU"))
    if not gpus:
        return "the CPU"
    return "a GPU" if gpus == 1 else f"{gpus} GPUs"


def _run(main: Callable[[Sequence[str]], None], arguments: Sequence[str]):
    # TensorFlow Datasets logs every file that it reads.
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    logging.get_absl_logger().addFilter(_is_for_the_user)
    try:
        main(arguments)
    except _EXPLAINED as error:
        sys.exit(f"{type(error).__name__}: {error}")


def _is_for_the_user(record: LogRecord) -> bool:
    """Returns whether a message is not TensorFlow Datasets' own warning."""
    return "`FeatureConnector.dtype` is deprecated" not in record.getMessage()
