import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from keras_meta.batching.task_batched import TaskBatched
from tests.reference import assert_close
from tests.reference import assert_equals_loop
from tests.reference import call_alone
from tests.reference import call_in_loop
from tests.reference import derivatives
from tests.reference import few
from tests.reference import normal
from tests.reference import one_layer
from tests.reference import randomize
from tests.reference import stacked
from tests.reference import state_of

layers = keras.layers


def hessian(function, x):
    """Returns the second derivative of a scalar function of one tensor."""
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = function(x)
        gradient = inner.gradient(y, x)
    size = tf.size(x).numpy()
    return outer.jacobian(gradient, x).numpy().reshape(size, size)


def hessian_by_differences(values, x, step=1e-4):
    """Central differences of values alone, without any derivative.

    Args:
        values: Maps a stack of points to a stack of numbers.
        x: The point.
        step: The difference.
    """
    x = x.numpy()
    size = x.size
    units = np.eye(size).reshape(size, *x.shape) * step
    signs = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
    points = [
        x + a * units[i] + b * units[j]
        for a, b in signs
        for i in range(size)
        for j in range(size)
    ]
    y = values(tf.constant(np.stack(points))).numpy()
    y = y.reshape(4, size, size)
    return (y[0] - y[1] - y[2] + y[3]) / (4 * step**2)


NORMS = {
    "batch": lambda: layers.BatchNormalization(),
    "batch axis 1": lambda: layers.BatchNormalization(axis=1),
    "layer": lambda: layers.LayerNormalization(),
    "group": lambda: layers.GroupNormalization(2),
    "root mean square": lambda: layers.RMSNormalization(),
}


@pytest.mark.slow_variants(
    "True-root mean square",
    "True-group",
    "False-layer",
    "False-group",
    "False-root mean square",
    "False-batch axis 1",
)
@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("adapts", [True, False])
def test_second_derivative_equals_finite_differences(name, adapts):
    model = keras.Sequential(
        [keras.Input([2, 4]), NORMS[name](), layers.Dense(1)]
    )
    adapted = model.trainable_variables[0 if adapts else -2 :]
    batched = TaskBatched(model, adapted)
    weights = stacked(adapted, 1)
    state = batched.initial_state()

    def values(x):
        tasks = [tf.repeat(w, x.shape[0], 0) for w in weights]
        y = batched(tasks, state, x, training=True).outputs
        return tf.reduce_sum(tf.sin(y), [1, 2, 3])

    x = normal([3, 2, 4])
    exact = hessian(lambda x: values(x[tf.newaxis])[0], x)
    assert np.abs(exact).max() > 0.1
    expected = hessian_by_differences(values, x)
    tolerance = 1e-6 * max(1, np.abs(exact).max())
    np.testing.assert_allclose(exact, expected, rtol=0, atol=tolerance)


def test_the_second_derivative_of_tensorflow_moments_is_still_wrong():
    # When this fails, TensorFlow has repaired tf.nn.moments: the refusal in
    # second_order.py and `always=True` of the rules may go.
    x = normal([6])
    wrong = hessian(lambda x: tf.nn.moments(x, [0])[1], x)
    right = hessian(lambda x: tf.math.reduce_variance(x), x)
    assert_close(right, 2 / 6 * (np.eye(6) - np.ones([6, 6]) / 6))
    assert_close(wrong, 2 / 6 * np.eye(6))


@pytest.mark.parametrize("name", NORMS)
def test_values_and_gradients_equal_those_of_the_unpatched_layer(name):
    model = one_layer(NORMS[name](), [2, 4])
    variables = model.trainable_variables
    batched = TaskBatched(model, variables)
    state = batched.initial_state()
    values = [normal([3, 5, 2, 4]), *stacked(variables, 3)]

    def rule(values):
        return batched(values[1:], state, values[0], training=True).outputs

    def plain(values):
        outputs = []
        for x, *weights in zip(*map(tf.unstack, values), strict=True):
            pairs = [
                *zip(variables, weights, strict=True),
                *zip(model.non_trainable_variables, state, strict=True),
            ]
            with keras.StatelessScope(pairs):
                outputs.append(model(x, training=True))
        return tf.stack(outputs)

    assert_close(derivatives(rule, values, 1), derivatives(plain, values, 1))


@few
@given(
    tasks=st.integers(1, 3),
    n=st.integers(2, 4),
    shape=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    axis=st.sampled_from([-1, 1]),
    scale=st.booleans(),
    center=st.booleans(),
    training=st.booleans(),
    statistics=st.sampled_from(["batch", "running"]),
)
def test_batch_normalization_equals_the_loop(
    tasks, n, shape, axis, scale, center, training, statistics
):
    model = keras.Sequential(
        [
            keras.Input(shape),
            layers.BatchNormalization(axis=axis, scale=scale, center=center),
            layers.Dense(2),
        ]
    )
    randomize(model.non_trainable_variables)
    batched = assert_equals_loop(
        model,
        normal([tasks, n, *shape]),
        training=training,
        reference_training=training or statistics == "batch",
        statistics=statistics,
    )
    assert not batched.has_fallback


@pytest.mark.parametrize("name", ["gamma", "beta"])
def test_batch_normalization_with_one_adapted_weight(name):
    model = one_layer(layers.BatchNormalization(), [3, 4])
    randomize(model.trainable_variables)
    adapted = [v for v in model.trainable_variables if v.name == name]
    assert_equals_loop(
        model, normal([3, 2, 3, 4]), adapted=adapted, training=True
    )


@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_masked_batch_normalization_equals_the_loop(statistics):
    model = keras.Sequential(
        [keras.Input([4, 3]), layers.Masking(), layers.BatchNormalization()]
    )
    keep = np.random.default_rng(0).integers(0, 2, [2, 5, 4, 1])
    x = normal([2, 5, 4, 3]) * tf.constant(keep, tf.float64)
    assert_equals_loop(model, x, training=True, statistics=statistics)


@pytest.mark.parametrize("features", [3, 4])
def test_mask_of_time_with_normalized_time_equals_the_loop(features):
    # The mask lies along the normalized axis, as Keras allows.
    model = keras.Sequential(
        [
            keras.Input([4, features]),
            layers.Masking(),
            layers.BatchNormalization(axis=1),
        ]
    )
    keep = np.random.default_rng(0).integers(0, 2, [2, 5, 4, 1])
    x = normal([2, 5, 4, features]) * tf.constant(keep, tf.float64)
    assert_equals_loop(model, x, training=True)


@pytest.mark.parametrize("training", [True, False])
def test_frozen_batch_normalization_uses_moving_averages(training):
    model = keras.Sequential(
        [keras.Input([4]), layers.BatchNormalization(), layers.Dense(3)]
    )
    randomize(model.variables)
    model.layers[0].trainable = False
    assert_equals_loop(model, normal([3, 5, 4]), training=training)


@pytest.mark.parametrize("statistics", ["batch", "running"])
@pytest.mark.parametrize("training", [True, False])
def test_moving_averages_become_the_mean_of_the_tasks(statistics, training):
    model = one_layer(layers.BatchNormalization(momentum=0.9), [3, 2])
    randomize(model.non_trainable_variables)
    variables = model.trainable_variables
    x, weights = normal([4, 5, 3, 2]), stacked(variables, 4)
    state = state_of(model)
    new = TaskBatched(model, variables)(
        weights, state, x, training=training, statistics=statistics
    ).state
    expected = state
    if statistics == "running":
        _, states = call_in_loop(model, variables, weights, state, x, training)
        expected = [tf.reduce_mean(s, 0) for s in states]
        assert training == (np.abs(expected[0] - state[0]).max() > 1e-3)
    assert_close(new, expected)
    assert_close(state_of(model), state, 0)


def test_recorded_statistics_normalize_other_examples():
    layer = layers.BatchNormalization()
    model = one_layer(layer, [3, 2])
    variables = model.trainable_variables
    batched = TaskBatched(model, variables)
    state = batched.initial_state()
    values = [
        normal([2, 5, 3, 2], 7),
        normal([2, 4, 3, 2], 8),
        *stacked(variables, 2),
    ]

    def task_batched(values):
        support, query, *weights = values
        recorded = batched(weights, state, support).statistics
        result = batched(weights, state, query, statistics=recorded)
        assert_same_statistics(result.statistics, recorded)
        return result.outputs

    def loop(values):
        outputs = []
        for support, query, *weights in zip(
            *map(tf.unstack, values), strict=True
        ):
            mean = tf.reduce_mean(support, [0, 1])
            variance = tf.reduce_mean((support - mean) ** 2, [0, 1])
            outputs.append(
                call_alone(model, variables, weights, [mean, variance], query)[
                    0
                ]
            )
        return tf.stack(outputs)

    actual = derivatives(task_batched, values)
    assert_close(actual, derivatives(loop, values))


def assert_same_statistics(a, b):
    assert a.keys() == b.keys()
    assert_close([a[key] for key in a], [b[key] for key in a], 0)


@pytest.mark.parametrize("training", [True, False])
def test_statistics_of_a_layer_used_twice_are_recorded_in_order(training):
    norm = layers.BatchNormalization()
    inputs = keras.Input([4])
    x = norm(inputs)
    x = layers.Dense(4, activation="tanh")(x)
    model = keras.Model(inputs, norm(x))
    variables = model.trainable_variables
    batched = TaskBatched(model, variables)
    state = batched.initial_state()
    x, weights = normal([2, 5, 4]), stacked(variables, 2)
    first = batched(weights, state, x, training=training)
    assert len(first.statistics[id(norm)]) == 2
    again = batched(
        weights, state, x, training=training, statistics=first.statistics
    )
    assert_close(again.outputs, first.outputs)


@few
@given(
    tasks=st.integers(1, 3),
    shape=st.lists(st.integers(2, 4), min_size=3, max_size=3),
    axis=st.sampled_from([-1, 2, [2, 3], [1, 3], [1, 2, 3]]),
    scale=st.booleans(),
    center=st.booleans(),
)
def test_layer_normalization_equals_the_loop(tasks, shape, axis, scale, center):
    model = keras.Sequential(
        [
            keras.Input(shape),
            layers.LayerNormalization(axis=axis, scale=scale, center=center),
            layers.Dense(2),
        ]
    )
    batched = assert_equals_loop(model, normal([tasks, 2, *shape]))
    assert not batched.has_fallback


@pytest.mark.slow
@few
@given(
    tasks=st.integers(1, 3),
    groups=st.sampled_from([1, 2, 3, 6, -1]),
    axis=st.sampled_from([-1, 1]),
    scale=st.booleans(),
    center=st.booleans(),
)
def test_group_normalization_equals_the_loop(
    tasks, groups, axis, scale, center
):
    shape = [3, 2, 6] if axis == -1 else [6, 3, 2]
    model = keras.Sequential(
        [
            keras.Input(shape),
            layers.GroupNormalization(
                groups, axis=axis, scale=scale, center=center
            ),
            layers.Dense(2),
        ]
    )
    batched = assert_equals_loop(model, normal([tasks, 2, *shape]))
    assert not batched.has_fallback


@pytest.mark.parametrize("axis", [-1, [2, 3], [1, 2, 3]])
def test_rms_normalization_equals_the_loop(axis):
    model = one_layer(layers.RMSNormalization(axis=axis), [3, 2, 4])
    batched = assert_equals_loop(model, normal([3, 2, 3, 2, 4]))
    assert not batched.has_fallback


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.UnitNormalization(),
        lambda: layers.LayerNormalization(rms_scaling=True),
    ],
)
def test_other_normalizations_equal_the_loop(make):
    model = keras.Sequential([keras.Input([3]), make(), layers.Dense(2)])
    assert_equals_loop(model, normal([2, 3, 3]))
