"""Measures meta-training of sinusoid regression, a very small problem.

    python -m experiments.benchmarks.sinusoid_throughput

trains the 1-40-40-1 network of the MAML paper on 4 tasks per step, with 10
support and 10 query points, one second-order inner step and Adam. New tasks
are drawn on the way. The contenders are `keras_meta.MAML.fit`, JAX with a
thousand steps in one `lax.scan`, and JAX and PyTorch step by step. The
frameworks' overhead dominates here, not arithmetic.

Each contender has its own process, and they take turns of a thousand steps.
After the first turns, all losses must be similar: the tasks come from the same
distribution, but are not the same.
"""

import dataclasses
import itertools
import os

import numpy as np
from absl import app
from absl import flags

from experiments.benchmarks import before
from experiments.benchmarks import machine as machine_lib
from experiments.benchmarks import turns
from experiments.benchmarks.worker import Contender
from experiments.benchmarks.worker import Worker

OURS = "keras_meta fit"
CONTENDERS = (
    Contender(OURS, "sinusoid_keras_meta"),
    Contender(
        "keras_meta fit, single steps",
        "sinusoid_keras_meta",
        {"steps_per_execution": 1},
    ),
    Contender("JAX, all in one scan", "sinusoid_jax"),
    Contender("JAX, single steps", "sinusoid_jax", {"scan": False}),
    Contender("PyTorch, single steps", "sinusoid_torch"),
)
FIT = [c.name for c in CONTENDERS if c.module == "sinusoid_keras_meta"]
# Losses after a few thousand steps differ because the tasks do.
LOSS_FACTOR = 2.0

_ROUNDS = flags.DEFINE_integer("rounds", 9, "Turns of each contender.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the weights.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")


@dataclasses.dataclass(frozen=True)
class Setting:
    """Settings of the training.

    Attributes:
        tasks: Number of tasks in a step.
        shots: Number of support points.
        queries: Number of query points.
        hidden: Units of the hidden layers.
        inner_rate: Rate of the inner step.
        outer_rate: Rate of Adam.
        meta_steps: Number of meta-steps in a turn.
    """

    tasks: int = 4
    shots: int = 10
    queries: int = 10
    hidden: tuple[int, ...] = (40, 40)
    inner_rate: float = 0.01
    outer_rate: float = 1e-3
    meta_steps: int = 1000


def initial_parameters(setting, seed):
    """Returns kernels and biases, in the order of the layers."""
    rng = np.random.default_rng(seed)
    sizes = [1, *setting.hidden, 1]
    parameters = []
    for inputs, outputs in itertools.pairwise(sizes):
        limit = np.sqrt(6 / (inputs + outputs))
        kernel = rng.uniform(-limit, limit, [inputs, outputs])
        parameters += [kernel.astype("float32"), np.zeros(outputs, "float32")]
    return parameters


def measure(setting, rounds, seed):
    """Returns each contender's row, or why it has none, by name."""
    parameters = initial_parameters(setting, seed)
    workers, rows = {}, {}
    for contender in before.with_before(CONTENDERS, FIT):
        print(f"{contender.name} ...", flush=True)
        try:
            worker = Worker(contender, setting, parameters, None)
            first = worker.run(1)[0].seconds
        except (ImportError, RuntimeError) as error:
            rows[contender.name] = str(error).splitlines()[0]
            continue
        workers[contender.name] = worker
        rows[contender.name] = {"first_turn_s": first}
    seconds = turns.take_turns(workers, rounds, 1)
    losses = {name: worker.run(1)[0].loss for name, worker in workers.items()}
    for worker in workers.values():
        worker.stop()
    for name in workers:
        clock, cpu = seconds[name] / setting.meta_steps * 1e6
        ratios = clock / seconds[OURS][0] / 1e6 * setting.meta_steps
        rows[name] |= {
            "us": np.median(clock),
            "us_10_90_percent": np.quantile(clock, [0.1, 0.9]).tolist(),
            "cpu_us": np.median(cpu),
            "over_ours": np.median(ratios),
            "loss": losses[name],
        }
    return rows


def complaints(rows):
    """Returns a line if the losses differ too much for the same training."""
    losses = [row["loss"] for row in rows.values() if isinstance(row, dict)]
    if max(losses) > LOSS_FACTOR * min(losses):
        return [f"the losses differ: {losses}"]
    return []


def format_table(rows):
    """Returns the table of the rows."""
    lines = [
        f"{'':<30}{'us':>7}{'10-90 %':>13}{'cpu us':>8}{'of ours':>9}"
        f"{'first s':>9}{'loss':>7}"
    ]
    for name, row in rows.items():
        if isinstance(row, str):
            lines.append(f"{name:<30} skipped: {row}")
            continue
        low, high = row["us_10_90_percent"]
        lines.append(
            f"{name:<30}{row['us']:>7.0f}{f'{low:.0f}-{high:.0f}':>13}"
            f"{row['cpu_us']:>8.0f}{row['over_ours']:>9.2f}"
            f"{row['first_turn_s']:>9.1f}{row['loss']:>7.3f}"
        )
    return "\n".join(lines)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    setting = Setting()
    load = os.getloadavg()[0]
    rows = measure(setting, _ROUNDS.value, _SEED.value)
    machine = {"cpu": machine_lib.cpu_model(), "load_before": load}
    problems = complaints(rows)
    print(f"\n{setting}\n{machine}\n{machine_lib.versions()}\n")
    print(format_table(rows), *problems, sep="\n")
    print(
        "\nus       one meta-step, tasks drawn included, from the median turn"
        "\nof ours  time over that of `fit`, median over the rounds"
        "\nfirst s  the first thousand steps, with tracing and compilation"
    )
    if _OUTPUT.value:
        machine_lib.write_record(
            _OUTPUT.value,
            setting=dataclasses.asdict(setting),
            machine=machine,
            rows=rows,
            problems=problems,
        )
    return 1 if problems else 0


if __name__ == "__main__":
    app.run(main)
