"""Measures how the cost of a meta-step grows with tasks and inner steps.

    python -m experiments.benchmarks.scaling --output=results/scaling

takes meta-training steps of the four-block convolutional network, 5-way
1-shot, on 1 to 256 tasks with one inner step, and on 4 tasks with 1 to 50
inner steps. It does the latter also with a perceptron of 256 units per layer on
8 tasks. It writes a table, `scaling.json` and the figure `scaling.png`. Each
point has its own process, so that compilation is included.
"""

import dataclasses
import pathlib

import numpy as np
from absl import app
from absl import flags

from experiments.benchmarks import machine as machine_lib
from experiments.benchmarks import setting as setting_lib
from experiments.benchmarks.worker import Contender
from experiments.benchmarks.worker import Worker
from experiments.benchmarks.worker import usable_cores

_TASKS = flags.DEFINE_list(
    "tasks", [str(2**k) for k in range(9)], "Numbers of tasks."
)
_STEPS = flags.DEFINE_list(
    "steps", ["1", "2", "3", "5", "8", "10", "11", "20", "50"], "Inner steps."
)
_TIMED = flags.DEFINE_integer("timed", 7, "Timed meta-steps per point.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write to.")

CONTENDER = Contender("keras_meta", "keras_meta_maml")
# The setting of each curve, and the name of the number that grows.
CURVES = {
    "convolution, tasks": (setting_lib.Setting(), "tasks"),
    "convolution, inner steps": (setting_lib.Setting(tasks=4), "steps"),
    "perceptron, inner steps": (
        setting_lib.Setting(
            network="perceptron", tasks=8, filters=256, inner_rate=0.01
        ),
        "steps",
    ),
}


def measure(setting):
    """Returns the row of one point."""
    parameters = setting_lib.initial_parameters(setting, 0)
    batches = setting_lib.make_batches(setting, 2, 1)
    worker = Worker(CONTENDER, setting, parameters, batches)
    first = worker.run(1)[0].seconds
    # This first step warms the caches and is not timed.
    steps = worker.run(1 + _TIMED.value)[1:]
    worker.stop()
    low, median, high = np.quantile([s.seconds for s in steps], [0.1, 0.5, 0.9])
    return {
        "tasks": setting.tasks,
        "steps": setting.steps,
        "first_s": first,
        "ms": 1e3 * median,
        "ms_10_90_percent": [1e3 * low, 1e3 * high],
    }


def measure_all():
    """Returns the rows of all curves, printing each as it is measured."""
    curves = {}
    for name, (setting, key) in CURVES.items():
        values = _TASKS.value if key == "tasks" else _STEPS.value
        rows = curves[name] = []
        for value in map(int, values):
            point = dataclasses.replace(setting, **{key: value})
            rows.append(measure(point))
            print(f"{name:<26}{format_row(rows[-1])}", flush=True)
    return curves


def format_row(row):
    low, high = row["ms_10_90_percent"]
    return (
        f"{row['tasks']:>4} tasks{row['steps']:>4} steps{row['ms']:>9.1f} ms "
        f"({low:.1f}-{high:.1f}){row['ms'] / row['tasks']:>8.2f} ms a task"
        f"{row['ms'] / row['steps']:>9.2f} ms a step{row['first_s']:>7.1f} s "
        "first"
    )


def draw(path, curves):
    """Draws time per task against tasks, and time against inner steps."""
    from experiments.plotting import saved_figure

    with saved_figure(path, columns=3) as (_, axes):
        by_tasks, by_steps, compiling = axes.flat
        for name, rows in curves.items():
            net, key = name.split(", ")
            if key == "tasks":
                by_tasks.plot(
                    [r["tasks"] for r in rows],
                    [r["ms"] / r["tasks"] for r in rows],
                    marker=".",
                )
                continue
            steps = [r["steps"] for r in rows]
            by_steps.plot(steps, [r["ms"] for r in rows], marker=".", label=net)
            compiling.plot(
                steps, [r["first_s"] for r in rows], marker=".", label=net
            )
        by_tasks.set(
            xscale="log", xlabel="tasks", ylabel="ms per task", ylim=(0, None)
        )
        by_steps.set(
            xscale="log", yscale="log", xlabel="inner steps", ylabel="ms"
        )
        compiling.set(
            xlabel="inner steps", ylabel="first meta-step, s", ylim=(0, None)
        )
        by_steps.legend()


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    print(machine_lib.cpu_model(), f"{usable_cores()} cores")
    curves = measure_all()
    if _OUTPUT.value:
        folder = pathlib.Path(_OUTPUT.value)
        machine_lib.write_record(
            folder / "scaling.json", cpu=machine_lib.cpu_model(), curves=curves
        )
        draw(folder / "scaling", curves)


if __name__ == "__main__":
    app.run(main)
