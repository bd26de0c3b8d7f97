"""What steps of conjugate gradient buy in implicit MAML, on sine waves.

Trains and tests implicit MAML with different numbers of steps. Compares the
meta-gradients of all of them at one network, the one that was trained with
the most steps. The exact meta-gradient is that of inner loops which have
arrived, with steps of conjugate gradient until nothing is left. A finished
training is not repeated:

  python -m experiments.conjugate_gradient
"""

from __future__ import annotations

from experiments import binary

# isort: split
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from absl import app
from absl import flags

from experiments import results
from experiments import sinusoid_run
from experiments.algorithms import ImplicitOptions
from experiments.sinusoid_run import Settings
from keras_meta.learners.learner import Learner
from keras_meta.meta_gradients.implicit import Implicit
from keras_meta.meta_gradients.meta_gradient import MetaGradient
from keras_meta.meta_gradients.unrolled import Unrolled

# Inner steps after which the gradient is at the accuracy of its numbers.
_UNTIL_ARRIVAL = 3000
_EXACT = Implicit(steps=200, tolerance=1e-7)
_SHOTS = 5

_CG_STEPS = flags.DEFINE_multi_integer(
    "cg_steps",
    [0, 1, 2, 5, 10],
    "Steps of conjugate gradient; may be given several times.",
    lower_bound=0,
)
_ITERATIONS = flags.DEFINE_integer(
    "iterations",
    5000,
    "Outer iterations; above 1000, a multiple of 1000.",
    lower_bound=1,
)
_TEST_TASKS = flags.DEFINE_integer(
    "test_tasks", 1000, "Tasks in each test.", lower_bound=2
)
_COMPARED_TASKS = flags.DEFINE_integer(
    "compared_tasks",
    100,
    "Tasks whose meta-gradients are compared.",
    lower_bound=1,
)
_OUTPUT = flags.DEFINE_string(
    "output", "results/conjugate_gradient", "Folder of records and weights."
)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}.")
    output = pathlib.Path(_OUTPUT.value)
    runs = {steps: _settings(steps) for steps in sorted({*_CG_STEPS.value})}
    binary.announce(
        f"Training {len(runs)} networks on sine waves for "
        f"{_ITERATIONS.value} iterations",
        output,
    )
    folders = {steps: output / f"{steps}_steps" for steps in runs}
    records = {s: sinusoid_run.run(runs[s], folders[s]) for s in runs}
    most = max(runs)
    learner = sinusoid_run.load(runs[most], folders[most])
    _print_table(runs, records, learner)


def _print_table(
    runs: Mapping[int, Settings],
    records: Mapping[int, dict[str, Any]],
    learner: Learner,
) -> None:
    print("\nError of the meta-gradient, relative to the exact one, at the")
    print("minimum and after the training's inner steps; mean squared error")
    print(f"in the test, mean ± 95 % interval over {_TEST_TASKS.value} tasks")
    print(f"{'CG steps':<10}{'minimum':>10}{'training':>10}{'test':>14}")
    tasks = _compared_tasks(next(iter(runs.values())))
    exact = meta_gradient(learner, tasks, _UNTIL_ARRIVAL, _EXACT)
    for steps, settings in runs.items():
        at_minimum, in_training = (
            _error(
                meta_gradient(
                    learner, tasks, taken, settings.implicit.meta_gradient
                ),
                exact,
            )
            for taken in (_UNTIL_ARRIVAL, settings.steps)
        )
        test = results.interval(
            records[steps]["measurements"][f"{_SHOTS}_shot_mse"]
        )
        shown = f"{test:.2f}"
        print(
            f"{steps:<10}{at_minimum:>10.3f}{in_training:>10.3f}{shown:>14}",
            flush=True,
        )
    unrolled = meta_gradient(
        learner, tasks, _UNTIL_ARRIVAL, Unrolled(checkpoint="sqrt")
    )
    print(f"{'unrolled':<10}{_error(unrolled, exact):>10.3f}")
    for steps, record in records.items():
        print(f"{steps} CG steps: {results.arrival(record)}")


def _settings(cg_steps: int) -> Settings:
    return Settings(
        algorithm="implicit_maml",
        shots=_SHOTS,
        family="meta_sgd",
        iterations=_ITERATIONS.value,
        meta_batch=4,
        steps=16,
        test_steps=16,
        inner_rate=0.001,
        meta_rate=1e-3,
        meta_decay="none",
        hidden=(40, 40),
        seed=0,
        test_tasks=_TEST_TASKS.value,
        test_shots=(_SHOTS,),
        implicit=ImplicitOptions(
            proximal=10.0, momentum=0.8, cg_steps=cg_steps, damping=0.0
        ),
    )


def _compared_tasks(settings: Settings) -> tuple[dict[str, tf.Tensor], ...]:
    settings = dataclasses.replace(settings, test_tasks=_COMPARED_TASKS.value)
    return next(iter(sinusoid_run.test_episodes(settings, _SHOTS)))


def meta_gradient(
    learner: Learner,
    tasks: tuple[dict[str, tf.Tensor], tf.Tensor],
    steps: int,
    estimator: MetaGradient,
) -> np.ndarray:
    """Returns the meta-gradient of a batch of tasks, a vector.

    Args:
        learner: A learner for mean squared errors.
        tasks: Its inputs, and the labels of the query sets.
        steps: Steps of the inner loop.
        estimator: How the gradient comes back.
    """
    learner.meta_gradient = estimator
    x, y = tasks

    @tf.function(jit_compile=True)
    def gradient():
        with tf.GradientTape() as tape:
            predictions = learner(x, training=True, steps=steps)
            loss = tf.reduce_mean(tf.square(predictions - y))
        return tape.gradient(
            loss, [v.value for v in learner.trainable_variables]
        )

    # Called as it is, it would warn of being traced for each estimator.
    gradients = gradient.get_concrete_function()()
    return np.concatenate([g.numpy().ravel() for g in gradients])


def _error(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


if __name__ == "__main__":
    binary.run(main)
