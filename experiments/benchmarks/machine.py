"""The machine that a benchmark ran on, and the record of its results."""

import importlib.metadata
import pathlib
import platform

PACKAGES = ("tensorflow", "keras", "torch", "jax", "jaxlib", "numpy")


def cpu_model():
    """Returns the name of the CPU, if the system reports it."""
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
    """Returns the memory of a process in bytes, as the kernel reports it.

    Args:
        key: `"VmRSS"` for the resident memory, `"VmHWM"` for its peak.
        process: Id of the process.
    """
    books = pathlib.Path(f"/proc/{process}/status")
    for line in books.read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"The kernel does not report {key}.")


def reset_peak():
    """Makes `"VmHWM"` of this process its present resident memory."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def write_record(path, **found):
    """Writes a benchmark's results as JSON, with the versions it used.

    Args:
        path: The file. Its folder is created if it does not exist.
        **found: JSON values.
    """
    # Contenders' processes import this module, and must not import TensorFlow
    # before their environment is set.
    from keras_meta import durable_files

    durable_files.write_json(path, {**found, "versions": versions()})
