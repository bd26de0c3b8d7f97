"""Tasks evaluated one by one, without XLA, as all tasks at once."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta

from .helpers import WAYS
from .helpers import assert_same_weights
from .helpers import classification
from .helpers import compiled
from .helpers import convolutional_net
from .helpers import crossentropy
from .helpers import dataset
from .helpers import mlp
from .helpers import refuses
from .helpers import with_slow

pytestmark = pytest.mark.skipif(
    bool(tf.config.list_logical_devices("GPU")),
    reason="tasks are taken one by one on the CPU",
)

_BATCHES, _TASKS = 2, 3


def _data():
    data = classification(_BATCHES, _TASKS, shape=(6, 6, 1))
    return dataset(data)


def _compiled(make, **options):
    keras.utils.set_random_seed(0)
    return compiled(
        make(), loss=crossentropy(), metrics=["accuracy"], **options
    )


def _eager(make):
    """A learner that takes all tasks at once."""
    return _compiled(make, run_eagerly=True)


def _maml(**options):
    return keras_meta.MAML(convolutional_net(pool="max"), 0.1, **options)


def _two_outputs():
    net = convolutional_net()
    outputs = [net.outputs[0], keras.layers.Dense(WAYS)(net.layers[-2].output)]
    return keras_meta.MAML(
        keras.Model(net.inputs, outputs),
        0.1,
        inner_loss=lambda y, outputs: crossentropy()(y, outputs[0]),
    )


_LEARNERS = {
    "steps": lambda: _maml(steps=2),
    "more steps than in training": lambda: _maml(evaluation_steps=12),
    "support statistics": lambda: _maml(batch_statistics="support"),
    "moving averages": lambda: _maml(batch_statistics="running"),
    "anil": lambda: keras_meta.ANIL(convolutional_net(), 0.1, steps=2),
    "reptile": lambda: keras_meta.Reptile(
        convolutional_net(), steps=3, batch_size=2
    ),
}


# What the others nearly cover.
_COVERED = ("steps", "moving averages", "anil", "reptile")


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", with_slow(_LEARNERS, _COVERED))
def test_learners(name, plain):
    make = _LEARNERS[name]
    learner, expected = _compiled(make, jit_compile=True), _eager(make)
    data = _data()
    results = learner.evaluate(data, return_dict=True, verbose=0)
    predictions = learner.predict(data, verbose=0)
    assert plain == [(1, False)] * 2
    others = expected.evaluate(data, return_dict=True, verbose=0)
    assert results == pytest.approx(others, abs=1e-9)
    np.testing.assert_allclose(
        predictions, expected.predict(data, verbose=0), atol=1e-9
    )


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_every_task_and_every_step_alone(plain):
    make = _LEARNERS["steps"]
    learner, expected = _compiled(make, jit_compile=True), _eager(make)
    data, tasks = _data(), _BATCHES * _TASKS
    intervals = keras_meta.evaluate_tasks(learner, data, tasks)
    curves = keras_meta.adaptation_curve(learner, data, tasks, steps=3)
    assert plain == [(1, False)] * 2
    others = keras_meta.evaluate_tasks(expected, data, tasks)
    for name, interval in intervals.items():
        assert interval.mean == pytest.approx(others[name].mean, abs=1e-6)
    others = keras_meta.adaptation_curve(expected, data, tasks, steps=3)
    for name, curve in curves.items():
        assert curve.mean.shape == (4,)
        np.testing.assert_allclose(curve.mean, others[name].mean, atol=1e-6)
        np.testing.assert_allclose(
            curve.half_width, others[name].half_width, atol=1e-6
        )


@pytest.mark.slow
def test_several_outputs(plain):
    learner, loss = _two_outputs(), [crossentropy()] * 2
    x = _data().map(lambda x, _: x)
    predictions = []
    for options in ({"jit_compile": True}, {"run_eagerly": True}):
        compiled(learner, loss=loss, **options)
        predictions.append(learner.predict(x, verbose=0))
    assert plain == [(1, False)]
    for one, other in zip(*predictions, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.slow
def test_validation_while_training(plain):
    learner = _compiled(_maml, jit_compile=True)
    history = learner.fit(
        _data(), validation_data=_data(), epochs=2, verbose=0, shuffle=False
    )
    assert plain == [(1, False)] * 2
    last = learner.evaluate(_data(), return_dict=True, verbose=0)
    assert history.history["val_loss"][-1] == pytest.approx(last["loss"])


@pytest.mark.slow
@pytest.mark.parametrize("measure", ["evaluate", "predict"])
def test_a_failure_names_the_task(measure, plain):
    x, y = classification(_BATCHES, _TASKS, shape=(6, 6, 1))
    x["support_x"][0, 2] = np.nan
    learner = _compiled(_maml, jit_compile=True)
    with pytest.raises(FloatingPointError, match="inner step 0 of task 2 "):
        getattr(learner, measure)(dataset((x, y)), verbose=0)
    assert plain == [(1, False)]


@pytest.mark.slow
def test_a_label_out_of_range_is_named(plain):
    x, y = classification(_BATCHES, _TASKS, shape=(6, 6, 1))
    x["support_y"][1, 2, 0] = WAYS
    learner = _compiled(_maml, jit_compile=True)
    with pytest.raises(ValueError, match=r"Labels must be in 0\.\.2.* Task 2 "):
        learner.evaluate(dataset((x, y)), verbose=0)
    assert plain == [(1, False)]


def test_what_is_no_episode_is_told_as_ever():
    x, y = classification(_BATCHES, _TASKS, shape=(6, 6, 1))
    learner = _compiled(_maml, jit_compile=True)
    flat = {**x, "support_x": x["support_x"][:, :, 0]}
    with refuses(ValueError, "`support_x` and `query_x` must have the same"):
        learner.evaluate(dataset((flat, y)), verbose=0)
    several = {**x, "support_y": (x["support_y"], x["support_y"])}
    with refuses(ValueError, "`support_y` must be one tensor"):
        learner.fit(dataset((several, y)), verbose=0, shuffle=False)


@pytest.mark.slow
def test_losses_that_layers_add_go_through_xla(plain):
    def make():
        net = convolutional_net()
        head = keras.layers.Dense(WAYS, activity_regularizer="l2")
        outputs = head(net.layers[-2].output)
        return keras_meta.MAML(keras.Model(net.inputs, outputs), 0.1)

    results = [
        _compiled(make, jit_compile=jit).evaluate(
            _data(), return_dict=True, verbose=0
        )
        for jit in (True, False)
    ]
    assert not plain
    assert results[0] == pytest.approx(results[1], abs=1e-5)


@pytest.mark.slow
def test_an_own_step_is_compiled_as_a_whole(plain):
    class Own(keras_meta.MAML):
        def test_step(self, data):
            logs = super().test_step(data)
            return {**logs, "twice": 2 * logs["loss"]}

    learner = _compiled(lambda: Own(convolutional_net(), 0.1), jit_compile=True)
    logs = learner.evaluate(_data(), return_dict=True, verbose=0)
    assert logs["twice"] == pytest.approx(2 * logs["loss"])
    assert not plain


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("tasks", [1, 4])
def test_open_numbers_of_tasks(tasks, plain):
    data = _data().unbatch().batch(tasks)
    assert data.element_spec[1].shape[0] is None
    learner, expected = _compiled(_maml, jit_compile=True), _eager(_maml)
    results = []
    for each in (learner, expected):
        each.fit(data, verbose=0, shuffle=False)
        results.append(each.evaluate(data, return_dict=True, verbose=0))
    assert plain == [(1, False)] * 2
    assert results[0] == pytest.approx(results[1], abs=1e-9)
    assert_same_weights(learner, expected, atol=1e-9)


@pytest.mark.slow
def test_open_sizes_of_images_go_all_at_once(plain):
    """A loop without a turn could not tell the shape of what it returns."""
    inputs = keras.Input([None, None, 1])
    outputs = keras.layers.Conv2D(WAYS, 3, padding="same")(inputs)
    net = keras.Model(inputs, outputs)
    (x, _), spec = classification(None, _TASKS, shape=(6, 6, 1)), tf.TensorSpec
    labels = np.zeros([_TASKS, 6, 6, 6], "int32")
    x = {**x, "support_y": labels}
    images = spec([None, 6, None, None, 1], "float32")
    each = spec([None, 6, None, None], "int32")
    shapes = {"support_x": images, "support_y": each, "query_x": images}
    data = tf.data.Dataset.from_generator(
        lambda: iter([(x, labels)]), output_signature=(shapes, each)
    )
    learner = _compiled(lambda: keras_meta.MAML(net, 0.1), jit_compile=False)
    results = learner.evaluate(data, return_dict=True, verbose=0)
    eager = _compiled(lambda: learner, run_eagerly=True)
    assert not plain
    assert results == pytest.approx(
        eager.evaluate(data, return_dict=True, verbose=0), abs=1e-5
    )


@pytest.mark.slow
def test_a_call_of_ones_own_that_asks_for_every_step(plain):
    class Average(keras_meta.MAML):
        def call(self, inputs, training=None):
            predictions = super().call(inputs, training, every_step=True)
            return tf.reduce_mean(predictions, axis=0)

    def make():
        return Average(convolutional_net(), 0.1, steps=2)

    learner, expected = _compiled(make, jit_compile=True), _eager(make)
    np.testing.assert_allclose(
        learner.predict(_data(), verbose=0),
        expected.predict(_data(), verbose=0),
        atol=1e-5,
    )
    assert not plain


@pytest.mark.slow
def test_predicting_many_batches_at_a_time_traces_one():
    class Counting(keras_meta.MAML):
        traces = 0

        def call(self, inputs, training=None):
            type(self).traces += 1
            return super().call(inputs, training)

    data = dataset(classification(4, _TASKS, shape=(2,)))
    learner = compiled(
        Counting(mlp(WAYS), 0.1),
        loss=crossentropy(),
        jit_compile=True,
        steps_per_execution=4,
    )
    together = learner.predict(data, verbose=0)
    assert Counting.traces == 1
    learner.compile("sgd", crossentropy(), jit_compile=False)
    one_by_one = learner.predict(data, verbose=0)
    np.testing.assert_allclose(together, one_by_one, atol=1e-5)
