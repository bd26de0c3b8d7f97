import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta
from keras_meta.update_rules.coordinatewise_lstm import log_and_sign
from keras_meta.update_rules.meta_learner_lstm import MetaLearnerLSTM

from .problems import assert_close
from .problems import attached
from .problems import gradients
from .problems import start


def rule(**options):
    made = attached(MetaLearnerLSTM(3, seed=1, dtype="float64", **options))
    # The initial gates hardly move the parameters.
    made.enter_bias.assign(-0.5)
    made.keep_bias.assign(1.5)
    rng = np.random.default_rng(0)
    for kernel in (made.enter_kernel, made.keep_kernel):
        kernel.assign(rng.normal(size=kernel.shape))
    return made


def losses_of(params):
    """The losses of two tasks."""
    return tf.add_n(
        [
            tf.reduce_sum(tf.square(p), axis=range(1, p.shape.rank))
            for p in params
        ]
    )


def steps(made, params, count=3):
    state = made.init_state(params)
    for _ in range(count):
        state = made.observe(state, losses_of(params))
        params, state = made.update(params, gradients(params), state)
    return params


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def written_out(made, params, count=3):
    """Takes steps, one parameter of one task at a time, with plain loops."""
    memory = {}
    for _ in range(count):
        losses = losses_of(params).numpy()
        new = []
        for i, (param, grad) in enumerate(
            zip(params, gradients(params), strict=True)
        ):
            moved = param.numpy().copy()
            for index in np.ndindex(*moved.shape):
                g, theta = grad.numpy()[index], moved[index]
                zero = np.zeros(3)
                h, c, enter, keep = memory.get(
                    (i, index), (zero, zero, 0.0, 0.0)
                )
                x = np.concatenate(
                    [
                        log_and_sign(tf.constant(z), made.preprocessing)
                        for z in (g, losses[index[0]])
                    ]
                )
                z = (
                    x @ made.lstm.kernel.numpy()
                    + h @ made.lstm.recurrent_kernel.numpy()
                    + made.lstm.bias.numpy()
                )
                enters, keeps, new_content, leaves = np.split(z, 4)
                c = sigmoid(keeps) * c + sigmoid(enters) * np.tanh(new_content)
                h = sigmoid(leaves) * np.tanh(c)
                enter = sigmoid(
                    np.concatenate([h, [theta, enter]])
                    @ made.enter_kernel.numpy()
                    + float(made.enter_bias)
                )
                keep = sigmoid(
                    np.concatenate([h, [theta, keep]])
                    @ made.keep_kernel.numpy()
                    + float(made.keep_bias)
                )
                memory[i, index] = h, c, enter, keep
                moved[index] = keep * theta - enter * g
            new.append(tf.constant(moved))
        params = new
    return params


def test_equals_plain_gates_for_each_parameter():
    made = rule(preprocessing=3.0)
    assert_close(steps(made, start(2)), written_out(made, start(2)), 1e-9)


def test_tasks_do_not_affect_each_other():
    made = rule()
    together = steps(made, start(2))
    alone = steps(made, [p[1:] for p in start(2)])
    assert_close([p[1:] for p in together], alone)


def test_parameters_without_tasks_have_one_loss():
    made = rule()
    params = start()
    state = made.observe(made.init_state(params), tf.constant(2.0, tf.float64))
    moved, _ = made.update(params, gradients(params), state)
    lead = [p[tf.newaxis] for p in params]
    state = made.observe(made.init_state(lead), tf.constant([2.0], tf.float64))
    expected, _ = made.update(lead, gradients(lead), state)
    assert_close(moved, [p[0] for p in expected])


def test_parameters_hardly_move_at_first():
    made = attached(MetaLearnerLSTM(3, seed=1, dtype="float64"))
    for before, after in zip(start(2), steps(made, start(2), 1), strict=True):
        change = np.abs(after - before).max()
        assert 0 < change < 0.1


def _few_shot_data():
    """Tasks of telling two clouds apart, with labels drawn for each task."""
    rng = np.random.default_rng(0)
    tasks, n = 32, 10
    labels = rng.integers(2, size=[tasks, 2 * n])
    centers = rng.normal(size=[tasks, 2, 4])
    x = centers[np.arange(tasks)[:, np.newaxis], labels]
    x = (x + 0.3 * rng.normal(size=x.shape)).astype("float32")
    inputs = {
        "support_x": x[:, :n],
        "support_y": labels[:, :n],
        "query_x": x[:, n:],
    }
    return tf.data.Dataset.from_tensors((inputs, labels[:, n:]))


@pytest.mark.slow
@pytest.mark.usefixtures("float32")
def test_a_meta_learner_learns_and_is_saved_with_it(tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input([4]),
            keras.layers.Dense(16, "relu"),
            keras.layers.Dense(2),
        ]
    )
    learner = keras_meta.MAML(
        model,
        MetaLearnerLSTM(8, seed=0),
        steps=3,
        meta_gradient="first_order",
    )
    learner.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    data = _few_shot_data()
    before = learner.evaluate(data, verbose=0)[0]
    learner.fit(data.repeat(60), verbose=0)
    after, accuracy = learner.evaluate(data, verbose=0)
    assert after < before / 2 and accuracy > 0.8
    path = tmp_path / "learner.keras"
    learner.save(path)
    twin = keras.saving.load_model(path)
    x, _ = next(iter(data))
    np.testing.assert_allclose(
        twin.predict(x, verbose=0), learner.predict(x, verbose=0), atol=1e-5
    )


def test_a_keras_optimizer_refuses_it():
    with pytest.raises(ValueError, match="must not need the loss.*MAML"):
        keras_meta.optimizers.LearnedOptimizer(MetaLearnerLSTM())


def test_config_round_trip():
    made = MetaLearnerLSTM(5, preprocessing=3.0, seed=2)
    twin = MetaLearnerLSTM.from_config(made.get_config())
    assert twin.get_config() == made.get_config()


@pytest.mark.parametrize(
    ("name", "value"), [("units", 0), ("units", 2.5), ("preprocessing", 0.0)]
)
def test_arguments_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be .*{value}"):
        MetaLearnerLSTM(**{name: value})
