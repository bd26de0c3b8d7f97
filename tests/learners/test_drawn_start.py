"""Tasks that begin at newly drawn weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta
from keras_meta.inner import initial_weights
from keras_meta.problems.words import instance_words

from .helpers import assert_same_weights
from .helpers import call_with
from .helpers import compiled
from .helpers import convolutional_net
from .helpers import dataset
from .helpers import mlp
from .helpers import refuses
from .helpers import regression

pytestmark = pytest.mark.usefixtures("float64")
SEED = 2**40 + 3


def rates(learn="layer"):
    return keras_meta.GradientDescent(0.1, learn)


def learner_of(
    model=None, rule=None, steps=2, start=None, xla=False, **options
):
    """A learner whose outer step subtracts the gradient."""
    learner = keras_meta.MAML(
        mlp() if model is None else model,
        rates() if rule is None else rule,
        steps,
        start=keras_meta.Drawn(SEED) if start is None else start,
        **options,
    )
    return compiled(
        learner,
        keras.optimizers.SGD(1.0),
        run_eagerly=not xla,
        jit_compile=xla,
    )


def drawn(variables, model, number, task, xla):
    """The initial weights of a task in the meta-step of a number."""
    initializers = initial_weights.initializers_of(model, variables)

    def draw():
        words = instance_words(
            SEED, number + 1, task, 1, initial_weights.WORDS * len(variables)
        )
        return initial_weights.draw(variables, initializers, words[0])

    return tf.function(draw, jit_compile=True)() if xla else draw()


def loss_by_hand(learner, adapted, x, y, number, rate_of, proximal=0.0):
    """The outer loss of a meta-step, task after task."""
    model, losses = learner.model, []
    inner = learner.inner_loss or keras.losses.MeanSquaredError()
    for i in range(len(y)):
        start = drawn(adapted, model, number, i, learner.jit_compile)
        values = start
        for _ in range(learner.steps):
            with tf.GradientTape() as tape:
                tape.watch(values)
                outputs = call_with(model, adapted, values, x["support_x"][i])
                error = tf.reduce_mean(inner(x["support_y"][i], outputs))
                for value, first in zip(values, start, strict=True):
                    gap = tf.reduce_sum(tf.square(value - first))
                    error += proximal / 2 * gap
            grads = tape.gradient(error, values)
            values = [
                value - rate_of(k) * grad
                for k, (value, grad) in enumerate(
                    zip(values, grads, strict=True)
                )
            ]
        outputs = call_with(model, adapted, values, x["query_x"][i])
        losses.append(tf.reduce_mean(tf.square(outputs - y[i])))
    return tf.reduce_mean(losses)


@pytest.mark.slow_variants("body", "loss", "xla")
@pytest.mark.parametrize("what", ["rates", "body", "loss", "xla"])
def test_meta_steps_are_those_of_a_plain_loop(what):
    options = {
        "rates": {"rule": rates()},
        "xla": {"rule": rates(), "xla": True},
        "body": {"rule": 0.1, "adapt": "head"},
        "loss": {
            "rule": 0.1,
            "proximal": 0.3,
            "inner_loss": keras_meta.LossNetwork([3], base="mse", seed=0),
        },
    }[what]
    learner = learner_of(**options)
    model = learner.model
    adapted = model.layers[-1].trainable_variables
    if what != "body":
        adapted = model.trainable_variables
    if what == "loss":
        learner.inner_loss.head.kernel.assign(0.3 * np.ones([3, 1]))
    before = model.get_weights()

    def rate_of(k):
        rates = learner.update_rule.rates
        return rates[0][k // 2] if rates else 0.1

    for number in range(2):
        x, y = regression(tasks=2, seed=number)
        learned = learner.trainable_variables
        with tf.GradientTape() as tape:
            expected = loss_by_hand(
                learner,
                adapted,
                x,
                y,
                number,
                rate_of,
                options.get("proximal", 0.0),
            )
        gradients = tape.gradient(expected, learned)
        goal = [v - g for v, g in zip(learned, gradients, strict=True)]
        found = learner.train_on_batch(x, y)
        np.testing.assert_allclose(found, expected, rtol=1e-9)
        for value, variable in zip(goal, learned, strict=True):
            np.testing.assert_allclose(value, variable, rtol=1e-9, atol=1e-12)
    unchanged = 2 if what == "body" else 0
    assert_same_weights(before[unchanged:], model.get_weights()[unchanged:])


def test_only_what_is_not_drawn_is_learned():
    learner = learner_of()
    rule, model = learner.update_rule, learner.model
    assert [id(v) for v in learner.trainable_weights] == [
        id(v) for v in rule.rates
    ]
    others = {id(v) for v in learner.non_trainable_variables}
    assert {id(v) for v in model.variables} <= others
    assert {id(v) for v in learner.variables} == others | {
        id(v) for v in learner.trainable_variables
    }


def test_evaluation_begins_at_the_weights_of_the_model():
    x, y = regression(tasks=2)
    learner = learner_of()
    first = learner.predict(x, verbose=0)
    weights = learner.model.get_weights()
    (rates,) = learner.update_rule.rates
    before = rates.numpy()
    learner.train_on_batch(x, y)
    # Training changed the rates alone.
    assert (rates.numpy() != before).all()
    rates.assign(before)
    np.testing.assert_array_equal(learner.predict(x, verbose=0), first)
    one = learner.adapt(x["support_x"][0], x["support_y"][0])
    np.testing.assert_allclose(one(x["query_x"][0]), first[0], rtol=1e-9)
    np.testing.assert_allclose(learner.trajectory(x)[-1], first, rtol=1e-9)
    learner.redraw(5)
    redrawn = learner.model.get_weights()
    # A trajectory's first predictions are those of the initial weights.
    np.testing.assert_allclose(
        learner.trajectory(x)[0][0], learner.model(x["query_x"][0]), rtol=1e-9
    )
    assert all((a != b).all() for a, b in zip(redrawn, weights, strict=True))
    learner.redraw(6)
    learner.redraw(5)
    assert_same_weights(redrawn, learner.model.get_weights())


def test_every_call_in_a_loop_of_ones_own_draws():
    x, _ = regression(tasks=2)
    learner, other = learner_of(steps=1), learner_of(steps=1, start="drawn")
    calls = [learner(x, training=True).numpy() for _ in range(2)]
    assert not np.allclose(*calls)
    assert not np.allclose(other(x, training=True), calls[0])


def test_training_continues_from_weights_and_config():
    x, y = regression(tasks=2)
    learner = learner_of()
    learner.train_on_batch(x, y)
    config = learner.get_config()
    other = compiled(
        keras_meta.MAML.from_config(config),
        keras.optimizers.SGD(1.0),
        run_eagerly=True,
    )
    assert other.start == keras_meta.Drawn(SEED)
    other.set_weights(learner.get_weights())
    found = [trained.train_on_batch(x, y) for trained in (learner, other)]
    assert found[0] == found[1]
    assert_same_weights(learner, other)


def test_evolution_strategies_go_the_same_way():
    x, y = regression(tasks=2)

    def moved(meta_gradient):
        learner = learner_of(
            rule=rates("scalar"), proximal=0.5, meta_gradient=meta_gradient
        )
        learner.train_on_batch(x, y)
        return 0.1 - float(learner.update_rule.rates[0].numpy())

    # Signs are the only directions of one number, so nothing is random
    # besides the initial weights, which all particles share.
    es = keras_meta.EvolutionStrategies(1, 1e-4, draws="rademacher")
    assert moved(es) == pytest.approx(moved("unrolled"), rel=1e-6)


@pytest.mark.slow
def test_tasks_are_taken_together(plain):
    rng = np.random.default_rng(0)
    x = {
        "support_x": rng.normal(size=[2, 3, 6, 6, 1]),
        "support_y": rng.normal(size=[2, 3, 3]),
        "query_x": rng.normal(size=[2, 3, 6, 6, 1]),
    }
    y = rng.normal(size=[2, 3, 3])
    learner = learner_of(convolutional_net())
    learner.compile("sgd", "mse", jit_compile=False)
    learner.fit(x, y, batch_size=2, verbose=0)
    assert not plain


class Mean(keras.layers.Layer):
    """A layer that does not tell its initializer."""

    def build(self, shape):
        self.scale = self.add_weight(name="scale", shape=[], initializer="ones")

    def call(self, x):
        return self.scale * x


def unknown():
    return keras.Sequential(
        [keras.Input([2]), keras.layers.Dense(1), Mean(name="mean")]
    )


def regularized():
    dense = keras.layers.Dense(1, kernel_regularizer="l2")
    return keras.Sequential([keras.Input([2]), dense])


@pytest.mark.parametrize(
    "make, words",
    [
        (
            lambda: keras_meta.MAML(mlp(), 0.1, start="drawn"),
            "something else must be learned.*LossNetwork",
        ),
        (
            lambda: keras_meta.MAML(mlp(), rates(), start="kept"),
            "'learned', 'drawn' or .*Received: start='kept'.*OptimizerLearner",
        ),
        (
            lambda: keras_meta.MAML(mlp(), rates(), start=keras_meta.Kept(4)),
            "Runs cannot be kept here",
        ),
        (
            lambda: keras_meta.Reptile(mlp(), adapt="head", start="drawn"),
            "A displacement moves learned initial weights.*Unrolled",
        ),
        (
            lambda: keras_meta.MAML(unknown(), rates(), start="drawn"),
            "do not tell those of .*mean/scale.*`scale_initializer`",
        ),
        (
            lambda: keras_meta.MAML(regularized(), rates(), start="drawn"),
            "regularizers of .*kernel.*`proximal=`",
        ),
        (
            lambda: keras_meta.MAML(mlp(), 0.1, meta_gradient="implicit"),
            'Received: proximal=0, start="learned".*start="drawn"',
        ),
        (lambda: keras_meta.Drawn(0.5), "`seed` must be an integer"),
        (lambda: keras_meta.MAML(mlp()).redraw(1), "start='learned'"),
    ],
)
def test_what_makes_no_sense_is_refused(make, words):
    with refuses(ValueError, words):
        make()


def test_a_meta_gradient_is_refused_where_it_is_set():
    learner = learner_of(adapt="head", rule=0.1)
    with refuses(ValueError, "A displacement moves"):
        learner.meta_gradient = "displacement"
    learner.meta_gradient = "implicit"


def test_a_body_that_is_frozen_later_leaves_nothing_to_learn():
    learner = learner_of(adapt="head", rule=0.1)
    learner.model.layers[0].trainable = False
    with refuses(ValueError, "something else must be learned"):
        learner.train_on_batch(*regression(tasks=2))


@pytest.mark.slow
def test_many_steps_of_an_execution_draw_as_single_ones():
    data = regression(4, tasks=2)

    def moved(steps_per_execution):
        learner = learner_of(xla=True)
        learner.compile(
            keras.optimizers.SGD(1.0),
            "mse",
            jit_compile=True,
            steps_per_execution=steps_per_execution,
        )
        learner.fit(dataset(data), verbose=0)
        return learner

    keras.utils.set_random_seed(0)
    one = moved(1)
    keras.utils.set_random_seed(0)
    assert_same_weights(one, moved(4), rtol=1e-9)
