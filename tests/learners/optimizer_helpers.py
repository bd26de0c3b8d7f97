"""Problems to optimize, and their optimization by hand."""

import keras
import numpy as np
import tensorflow as tf

import keras_meta
from keras_meta.problems import Problem

# Keras holds rates in float32; this one exactly.
RATE = 1 / 128


@keras.saving.register_keras_serializable("tests")
class Valley(Problem):
    """Smooth functions of two tensors that differ by instance and step."""

    variables = ()

    def get_config(self):
        return {"dtype": self.dtype, "bends": self.bends}

    def __init__(self, dtype="float64", bends=1.0):
        self.dtype = dtype
        self.bends = bends
        self.variables = [
            keras.Variable(tf.zeros(shape), dtype=dtype, name=name)
            for name, shape in {"a": (2, 2), "b": (3,)}.items()
        ]

    def draw(self, seed, index, instances):
        slopes = tf.cast(index, self.dtype) + tf.range(
            1, instances + 1, dtype=self.dtype
        )
        a = tf.cos(slopes[:, tf.newaxis] * tf.range(4, dtype=self.dtype))
        b = tf.sin(slopes[:, tf.newaxis] + tf.range(3, dtype=self.dtype))
        return [tf.reshape(a, [-1, 2, 2]), b], slopes

    def losses(self, params, data, step, *, second_order=False, xla=None):
        a, b = params
        phase = tf.cast(step, self.dtype) / 7
        return (
            tf.reduce_sum(tf.square(a), axis=[1, 2]) / (1 + data)
            + self.bends * tf.reduce_sum(tf.sin(b + phase), axis=1)
            + 4.0
        )


def small_rule(**options):
    options = {"preprocessing": 3.0, "output_scale": 0.3, **options}
    return keras_meta.CoordinatewiseLSTM(
        [3, 2], seed=1, dtype="float64", **options
    )


def attending_rule():
    return keras_meta.HierarchicalRNN(
        [3, 2, 2],
        seed=0,
        dtype="float64",
        attention=True,
        initial_rate=0.1,
    )


def windows(length=2, second_order=False):
    """The gradient through windows, the inner gradients constants or not."""
    through = keras_meta.Unrolled() if second_order else keras_meta.FirstOrder()
    return keras_meta.Truncated(length, through)


def learner(rule=None, problem=None, steps=4, optimizer=None, **options):
    jit_compile = options.pop("jit_compile", False)
    made = keras_meta.OptimizerLearner(
        rule or small_rule(),
        problem or Valley(),
        steps,
        **{"meta_gradient": windows(), **options},
    )
    made.compile(
        optimizer or keras.optimizers.SGD(RATE), jit_compile=jit_compile
    )
    return made


def trajectory(rule, problem, carry, data, first, steps, second_order):
    """A plain loop; returns the carry and the losses, differentiable."""
    params, state = carry
    losses = []
    for i in range(first, first + steps + 1):
        with tf.GradientTape() as tape:
            tape.watch(params)
            loss = problem.losses(params, data, i)
        losses.append(loss)
        if i == first + steps:
            break
        gradients = tape.gradient(loss, params)
        if not second_order:
            gradients = [tf.stop_gradient(g) for g in gradients]
        params, state = rule.update(params, gradients, state)
    return (params, state), tf.stack(losses)


def by_hand(
    rule, problem, steps, truncation, *, second_order=False, value=None
):
    """Takes SGD steps of `RATE` on each window; returns losses by window."""
    params, data = problem.draw(0, 0, 3)
    first = problem.losses(params, data, 0)
    carry = params, rule.init_state(params)
    values = []
    for start in range(0, steps, truncation):
        with tf.GradientTape() as tape:
            carry, losses = trajectory(
                rule, problem, carry, data, start, truncation, second_order
            )
            total = tf.reduce_sum(
                tf.reduce_mean(
                    (value or (lambda x, _: x))(losses[1:], first), 1
                )
            )
        gradients = tape.gradient(total, rule.trainable_variables)
        for variable, gradient in zip(
            rule.trainable_variables, gradients, strict=True
        ):
            variable.assign_sub(RATE * gradient)
        values.append(total)
    return float(sum(values)) / steps, float(tf.reduce_mean(losses[-1]))


def assert_equal_weights(rule, twin, tolerance=1e-10):
    for x, y in zip(rule.weights, twin.weights, strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)
