"""What Reptile alone does: mini-batches and plain interpolation."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta

from .helpers import adapt_by_hand
from .helpers import assert_same_weights
from .helpers import call_with
from .helpers import compiled
from .helpers import dataset
from .helpers import descent
from .helpers import mlp
from .helpers import regression
from .helpers import weights

_EXAMPLES = 6


def _sum(y_true, y_pred):
    return tf.reduce_sum(y_pred)


def _counter(steps, batch_size, **kwargs):
    """A learner whose weight i falls by 1 when a step sees example i."""
    model = keras.Sequential(
        [
            keras.Input([_EXAMPLES]),
            keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros"),
        ]
    )
    return compiled(
        keras_meta.Reptile(
            model,
            1.0,
            steps,
            batch_size=batch_size,
            inner_loss=_sum,
            **kwargs,
        ),
        keras.optimizers.SGD(1.0),
    )


def _one_hot(tasks=2):
    eye = np.broadcast_to(
        np.eye(_EXAMPLES, dtype="float32"), [tasks, _EXAMPLES, _EXAMPLES]
    )
    y = np.zeros([tasks, _EXAMPLES, 1], "float32")
    return {"support_x": eye, "support_y": y, "query_x": eye}, y


def _counts_of_one_training_step(learner, tasks=1):
    """How often a task saw each example, the mean over tasks."""
    before = learner.model.get_weights()[0]
    learner.train_on_batch(*_one_hot(tasks))
    return (before - learner.model.get_weights()[0])[:, 0]


@pytest.mark.slow_variants("6-2-2", "4-3-2")
@pytest.mark.parametrize(
    ("steps", "batch_size", "passes"), [(3, 2, 1), (6, 2, 2), (4, 3, 2)]
)
def test_every_example_is_drawn_once_in_a_pass(steps, batch_size, passes):
    learner = _counter(steps, batch_size)
    counts = _counts_of_one_training_step(learner, tasks=2)
    np.testing.assert_array_equal(counts, np.full(_EXAMPLES, passes))


def test_an_unfinished_pass_draws_no_example_twice():
    learner = _counter(2, 2, seed=1)
    for _ in range(5):
        counts = _counts_of_one_training_step(learner)
        assert sorted(counts) == [0, 0, 1, 1, 1, 1]


@pytest.mark.slow
def test_draws_differ_by_step_and_task():
    learner = _counter(1, 1, seed=3)
    draws = [_counts_of_one_training_step(learner) for _ in range(20)]
    assert len({int(np.argmax(d)) for d in draws}) > 3
    halves = [_counts_of_one_training_step(learner, 2) for _ in range(20)]
    assert any(np.max(h) == 0.5 for h in halves)


@pytest.mark.slow
def test_the_seed_fixes_the_draws():
    draws = [
        [_counts_of_one_training_step(learner) for _ in range(5)]
        for learner in (_counter(1, 1, seed=3), _counter(1, 1, seed=3))
    ]
    np.testing.assert_array_equal(*draws)


def test_evaluation_passes_over_a_support_set_in_one_order():
    learner = _counter(5, 2, evaluation_steps=4)
    x, _ = _one_hot()
    seen = -learner.predict(x, batch_size=2, verbose=0)[..., 0]
    # Four steps of two examples: one pass of three steps, and one more.
    assert sorted(seen[0]) == [1, 1, 1, 1, 2, 2]
    np.testing.assert_array_equal(seen[0], seen[1])
    again = -learner(x)[..., 0]
    np.testing.assert_array_equal(seen, again)
    single = _counter(1, 1, evaluation_steps=1)
    first = np.argmax(-single(x)[0, :, 0])
    assert seen[0, first] == 2


@pytest.mark.parametrize("seed", [0, 1, 2**40, -(2**63)])
def test_an_order_of_evaluation_holds_each_example_once(seed):
    orders = _counter(1, 1, seed=seed)._orders
    for examples in (1, 7, 100):
        order = orders.of_evaluation(examples)
        np.testing.assert_array_equal(np.sort(order), np.arange(examples))
    # Neither sorted sets nor those that repeat 0, ..., 4 give one class.
    for classes in (np.arange(100) // 20, np.arange(100) % 5):
        steps = classes[order.numpy()].reshape([10, 10])
        assert min(len(set(step)) for step in steps) >= 3


def test_a_step_of_evaluation_does_not_see_one_class_alone():
    """Though support sets are sorted by class."""
    model = keras.Sequential(
        [
            keras.Input([5]),
            keras.layers.Dense(5, use_bias=False, kernel_initializer="zeros"),
        ]
    )
    learner = compiled(
        keras_meta.Reptile(
            model, 0.1, 1, batch_size=10, inner_loss=lambda y, p: y * p
        )
    )
    sorted_by_class = np.eye(5)[np.repeat(np.arange(5), 10)]
    adapted = learner.adapt(sorted_by_class, sorted_by_class).get_weights()[0]
    assert np.sum(np.diag(adapted) != 0) >= 4


@pytest.mark.usefixtures("float64")
def test_mini_batches_equal_a_loop_by_hand():
    model = mlp()
    learner = compiled(keras_meta.Reptile(model, 0.1, 3, batch_size=2))
    x, _ = regression(shots=4)
    predictions = learner(x)
    order = learner._orders.of_evaluation(4).numpy()
    orders = [order[:2], order[2:], order[:2]]
    for task in range(3):
        variables = model.trainable_variables
        start = model.get_weights()
        for order in orders:
            values = adapt_by_hand(
                model,
                x["support_x"][task][order],
                x["support_y"][task][order],
                lambda y, p: tf.reduce_mean((y - p) ** 2),
                descent(0.1),
                1,
            )
            model.set_weights(values)
        model.set_weights(start)
        expected = call_with(model, variables, values, x["query_x"][task])
        np.testing.assert_allclose(predictions[task], expected, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_the_rate_is_the_fraction_of_the_way_to_adapted_weights():
    x, y = regression(tasks=1)
    learner = compiled(
        keras_meta.Reptile(mlp(), 0.1, 3), keras.optimizers.SGD(0.25)
    )
    before = learner.model.get_weights()
    adapted = learner.adapt(x["support_x"][0], x["support_y"][0])
    learner.train_on_batch(x, y)
    expected = [
        0.75 * b + 0.25 * a
        for b, a in zip(before, adapted.get_weights(), strict=True)
    ]
    assert_same_weights(learner.model.get_weights(), expected, rtol=1e-12)


@pytest.mark.slow
def test_query_sets_do_not_train():
    learners = []
    for seed in (0, 1):
        keras.utils.set_random_seed(0)
        learner = compiled(keras_meta.Reptile(mlp(), 0.1, 2))
        x, y = regression()
        other, other_y = regression(seed=seed)
        learner.train_on_batch({**x, "query_x": other["query_x"]}, other_y)
        learners.append(weights(learner))
    assert_same_weights(*learners)


@pytest.mark.slow
def test_weights_that_do_not_adapt_stay():
    learner = compiled(keras_meta.Reptile(mlp(), 0.1, 2, adapt="head"))
    body, head = learner.model.layers
    before = [layer.get_weights() for layer in (body, head)]
    learner.train_on_batch(*regression())
    assert_same_weights(body.get_weights(), before[0])
    assert not np.array_equal(head.get_weights()[0], before[1][0])


def test_the_published_inner_rule_is_the_default():
    rule = keras_meta.Reptile(mlp()).update_rule
    assert isinstance(rule, keras_meta.Adam)
    assert (rule.learning_rate, rule.beta_1) == (0.001, 0.0)


@pytest.mark.slow
def test_weights_that_do_not_adapt_stay_with_moving_averages():
    layers = [keras.layers.Dense(4), keras.layers.Dense(4, name="head")]
    model = keras.Sequential([keras.Input([2]), *layers])
    learner = compiled(
        keras_meta.Reptile(model, adapt="head"),
        keras.optimizers.SGD(0.5, use_ema=True),
    )
    before = layers[0].kernel.numpy()
    data = regression(3, outputs=4)
    learner.fit(dataset(data), verbose=0)
    np.testing.assert_array_equal(layers[0].kernel, before)


@pytest.mark.slow
def test_the_optimizer_of_a_partly_adapted_model_is_saved(tmp_path):
    learner = compiled(
        keras_meta.Reptile(mlp(), adapt="head"), keras.optimizers.Adam(0.01)
    )
    learner.fit(dataset(regression(3)), verbose=0)
    learner.save(tmp_path / "learner.keras")
    loaded = keras.saving.load_model(tmp_path / "learner.keras")
    assert int(loaded.optimizer.iterations) == 3
    assert_same_weights(
        [v.numpy() for v in loaded.optimizer.variables],
        [v.numpy() for v in learner.optimizer.variables],
    )


@pytest.mark.slow
def test_the_scale_of_the_loss_does_not_matter():
    x, y = regression()
    start = mlp().get_weights()
    ends = []
    for options in ({}, {"loss_scale_factor": 128.0}):
        learner = keras_meta.Reptile(mlp(), 0.1, steps=2)
        learner.model.set_weights(start)
        compiled(learner, keras.optimizers.SGD(0.5, **options))
        learner.fit(x, y, batch_size=3, verbose=0)
        ends.append(learner.model.get_weights())
    for a, b, c in zip(*ends, start, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        assert np.abs(a - c).max() > 1e-3
