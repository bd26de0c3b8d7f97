r"""Measures learned optimizers: single steps and windows of meta-training.

    python -m experiments.benchmarks.optimizer_step

applies Keras's Adam, the LSTM optimizer, the hierarchical one, and a
straightforward LSTM in JAX to 16 thousand and 1 million parameters. It also
meta-trains the LSTM through windows of 20 steps on 16 thousand parameters, here
and in JAX. The gradient costs next to nothing, so the optimizer dominates.

All contenders are in memory at once. For 10 million parameters, measure two at
a time, without the window:

    python -m experiments.benchmarks.optimizer_step --parameters=10000000 \
        --window=0 --contender="JAX LSTM"

Each contender has its own process, and they take turns of a few steps. The
LSTMs have the same weights, so their results must agree after the first steps.
"""

import dataclasses
import os

import numpy as np
from absl import app
from absl import flags

from experiments.benchmarks import before
from experiments.benchmarks import machine as machine_lib
from experiments.benchmarks import optimizer_setting as setting_lib
from experiments.benchmarks import turns
from experiments.benchmarks.worker import Contender
from experiments.benchmarks.worker import Worker

OURS = "keras_meta LSTM"
THEIRS = "JAX LSTM"
STEP = (
    Contender("Keras Adam", "optimizer_keras", {"optimizer": "adam"}),
    Contender(OURS, "optimizer_keras"),
    Contender(THEIRS, "optimizer_jax"),
    Contender(
        "keras_meta hierarchical RNN",
        "optimizer_keras",
        {"optimizer": "hierarchical"},
    ),
)
WINDOW = (
    Contender(OURS, "optimizer_keras"),
    Contender(THEIRS, "optimizer_jax"),
)
TOLERANCE = 1e-4

_PARAMETERS = flags.DEFINE_multi_integer(
    "parameters", [16_000, 1_000_000], "Parameters to train; may be repeated."
)
_CONTENDERS = flags.DEFINE_multi_enum(
    "contender",
    [c.name for c in STEP],
    [c.name for c in STEP],
    f"Contender to measure besides {OURS}; may be repeated.",
)
_TENSORS = flags.DEFINE_integer("tensors", 4, "Tensors that hold them.")
_WINDOW = flags.DEFINE_integer(
    "window", 20, "Steps in a window of meta-training; 0 for no window."
)
_ROUNDS = flags.DEFINE_integer("rounds", 9, "Turns of each contender.")
_TURN = flags.DEFINE_integer("turn", 3, "Timed steps in a turn.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")


def _chosen(contenders):
    names = {OURS, *_CONTENDERS.value}
    chosen = [c for c in contenders if c.name in names]
    return before.with_before(chosen, [OURS])


def measure(setting, contenders):
    """Returns each contender's row, or why it has none, by name."""
    parameters = setting_lib.tensors(setting, seed=0)
    workers, rows = {}, {}
    for contender in contenders:
        try:
            worker = Worker(contender, setting, parameters, None)
            at_rest = worker.memory("VmRSS")
            steps = worker.run(2)
        except (ImportError, RuntimeError) as error:
            rows[contender.name] = str(error).splitlines()[0]
            continue
        workers[contender.name] = worker
        rows[contender.name] = {
            "first_s": steps[0].seconds,
            "results": [step.loss for step in steps],
            "at_rest_mb": at_rest / 1e6,
        }
    if OURS not in workers:
        raise RuntimeError(f"{OURS} failed: {rows[OURS]}")
    seconds = turns.take_turns(workers, _ROUNDS.value, _TURN.value)
    for name, worker in workers.items():
        peak_mb = worker.memory("VmHWM") / 1e6
        worker.stop()
        clock = 1e3 * seconds[name][0]
        rows[name] |= {
            "peak_mb": peak_mb - rows[name]["at_rest_mb"],
            "ms": float(np.median(clock)),
            "ms_10_90_percent": np.quantile(clock, [0.1, 0.9]).tolist(),
            "over_ours": float(
                np.median(
                    np.median(clock, 1) / np.median(1e3 * seconds[OURS][0], 1)
                )
            ),
        }
    return rows


def complaints(rows):
    """Returns a line if LSTMs with the same weights differ in their results."""
    results = [
        row["results"]
        for name, row in rows.items()
        if name.endswith(" LSTM") and isinstance(row, dict)
    ]
    if THEIRS not in rows:
        return []
    if len(results) < 2:
        return ["nothing to compare the LSTM's results with"]
    if np.allclose(results, results[0], rtol=TOLERANCE):
        return []
    return [f"the LSTMs' results differ: {results}"]


def format_table(rows):
    """Returns the table of the rows."""
    lines = [
        f"{'':<30}{'ms':>9}{'10-90 %':>17}{'of ours':>9}{'first s':>9}{'MB':>7}"
    ]
    for name, row in rows.items():
        if isinstance(row, str):
            lines.append(f"{name:<30} skipped: {row}")
            continue
        low, high = row["ms_10_90_percent"]
        lines.append(
            f"{name:<30}{row['ms']:>9.2f}{f'{low:.2f}-{high:.2f}':>17}"
            f"{row['over_ours']:>9.2f}{row['first_s']:>9.1f}"
            f"{row['peak_mb']:>7.0f}"
        )
    return "\n".join(lines)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    machine = {
        "cpu": machine_lib.cpu_model(),
        "load_before": os.getloadavg()[0],
    }
    settings = [
        setting_lib.Setting(n, _TENSORS.value, 0) for n in _PARAMETERS.value
    ]
    if _WINDOW.value:
        settings.append(
            setting_lib.Setting(16_000, _TENSORS.value, _WINDOW.value)
        )
    records, problems = [], []
    print(machine, machine_lib.versions())
    for setting in settings:
        rows = measure(setting, _chosen(WINDOW if setting.window else STEP))
        problems += complaints(rows)
        print(f"\n{setting}\n\n{format_table(rows)}", flush=True)
        records.append({"setting": dataclasses.asdict(setting), "rows": rows})
    print(*problems, sep="\n")
    print(
        "\nms       one step, or one window with the meta-update, from the "
        "median step\nof ours  time over that of the keras_meta LSTM, median "
        "over the rounds\nfirst s  the first step, with tracing and "
        "compilation\nMB       the most memory at any time, over that before "
        "the first step"
    )
    if _OUTPUT.value:
        machine_lib.write_record(
            _OUTPUT.value, machine=machine, records=records, problems=problems
        )
    return 1 if problems else 0


if __name__ == "__main__":
    app.run(main)
