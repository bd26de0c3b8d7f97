import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import keras_meta
from keras_meta.update_rules.coordinatewise_lstm import CoordinatewiseLSTM
from keras_meta.update_rules.coordinatewise_lstm import log_and_sign

from .problems import assert_close
from .problems import attached
from .problems import few
from .problems import gradients
from .problems import run
from .problems import start


def rule(**options):
    options = {"seed": 1, "dtype": "float64", "output_scale": 0.5} | options
    return attached(CoordinatewiseLSTM([5, 4], **options))


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=9),
    st.sampled_from([1.0, 5.0, 10.0]),
)
def test_log_and_sign_equals_its_clipped_form(gradients, p):
    g = np.array(gradients)
    with np.errstate(divide="ignore"):
        log = np.maximum(np.log(np.abs(g)) / p, -1)
    expected = np.stack([log, np.clip(g * np.exp(p), -1, 1)], axis=-1)
    actual = log_and_sign(tf.constant(g), p)
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


def test_log_and_sign_has_a_derivative_at_zero():
    g = tf.constant([0.0, 1e-9, 0.5], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(g)
        y = log_and_sign(g, 2.0)
    expected = [np.exp(2), np.exp(2), 1 / (2 * 0.5)]
    np.testing.assert_allclose(tape.gradient(y, g), expected)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def written_out(rule, params, steps):
    """Takes steps with explicit gates, one coordinate at a time."""
    points = []
    states = {}
    for _ in range(steps):
        new = []
        grads = [g.numpy() for g in gradients(params)]
        for i, (param, grad) in enumerate(zip(params, grads, strict=True)):
            moved = param.numpy().copy()
            for index in np.ndindex(*grad.shape):
                x = np.array([grad[index]])
                if rule.preprocessing is not None:
                    x = log_and_sign(grad[index], rule.preprocessing).numpy()
                for layer, cell in enumerate(rule.cells):
                    zero = np.zeros(cell.bias.shape[0] // 4)
                    h, c = states.get((i, index, layer), (zero, zero))
                    z = x @ cell.kernel.numpy()
                    z += h @ cell.recurrent_kernel.numpy() + cell.bias.numpy()
                    enters, keeps, candidate, leaves = np.split(z, 4)
                    c = sigmoid(keeps) * c + sigmoid(enters) * np.tanh(
                        candidate
                    )
                    h = sigmoid(leaves) * np.tanh(c)
                    states[i, index, layer] = h, c
                    x = h
                (out,) = x @ rule.readout.kernel.numpy()
                moved[index] += rule.output_scale * (
                    out + rule.readout.bias.numpy()[0]
                )
            new.append(tf.constant(moved))
        params = new
        points.append(params)
    return points


@pytest.mark.parametrize("preprocessing", [None, 3.0])
def test_equals_a_plain_network_for_each_coordinate(preprocessing):
    lstm = rule(preprocessing=preprocessing)
    lstm.readout.bias.assign([0.1])
    assert_close(run(lstm, start(), 3), written_out(lstm, start(), 3))


def test_tasks_move_as_if_each_were_alone():
    lstm = rule()
    together = run(lstm, start(3), 4)
    for task in range(3):
        alone = run(lstm, [p[task] for p in start(3)], 4)
        assert_close([[p[task] for p in step] for step in together], alone)


@pytest.mark.slow_variants("False-True", "True-False")
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("open_tasks", [False, True])
def test_traced_steps_equal_eager_ones(jit_compile, open_tasks):
    lstm = rule()

    @tf.function(autograph=False, jit_compile=jit_compile)
    def traced(params):
        return run(lstm, params, 3)

    if open_tasks:
        specs = [tf.TensorSpec([None, *p.shape], p.dtype) for p in start()]
        traced.get_concrete_function(specs)
    assert_close(traced(start(2)), run(lstm, start(2), 3), 1e-11)


@pytest.mark.slow
@few
@given(seed=st.integers(0, 10**6))
def test_a_seed_fixes_the_weights(seed):
    first, second = (rule(seed=seed).get_weights() for _ in range(2))
    assert_close(first, second, 0)
    other = rule(seed=seed + 7).get_weights()
    assert any((a != b).any() for a, b in zip(first, other, strict=True))


def test_layers_start_from_different_weights():
    lstm = attached(CoordinatewiseLSTM([4, 4, 4], seed=3))
    second, third = (cell.kernel.numpy() for cell in lstm.cells[1:])
    assert np.abs(second - third).max() > 1e-3


def test_half_precision_parameters_keep_their_type():
    lstm = CoordinatewiseLSTM([3], seed=1, output_scale=1.0)
    params = [tf.ones([4], tf.bfloat16)]
    moved, state = lstm.update(params, params, lstm.init_state(params))
    assert moved[0].dtype == tf.bfloat16
    assert {x.dtype for x in keras.tree.flatten(state)} == {tf.float32}


def learner():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input([2]),
            keras.layers.Dense(4, "tanh"),
            keras.layers.Dense(1),
        ]
    )
    maml = keras_meta.MAML(
        model, CoordinatewiseLSTM([4], seed=1, output_scale=0.3), steps=3
    )
    maml.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=False)
    return maml


def episodes(tasks=8):
    rng = np.random.default_rng(0)
    slope = rng.normal(size=[tasks, 2, 1])
    support, query = rng.normal(size=[2, tasks, 6, 2])
    return {
        "support_x": support.astype("float32"),
        "support_y": (support @ slope).astype("float32"),
        "query_x": query.astype("float32"),
    }, (query @ slope).astype("float32")


@pytest.mark.slow
def test_a_meta_learner_trains_and_saves_it(tmp_path):
    maml = learner()
    x, y = episodes()
    before = [w.numpy() for w in maml.update_rule.trainable_weights]
    history = maml.fit(x, y, batch_size=8, epochs=60, verbose=0)
    assert history.history["loss"][-1] < 0.7 * history.history["loss"][0]
    after = maml.update_rule.trainable_weights
    for old, new in zip(before, after, strict=True):
        assert np.abs(new.numpy() - old).max() > 0
    maml.save(tmp_path / "learner.keras")
    loaded = keras.saving.load_model(tmp_path / "learner.keras")
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0), maml.predict(x, verbose=0), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"units": []}, "units"),
        ({"units": [3, 0]}, "units"),
        ({"preprocessing": -1.0}, "preprocessing"),
        ({"output_scale": 0.0}, "output_scale"),
    ],
)
def test_bad_arguments_are_named(options, name):
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        CoordinatewiseLSTM(**options)


@pytest.mark.parametrize(
    "rule", [keras_meta.CoordinatewiseLSTM, keras_meta.MetaLearnerLSTM]
)
@pytest.mark.parametrize("p", [89, 1e4, 0.0, "10"])
def test_an_exponent_out_of_range_is_refused(rule, p):
    with pytest.raises(ValueError, match="`preprocessing` must be .*Received"):
        rule(preprocessing=p)
