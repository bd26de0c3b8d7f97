"""A separate process for each contender, driven over a pipe.

Frameworks in one process would compete for threads. Here, each has the machine
to itself during its turn: the others wait, blocked on a pipe.
"""

import dataclasses
import importlib
import multiprocessing
import os
import sys
import time
from typing import NamedTuple

from experiments.benchmarks import machine

PEERS = "experiments.benchmarks.peers"
STOP_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class Contender:
    """A way to compute the meta-step.

    Attributes:
        name: Name in the table.
        module: Module of `experiments.benchmarks.peers`.
        options: Further arguments of the module's `make`.
        environment: Additional environment variables of its process.
        device: `"cpu"` or `"gpu"`.
        checkout: Folder of the checkout that its process imports keras_meta
            and the module from. By default, this one.
    """

    name: str
    module: str
    options: dict = dataclasses.field(default_factory=dict)
    environment: dict = dataclasses.field(default_factory=dict)
    device: str = "cpu"
    checkout: str | None = None


class Step(NamedTuple):
    """One measured meta-step.

    Attributes:
        seconds: Wall time, in seconds.
        cpu_seconds: CPU time of the process's threads, in seconds.
        loss: Mean query loss before the Adam step.
    """

    seconds: float
    cpu_seconds: float
    loss: float


def usable_cores() -> int:
    return len(os.sched_getaffinity(0))


def _set_environment(double, device):
    """Gives the framework all cores, and the GPU only if `device` asks."""
    cores = str(usable_cores())
    if device == "gpu":
        # All contenders share the GPU.
        os.environ.update(
            JAX_PLATFORMS="cuda",
            TF_FORCE_GPU_ALLOW_GROWTH="true",
            XLA_PYTHON_CLIENT_PREALLOCATE="false",
        )
    else:
        os.environ.update(CUDA_VISIBLE_DEVICES="-1", JAX_PLATFORMS="cpu")
    os.environ.update(
        JAX_ENABLE_X64=str(int(double)),
        KERAS_BACKEND="tensorflow",
        MKL_NUM_THREADS=cores,
        NPROC=cores,
        OMP_NUM_THREADS=cores,
        TF_CPP_MIN_LOG_LEVEL="3",
        TF_NUM_INTEROP_THREADS=cores,
        TF_NUM_INTRAOP_THREADS=cores,
    )


def _import_from(checkout):
    """Makes later imports of this repository's packages use a checkout."""
    sys.path.insert(0, os.path.abspath(checkout))
    for name in list(sys.modules):
        if name.partition(".")[0] in ("experiments", "keras_meta"):
            del sys.modules[name]


def _serve(pipe, contender, setting, parameters, batches):
    """Runs in the process. Builds the step, then runs it on request."""
    _set_environment(parameters[0].dtype == "float64", contender.device)
    os.environ.update(contender.environment)
    if contender.checkout is not None:
        _import_from(contender.checkout)
    try:
        module = importlib.import_module(f"{PEERS}.{contender.module}")
    except ImportError as error:
        pipe.send(ImportError(str(error)))
        return
    try:
        step = module.make(setting, parameters, batches, **contender.options)
        pipe.send(None)
        done = 0
        while count := pipe.recv():
            results = []
            for i in range(done, done + count):
                start, cpu = time.perf_counter(), time.process_time()
                loss = step(i)
                cpu = time.process_time() - cpu
                # Not a `Step`: its class may be that of another checkout.
                results.append((time.perf_counter() - start, cpu, loss))
            done += count
            pipe.send(results)
    except Exception as error:
        pipe.send(RuntimeError(f"{type(error).__name__}: {error}"))


class Worker:
    """The parent's end of a contender's process."""

    def __init__(self, contender: Contender, setting, parameters, batches):
        """Starts the process and waits until its step is built.

        Args:
            contender: The contender.
            setting: The `Setting`.
            parameters: The initial weights. Their dtype is used throughout.
            batches: The batches.

        Raises:
            ImportError: If the contender's framework is missing.
            RuntimeError: If the contender failed.
        """
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve,
            args=(theirs, contender, setting, parameters, batches),
            daemon=True,
        )
        self._process.start()
        theirs.close()
        self._receive()

    def _receive(self):
        try:
            answer = self._pipe.recv()
        except EOFError:
            answer = RuntimeError("the process ended")
        if isinstance(answer, Exception):
            self._process.join()
            raise answer
        return answer

    def run(self, count: int) -> list[Step]:
        """Runs the next `count` steps."""
        self._pipe.send(count)
        return [Step(*results) for results in self._receive()]

    def memory(self, key: str) -> int:
        """Returns the memory of the process; see `machine.memory`."""
        return machine.memory(key, self._process.pid)

    def stop(self) -> None:
        """Ends the process, and kills it if it does not exit by itself."""
        self._pipe.send(0)
        self._process.join(STOP_SECONDS)
        self._process.kill()
