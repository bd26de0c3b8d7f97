"""What a benchmark ran on."""

import importlib.metadata
import pathlib
import platform

PACKAGES = ("tensorflow", "keras", "torch", "jax", "jaxlib", "numpy")


def cpu_model():
    """Returns the name of the CPU as far as the system tells it."""
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def versions():
    """Returns the versions of Python and of the installed frameworks."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found
