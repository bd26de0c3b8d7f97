"""Which prepared data sets are there."""

import os
import pathlib

import pytest


def missing(*names: str) -> list[str]:
    """Returns the data sets that `TFDS_DATA_DIR` does not hold."""
    folder = pathlib.Path(os.environ.get("TFDS_DATA_DIR", "nowhere"))
    return [name for name in names if not (folder / name).is_dir()]


def needs(*names: str) -> pytest.MarkDecorator:
    """Skips a test unless `TFDS_DATA_DIR` holds data sets."""
    absent = missing(*names)
    reason = f"TFDS_DATA_DIR does not hold {', '.join(absent)}"
    return pytest.mark.skipif(bool(absent), reason=reason)
