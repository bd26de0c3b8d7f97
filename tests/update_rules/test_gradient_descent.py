import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_meta.update_rules.gradient_descent import GradientDescent

from .problems import SHAPES
from .problems import assert_close
from .problems import attached
from .problems import gradients
from .problems import normal
from .problems import run
from .problems import start

SHARINGS = [
    None,
    "scalar",
    "layer",
    "step",
    "layer_step",
    "parameter",
    "schedule",
]
RATE_SHAPES = {
    None: [],
    "scalar": [()],
    "layer": [(2,)],
    "step": [(3,)],
    "layer_step": [(2, 3)],
    "parameter": list(SHAPES.values()),
    "schedule": [(3,)],
}
LAYER_OF = [0, 0, 1]


def expected_rate(rule, i, step):
    """The rate of variable `i`, looked up in the weights."""
    step = min(step, 2)
    rates = [np.asarray(w) for w in rule.weights]
    return {
        None: lambda: rule.learning_rate,
        "scalar": lambda: rates[0],
        "layer": lambda: rates[0][LAYER_OF[i]],
        "step": lambda: rates[0][step],
        "layer_step": lambda: rates[0][LAYER_OF[i], step],
        "parameter": lambda: rates[i],
        # Three knots at as many steps.
        "schedule": lambda: np.exp(rates[0][step]),
    }[rule.learn]()


@pytest.mark.parametrize("learn", SHARINGS)
def test_rates_have_one_entry_for_each_layer_step_or_weight(learn):
    rule = attached(GradientDescent(0.25, learn, knots=3))
    assert [tuple(w.shape) for w in rule.weights] == RATE_SHAPES[learn]
    assert len(rule.trainable_weights) == len(rule.weights)
    first = np.log(0.25) if learn == "schedule" else 0.25
    for weight in rule.weights:
        np.testing.assert_allclose(weight, first, rtol=1e-7)


@pytest.mark.parametrize("tasks", [None, 4])
@pytest.mark.parametrize("learn", SHARINGS)
def test_steps_equal_explicit_steps_beyond_the_trained_number_too(learn, tasks):
    rule = attached(GradientDescent(0.25, learn, knots=3))
    for i, weight in enumerate(rule.weights):
        # Some of these rates are negative.
        weight.assign(normal(weight.shape, 9 + i))
    actual = run(rule, start(tasks), 5)
    params = start(tasks)
    for step in range(5):
        params = [
            p - expected_rate(rule, i, step) * g
            for i, (p, g) in enumerate(
                zip(params, gradients(params), strict=True)
            )
        ]
        assert_close(actual[step], params)


@pytest.mark.parametrize("rate", [0.1, -1 / 3, 1e-3])
@pytest.mark.parametrize("learn", [None, "scalar"])
def test_rates_are_used_in_full_precision(rate, learn):
    rule = attached(GradientDescent(rate, learn))
    for weight in rule.weights:
        weight.assign(rate)
    expected = [
        p - rate * g for p, g in zip(start(), gradients(start()), strict=True)
    ]
    assert_close(run(rule, start(), 1)[0], expected, 1e-14)


@pytest.mark.parametrize("learn", SHARINGS[1:])
def test_the_final_parameters_have_gradients_for_the_rates(learn):
    rule = attached(GradientDescent(0.1, learn))
    weights = [w.value for w in rule.trainable_weights]

    def final():
        params = run(rule, start(2), 4)[-1]
        return tf.add_n([tf.reduce_sum(tf.sin(p)) for p in params])

    with tf.GradientTape() as tape:
        tape.watch(weights)
        loss = final()
    actual = tape.gradient(loss, weights)
    variables = rule.trainable_weights
    for variable, gradient in zip(variables, actual, strict=True):
        value = variable.numpy()
        for index in np.ndindex(*value.shape):
            ends = []
            for sign in (1, -1):
                moved = np.array(value)
                moved[index] += sign * 1e-6
                variable.assign(moved)
                ends.append(final())
            variable.assign(value)
            expected = (ends[0] - ends[1]) / 2e-6
            np.testing.assert_allclose(gradient[index], expected, atol=1e-7)


def test_an_initializer_gives_different_rates_to_different_weights():
    initializer = keras.initializers.RandomUniform(0.1, 0.2, seed=3)
    rule = attached(GradientDescent(initializer, "parameter"))
    values = np.concatenate([w.numpy().ravel() for w in rule.weights])
    assert len(np.unique(values)) == len(values) == 12
    assert 0.1 <= values.min() < values.max() <= 0.2
    again = attached(GradientDescent(initializer, "parameter"))
    assert_close(
        [w.numpy() for w in again.weights], [w.numpy() for w in rule.weights]
    )


def test_the_state_counts_steps():
    rule = attached(GradientDescent(0.1))
    params = start()
    state = rule.init_state(params)
    assert state["step"] == 0
    for step in (1, 2):
        params, state = rule.update(params, gradients(params), state)
        assert state["step"] == step


def test_update_changes_neither_its_arguments_nor_its_weights():
    rule = attached(GradientDescent(0.1, "parameter"))
    params, before = start(), start()
    rates = [w.numpy() for w in rule.weights]
    state = rule.init_state(params)
    rule.update(params, gradients(params), state)
    assert_close(params, before, 0)
    assert_close([w.numpy() for w in rule.weights], rates, 0)
    assert state["step"] == 0


@pytest.mark.parametrize("learn", SHARINGS)
def test_config_round_trip(learn):
    rule = GradientDescent(
        0.2, learn, clip_norm=1.5, clip_value=0.5, name="rule"
    )
    config = keras.saving.serialize_keras_object(rule)
    copy = keras.saving.deserialize_keras_object(config)
    assert type(copy) is GradientDescent
    assert copy.get_config() == rule.get_config()
    points = run(attached(rule), start(), 2)
    assert_close(run(attached(copy), start(), 2), points, 0)


def test_config_round_trip_of_an_initializer():
    rule = GradientDescent(
        keras.initializers.RandomUniform(0.1, 0.2, seed=3), "layer"
    )
    config = keras.saving.serialize_keras_object(rule)
    copy = keras.saving.deserialize_keras_object(config)
    assert copy.get_config() == rule.get_config()
    assert_close(
        attached(copy).weights[0].numpy(), attached(rule).weights[0].numpy()
    )


@pytest.mark.parametrize("learn", ["layers", "", 3, True])
def test_unknown_values_of_learn_are_refused(learn):
    with pytest.raises(ValueError, match="`learn` must be one of"):
        GradientDescent(0.1, learn)


@pytest.mark.parametrize("name", ["clip_norm", "clip_value"])
@pytest.mark.parametrize("value", [0, -1.0, float("nan")])
def test_bounds_that_are_not_positive_are_refused(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be a positive number"):
        GradientDescent(0.1, **{name: value})


@pytest.mark.parametrize(
    "rate", [keras.initializers.Constant(0.1), "zeros", True, None]
)
def test_fixed_rates_that_are_not_numbers_are_refused(rate):
    with pytest.raises(ValueError, match="`learning_rate` must be a number"):
        GradientDescent(rate)


def test_parameters_of_lower_precision_keep_their_type():
    rule = attached(GradientDescent(0.1, "scalar"))
    params = [tf.cast(p, tf.float32) for p in start()]
    (params,) = run(rule, params, 1)
    assert {p.dtype for p in params} == {tf.float32}


def test_logarithms_of_a_schedule_are_linear_between_knots():
    rule = GradientDescent(1.0, learn="schedule", knots=3)
    rule.attach([keras.Variable([0.0])], steps=7)
    rule.rates[0].assign([0.0, 3.0, -3.0])
    place, state = [tf.zeros([1], tf.float64)], rule.init_state([])
    logs = []
    for _ in range(9):
        before = place[0].numpy()
        place, state = rule.update(place, [-tf.ones([1], tf.float64)], state)
        logs += [*np.log(place[0].numpy() - before)]
    np.testing.assert_allclose(logs, [0, 1, 2, 3, 1, -1, -3, -3, -3], atol=1e-6)


@pytest.mark.parametrize("rate", [0.0, -0.1, "ones"])
def test_a_schedule_begins_with_a_positive_rate(rate):
    with pytest.raises(ValueError, match="`learning_rate` must be"):
        GradientDescent(rate, learn="schedule")


def test_layers_of_the_same_name_have_separate_rates():
    inputs = keras.Input([2])
    towers = [
        keras.Model(inputs, keras.layers.Dense(1, name="hidden")(inputs))
        for _ in range(2)
    ]
    variables = [v for tower in towers for v in tower.trainable_variables]
    assert variables[0].path == variables[2].path
    rule = GradientDescent(0.1, learn="layer")
    rule.attach(variables, steps=1)
    assert rule.rates[0].shape == (2,)
    assert rule._layer_of == [0, 0, 1, 1]
