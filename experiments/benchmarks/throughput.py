"""Measures meta-training throughput.

    python -m experiments.benchmarks.throughput

runs MAML of a network, by default the four-block convolutional one, in
keras_meta, TensorFlow, PyTorch and JAX on the CPU, from the same weights on
the same batches. It reports tasks per second.

Timing. Each contender has its own process. They take turns of a few
meta-steps, in an order that rotates from round to round, so that other load on
the machine affects all equally. The rate of a large float32 matrix product,
measured in the same rounds, represents the machine's peak. The share of the
cores that it got is printed. If it is well below 100 %, other programs were
running, and the table is not a fair comparison: threads that spin while they
wait for each other, such as PyTorch's, lose far more than others.

Check. Before timing, each contender runs in float64 on fewer tasks. The losses
before the first and after each of three Adam steps must agree. In float32,
only the first loss must agree: a rounding error that carries one activation
across the kink of its ReLU changes the next losses by 0.1 to 1 %.
"""

import dataclasses
import functools
import os

import numpy as np
from absl import app
from absl import flags

from experiments.benchmarks import before
from experiments.benchmarks import machine as machine_lib
from experiments.benchmarks import setting as setting_lib
from experiments.benchmarks import table
from experiments.benchmarks import turns
from experiments.benchmarks.worker import Contender
from experiments.benchmarks.worker import Worker
from experiments.benchmarks.worker import usable_cores

OURS = "keras_meta"
# On convolutions this small, oneDNN's kernels are slower than TensorFlow's own.
NO_ONEDNN = {"TF_ENABLE_ONEDNN_OPTS": "0"}
# Blocks of tasks already keep all cores busy. With more threads per operation,
# cores exchange the contents of their caches.
ONE_THREAD_AN_OP = {"TF_NUM_INTRAOP_THREADS": "1"}
# PyTorch's threads spin while they wait for each other. That is faster on an
# idle machine, but far slower if other programs are running.
PASSIVE_THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}
CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender(OURS, "keras_meta_maml"),
        Contender(
            "keras_meta_no_onednn", "keras_meta_maml", environment=NO_ONEDNN
        ),
        Contender(
            "keras_meta_one_thread",
            "keras_meta_maml",
            environment=ONE_THREAD_AN_OP,
        ),
        Contender("tf_map_fn", "tf_map_fn"),
        Contender("tf_map_fn_no_onednn", "tf_map_fn", environment=NO_ONEDNN),
        Contender("tf_map_fn_xla", "tf_map_fn", {"jit_compile": True}),
        Contender("tf_loop", "tf_loop"),
        Contender("torch_vmap", "torch_vmap"),
        Contender(
            "torch_vmap_passive", "torch_vmap", environment=PASSIVE_THREADS
        ),
        Contender("torch_loop", "torch_loop"),
        Contender(
            "torch_loop_passive", "torch_loop", environment=PASSIVE_THREADS
        ),
        Contender("jax_vmap", "jax_vmap"),
        Contender("jax_map", "jax_map"),
    )
}
PRODUCT = Contender("matrix_product", "matrix_product")
# On a GPU, float32 products are exact, or their inputs are rounded to
# TensorFloat-32. With bfloat16, layers compute in it, but weights stay float32.
GPU_CONTENDERS = {
    contender.name: dataclasses.replace(contender, device="gpu")
    for contender in (
        Contender(OURS, "keras_meta_maml", {"precision": "float32"}),
        Contender("keras_meta_tf32", "keras_meta_maml", {"precision": "tf32"}),
        Contender(
            "keras_meta_bfloat16", "keras_meta_maml", {"precision": "bfloat16"}
        ),
        Contender("jax_vmap", "jax_vmap", {"precision": "float32"}),
        Contender("jax_vmap_tf32", "jax_vmap", {"precision": "tf32"}),
        Contender("jax_vmap_bfloat16", "jax_vmap", {"precision": "bfloat16"}),
    )
} | {"keras_meta_on_cpu": Contender("keras_meta_on_cpu", "keras_meta_maml")}
PRODUCT_FLOPS = 2 * setting_lib.PRODUCT_SIZE**3

BATCHES = 4
# The check compares the losses before the first and after three Adam steps.
CHECKED_STEPS = 4
CHECKED_TASKS = 3
# Keras rounds Adam's constants to float32, which alone causes about 1e-7.
FLOAT64_TOLERANCE = 1e-5
FLOAT32_TOLERANCE = 1e-4
ROUNDED_TOLERANCE = 0.1

_DEFINE = {
    str: functools.partial(flags.DEFINE_enum, enum_values=setting_lib.NETWORKS),
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_bool,
}
_SETTING_HELP = {
    "network": "Network.",
    "ways": "Classes in a task.",
    "shots": "Support examples of each class.",
    "queries": "Query examples of each class.",
    "tasks": "Tasks in a meta-batch.",
    "steps": "Inner SGD steps.",
    "filters": "Channels of every convolution, or units of other layers.",
    "image_size": "Height and width of an image, in pixels.",
    "channels": "Channels of an image.",
    "pool": "Use stride 1, 2x2 maximum pooling and flattening, instead of "
    "stride 2 and the mean over height and width.",
    "first_order": "Treat the inner gradients as constants.",
    "head_only": "Adapt only the last layer, as in ANIL.",
    "inner_rate": "Rate of the inner SGD.",
    "outer_rate": "Rate of the outer Adam.",
}
_SETTING = {
    field.name: _DEFINE[field.type](
        field.name, field.default, help=_SETTING_HELP[field.name]
    )
    for field in dataclasses.fields(setting_lib.Setting)
}
_CONTENDERS = flags.DEFINE_multi_enum(
    "contender",
    None,
    sorted({*CONTENDERS, *GPU_CONTENDERS}),
    "Contender to run; may be repeated. By default, all.",
)
_DEVICE = flags.DEFINE_enum(
    "device",
    "cpu",
    ["cpu", "gpu"],
    "With gpu: keras_meta and JAX on a GPU in float32, TensorFloat-32 and "
    "bfloat16, and keras_meta on the CPU to check the losses in float32.",
)
_CHECK = flags.DEFINE_bool("check", True, "Check the losses in float64 first.")
_ROUNDS = flags.DEFINE_integer("rounds", 10, "Turns of each contender.")
_TURN = flags.DEFINE_integer("turn", 3, "Timed meta-steps in a turn.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the weights and images.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")


def inputs(setting, seed, dtype):
    """Returns each contender's inputs: setting, weights and batches."""
    return (
        setting,
        setting_lib.initial_parameters(setting, seed, dtype),
        setting_lib.make_batches(setting, BATCHES, seed + 1, dtype),
    )


def start(contender, arguments):
    """Starts a contender and runs the checked steps.

    Returns:
        The worker and the steps. If it could not run, None and a line that
        says why.
    """
    print(f"{contender.name} ({arguments[1][0].dtype}) ...", flush=True)
    try:
        worker = Worker(contender, *arguments)
        return worker, worker.run(CHECKED_STEPS)
    except ImportError as error:
        return None, f"skipped: {error}"
    except RuntimeError as error:
        return None, f"failed: {str(error).splitlines()[0]}"


def float64_losses(contenders, setting, seed):
    """Returns the losses of the checked steps, or why there are none, by name.

    All tasks are alike, so a few suffice.
    """
    few = dataclasses.replace(setting, tasks=min(setting.tasks, CHECKED_TASKS))
    arguments = inputs(few, seed, "float64")
    losses = {}
    for contender in contenders:
        worker, outcome = start(contender, arguments)
        if worker is not None:
            worker.stop()
            outcome = [step.loss for step in outcome]
        losses[contender.name] = outcome
    return losses


def deviations(losses):
    """Returns the relative deviation of each loss from the median, by name.

    Args:
        losses: Lists of losses by name. Other values are ignored.
    """
    lists = {k: v for k, v in losses.items() if isinstance(v, list)}
    if not lists:
        return {}
    median = np.median(list(lists.values()), 0)
    return {k: np.abs(v / median - 1).tolist() for k, v in lists.items()}


def measure(contenders, setting, seed, rounds, turn):
    """Returns the rows of the contenders and of the matrix product, by name.

    If a contender cannot run, its row is a line that says why.
    """
    arguments = inputs(setting, seed, "float32")
    workers, rows, losses = {}, {}, {}
    product = dataclasses.replace(PRODUCT, device=_DEVICE.value)
    for contender in (*contenders, product):
        name = contender.name
        worker, outcome = start(contender, arguments)
        if worker is None:
            rows[name] = outcome
            continue
        workers[name] = worker
        rows[name] = {"first_step_s": outcome[0].seconds}
        losses[name] = [step.loss for step in outcome]
    seconds = turns.take_turns(workers, rounds, turn)
    for worker in workers.values():
        worker.stop()

    flops = setting_lib.meta_step_flops(setting)
    for name in workers:
        is_product = name == PRODUCT.name
        rows[name] |= turns.time_row(
            *seconds[name], PRODUCT_FLOPS if is_product else flops
        )
        if PRODUCT.name in workers:
            peak = PRODUCT_FLOPS / np.median(seconds[PRODUCT.name][0]) / 1e9
            rows[name]["of_peak"] = rows[name]["gflops_per_s"] / peak
        if is_product:
            continue
        rows[name]["tasks_per_s"] = setting.tasks / np.median(seconds[name][0])
        if OURS in workers:
            rows[name] |= turns.ratio_row(seconds[name][0], seconds[OURS][0])
    losses.pop(PRODUCT.name, None)
    for name, deviation in deviations(losses).items():
        rows[name]["float32_losses"] = losses[name]
        rows[name]["float32_deviation"] = deviation[0]
        rows[name]["float32_deviation_after_3"] = deviation[-1]
    return rows


def add_check(rows, losses):
    """Adds the results of the float64 check to the rows."""
    deviation = deviations(losses)
    for name, row in rows.items():
        if isinstance(row, dict) and name in losses:
            row["float64_losses"] = losses[name]
            if name in deviation:
                row["float64_deviation"] = max(deviation[name])


def complaints(rows):
    """Returns a line for each contender that failed or differs."""
    lines = []
    for name, row in rows.items():
        if isinstance(row, str):
            if row.startswith("failed"):
                lines.append(f"{name} {row}")
            continue
        if isinstance(row.get("float64_losses"), str):
            lines.append(f"{name} in float64 {row['float64_losses']}")
        if row.get("float64_deviation", 0) > FLOAT64_TOLERANCE:
            lines.append(f"{name} computes different losses in float64")
        rounded = name.endswith(("tf32", "bfloat16"))
        tolerance = ROUNDED_TOLERANCE if rounded else FLOAT32_TOLERANCE
        if row.get("float32_deviation", 0) > tolerance:
            lines.append(f"{name} computes a different first loss in float32")
    return lines


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    setting = setting_lib.Setting(
        **{name: flag.value for name, flag in _SETTING.items()}
    )
    known = GPU_CONTENDERS if _DEVICE.value == "gpu" else CONTENDERS
    contenders = before.with_before(
        [known[name] for name in _CONTENDERS.value or known], [OURS]
    )
    machine = {
        "cpu": machine_lib.cpu_model(),
        "cores": usable_cores(),
        "load_before": os.getloadavg()[0],
    }
    losses = {}
    if _CHECK.value:
        losses = float64_losses(contenders, setting, _SEED.value)
    rows = measure(contenders, setting, _SEED.value, _ROUNDS.value, _TURN.value)
    add_check(rows, losses)
    machine["share_of_cores"] = turns.share_of_cores(rows[PRODUCT.name])
    problems = complaints(rows)

    print(f"\n{setting}\n{machine}\n{machine_lib.versions()}")
    gflops = setting_lib.meta_step_flops(setting) / 1e9
    print(f"{gflops:.3f} GFLOP per meta-step\n")
    print(table.format_table(rows), table.LEGEND, *problems, sep="\n\n")
    if _OUTPUT.value:
        machine_lib.write_record(
            _OUTPUT.value,
            setting=dataclasses.asdict(setting),
            gflop_per_meta_step=gflops,
            rounds=_ROUNDS.value,
            turn=_TURN.value,
            seed=_SEED.value,
            machine=machine,
            rows=rows,
            problems=problems,
        )
    return 1 if problems else 0


if __name__ == "__main__":
    app.run(main)
