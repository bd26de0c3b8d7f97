"""What a benchmark ran on, and its record of that and of what it found."""

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


def memory(key, process="self"):
    """Returns the memory of a process from the kernel's books, bytes.

    Args:
        key: `"VmRSS"` for what is resident now, `"VmHWM"` for the most that
            was.
        process: Number of the process.
    """
    books = pathlib.Path(f"/proc/{process}/status")
    for line in books.read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"The kernel tells no {key}.")


def write_record(path, **found):
    """Writes a benchmark's findings as JSON, with the versions they are of.

    Args:
        path: The file; its folder is made if it is not there.
        **found: JSON values.
    """
    # A contender's process imports this file, and TensorFlow not before its
    # environment is set, if at all.
    from keras_meta import durable_files

    durable_files.write_json(path, {**found, "versions": versions()})
