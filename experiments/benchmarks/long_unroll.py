"""Measures memory and time of long inner loops, with and without checkpoints.

    python -m experiments.benchmarks.long_unroll --output=results/long_unroll

takes meta-training steps of MAML through 1 to 1000 steps of a two-layer
perceptron, on 8 tasks of 10 examples, for each setting of `checkpoint` and for
the meta-gradients that need none. It also evaluates with as many steps. It
writes a table, `long_unroll.json` and the figure `memory.png`: peak memory and
time per inner step against the number of steps.

Each point has its own process. Its memory is the peak of resident memory minus
the resident memory before the first meta-step. The height of the curves at one
step is the compiler's share. It needs Linux.
"""

import multiprocessing
import os
import pathlib
import time

from absl import app
from absl import flags

from experiments.benchmarks import machine as machine_lib

TASKS, EXAMPLES, INPUTS, WIDTH, CLASSES = 8, 10, 256, 256, 10
REFERENCE = ("off", 30)
EVALUATION = "evaluation"
# Settings of `checkpoint`, and what needs none.
CHECKPOINTS = ("off", "step", "sqrt")
NAMES = {
    "off": "unrolled, everything kept",
    "step": "unrolled, every step",
    "sqrt": "unrolled, square root",
    "first_order": "first order",
    "implicit": "implicit",
    "evolution_strategies": "evolution strategies",
    "persistent_es": "persistent evolution strategies",
    EVALUATION: "evaluation",
}

_STEPS = flags.DEFINE_list(
    "steps", ["1", "3", "10", "30", "100", "300", "1000"], "Inner steps."
)
_MODES = flags.DEFINE_list(
    "modes", list(NAMES), "Checkpoints, other meta-gradients, evaluation."
)
_LIMIT = flags.DEFINE_float(
    "off_limit_gb",
    8.0,
    "Memory, in GB, beyond which the loop without checkpoints grows no longer.",
)
_META_STEPS = flags.DEFINE_integer("meta_steps", 3, "Timed meta-steps.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write to.")


def make_step(mode, steps):
    """Returns a function that takes a meta-step and returns the loss."""
    import keras
    import numpy as np

    import keras_meta

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input([INPUTS]),
            keras.layers.Dense(WIDTH, "relu"),
            keras.layers.Dense(WIDTH, "relu"),
            keras.layers.Dense(CLASSES),
        ]
    )
    learner = keras_meta.MAML(
        model,
        0.01,
        steps,
        proximal=1.0 if mode == "implicit" else 0.0,
        meta_gradient=_meta_gradient(mode),
    )
    learner.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    rng = np.random.default_rng(0)
    x = {
        name: rng.normal(size=[TASKS, EXAMPLES, INPUTS]).astype("float32")
        for name in ("support_x", "query_x")
    }
    labels = np.tile(np.arange(EXAMPLES) % CLASSES, [TASKS, 1])
    x["support_y"] = labels.astype("int32")

    run = learner.train_on_batch
    if mode == EVALUATION:
        run = learner.test_on_batch
    return lambda: run(x, labels, return_dict=True)["loss"]


def _meta_gradient(mode):
    import keras_meta

    if mode in CHECKPOINTS:
        return keras_meta.Unrolled(mode)
    if mode == "evolution_strategies":
        return keras_meta.EvolutionStrategies(particles=1, sigma=0.01)
    if mode == "persistent_es":
        return keras_meta.PersistentES(particles=1, sigma=0.01)
    return "unrolled" if mode == EVALUATION else mode


def measure(mode, steps, meta_steps):
    """Returns peak memory and times of a meta-step, in this process."""
    step = make_step(mode, steps)
    at_rest = machine_lib.memory("VmRSS")
    begun = time.perf_counter()
    loss = float(step())
    first = time.perf_counter() - begun
    seconds = []
    for _ in range(meta_steps):
        begun = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begun)
    return {
        "mode": mode,
        "steps": steps,
        "loss": loss,
        "first_step_s": first,
        "ms_an_inner_step": 1e3 * sorted(seconds)[meta_steps // 2] / steps,
        "peak_mb": (machine_lib.memory("VmHWM") - at_rest) / 1e6,
    }


def _serve(pipe, *arguments):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    pipe.send(measure(*arguments))


def in_process(*arguments):
    """Returns `measure` of a new process, or `None` if it died."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, *arguments))
    process.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        return None
    finally:
        process.join()


def measure_all():
    """Returns the rows of all settings, printing each as it is measured."""
    rows = []
    for mode in _MODES.value:
        for steps in map(int, _STEPS.value):
            row = in_process(mode, steps, _META_STEPS.value)
            if row is None:
                print(f"{mode} with {steps} steps ran out of memory")
                break
            rows.append(row)
            print(format_row(row), flush=True)
            if mode == "off" and row["peak_mb"] > 1e3 * _LIMIT.value:
                print("no longer loops without checkpoints")
                break
    return rows


def format_row(row):
    return (
        f"{row['mode']:<20} {row['steps']:>6} steps"
        f"{row['peak_mb']:>9.0f} MB{row['ms_an_inner_step']:>9.2f} ms a step"
        f"{row['first_step_s']:>8.1f} s first   loss {row['loss']:.6f}"
    )


def ratios(rows):
    """Returns memory and time of each row relative to the reference."""
    by_key = {(r["mode"], r["steps"]): r for r in rows}
    base = by_key.get(REFERENCE)
    if base is None:
        return []
    return [
        f"{r['mode']}, {r['steps']} steps, over "
        f"{REFERENCE[0]}, {REFERENCE[1]} steps: memory "
        f"{r['peak_mb'] / base['peak_mb']:.2f}, time a step "
        f"{r['ms_an_inner_step'] / base['ms_an_inner_step']:.2f}"
        for r in rows
        if r["steps"] > REFERENCE[1]
    ]


def draw(path, rows):
    """Draws memory and time against the number of steps."""
    from experiments.plotting import saved_figure

    panels = {
        "peak_mb": "peak memory, MB",
        "ms_an_inner_step": "time per inner step, ms",
    }
    with saved_figure(path, columns=len(panels)) as (_, axes):
        for axis, (key, label) in zip(axes.flat, panels.items(), strict=True):
            for mode, name in NAMES.items():
                points = [
                    (r["steps"], r[key]) for r in rows if r["mode"] == mode
                ]
                if points:
                    axis.plot(
                        *zip(*points, strict=True), marker=".", label=name
                    )
            axis.set(
                xscale="log",
                yscale="log",
                xlabel="inner steps",
                ylabel=label,
            )
        axes.flat[-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    rows = measure_all()
    print("", *ratios(rows), sep="\n")
    if _OUTPUT.value:
        folder = pathlib.Path(_OUTPUT.value)
        machine_lib.write_record(
            folder / "long_unroll.json", cpu=machine_lib.cpu_model(), rows=rows
        )
        draw(folder / "memory", rows)


if __name__ == "__main__":
    app.run(main)
