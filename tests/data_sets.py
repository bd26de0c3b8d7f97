"""Which prepared data sets are there."""

import os
import pathlib

import pytest


def needs(*names: str) -> pytest.MarkDecorator:
    """Skips a test unless `TFDS_DATA_DIR` holds data sets."""
    folder = pathlib.Path(os.environ.get("TFDS_DATA_DIR", "nowhere"))
    missing = [name for name in names if not (folder / name).is_dir()]
    return pytest.mark.skipif(
        bool(missing),
        reason=f"TFDS_DATA_DIR does not hold {', '.join(missing)}",
    )
