"""A meta-batch in blocks of tasks gives the step of all tasks at once."""

from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

import keras_meta
from keras_meta.execution import task_blocks

from .helpers import WAYS
from .helpers import assert_equal_fits
from .helpers import classification
from .helpers import compiled
from .helpers import convolutional_net
from .helpers import crossentropy
from .helpers import dataset
from .helpers import mlp
from .helpers import normalized_mlp
from .helpers import regression
from .helpers import with_slow

pytestmark = pytest.mark.skipif(
    bool(tf.config.list_logical_devices("GPU")),
    reason="blocks are for the CPU",
)

_BATCHES = 3
_TASKS = 6
_BLOCK_SIZE = task_blocks.block_size


@pytest.fixture
def blocks(monkeypatch):
    """Makes blocks of two tasks; collects the sizes of blocks in use."""
    sizes = []
    map_blocks = task_blocks.map_blocks

    def spy(function, size, arguments, **options):
        results = map_blocks(function, size, arguments, **options)
        sizes.append(size)
        return results

    monkeypatch.setattr(
        task_blocks, "block_size", lambda tasks, _: 2 if tasks else None
    )
    monkeypatch.setattr(task_blocks, "map_blocks", spy)
    return sizes


@given(st.integers(1, 200), st.integers(1, 10**9))
def test_blocks_divide_the_tasks(tasks, size):
    block = task_blocks.block_size(tasks, size)
    if block is not None:
        assert tasks % block == 0
        assert block <= tasks / 2
        assert block * size <= 2**21 or block == 1
    if tasks * size <= 2**20:
        assert block is None


@pytest.mark.parametrize(
    ("tasks", "size", "expected"),
    [
        (32, 10**6, 2),
        (32, 500_000, 4),
        (32, 10**9, 1),
        (25, 300_000, 5),
        (640, 10**9, 1),
        (1, 10**9, None),
        (2, 10**9, 1),
        (7, 10**9, 1),
        (7, 10**6, 1),
        (257, 10**4, None),
        (4, 1000, None),
        (None, 10**9, None),
    ],
)
def test_block_size(tasks, size, expected):
    assert task_blocks.block_size(tasks, size) == expected


def test_working_set_counts_weights_and_the_largest_array():
    model = mlp(outputs=3, inputs=2, width=50)
    inputs = tf.zeros([4, 7, 2])
    weights = 2 * 50 + 50 + 50 * 3 + 3
    expected = 4 * (weights + 10 * 50)
    # The largest array of an example is the hidden layer's output.
    assert task_blocks.working_set(model, inputs, 10) == expected


def _fit(make, data, **options):
    keras.utils.set_random_seed(0)
    learner = compiled(
        make(),
        options.pop("optimizer", None) or keras.optimizers.Adam(0.02),
        **options,
    )
    history = learner.fit(dataset(data), epochs=2, verbose=0, shuffle=False)
    return learner, history.history


def _assert_equal_fits(make, data, **options):
    """Fits in blocks, which the `blocks` fixture enforces, and without XLA."""
    expected = _fit(make, data, **options)
    in_blocks = _fit(make, data, jit_compile=True, **options)
    assert_equal_fits(in_blocks, expected, 1e-9)


# What the others nearly cover.
_COVERED = ("first-order", "anil", "long", "checkpointed-batch-norm")
_LEARNERS = {
    "maml": lambda: keras_meta.MAML(mlp(), 0.1),
    "first-order": lambda: keras_meta.MAML(
        mlp(), 0.1, meta_gradient="first_order"
    ),
    "multi-step": lambda: keras_meta.MAML(
        mlp(), 0.1, steps=2, step_weights="uniform"
    ),
    "meta-sgd": lambda: keras_meta.MetaSGD(mlp(), seed=1),
    "anil": lambda: keras_meta.ANIL(mlp(), 0.1, steps=2),
    "reptile": lambda: keras_meta.Reptile(mlp(), steps=3, batch_size=2),
    "reptile-head": lambda: keras_meta.Reptile(mlp(), adapt="head"),
    "batch-norm": lambda: keras_meta.MAML(normalized_mlp(), 0.1),
    "long": lambda: keras_meta.MAML(mlp(), 0.01, steps=12),
    "long-batch-norm": lambda: keras_meta.MAML(
        normalized_mlp(), 0.01, steps=12
    ),
    "checkpointed-batch-norm": lambda: keras_meta.MAML(
        normalized_mlp(),
        0.01,
        steps=4,
        meta_gradient=keras_meta.Unrolled("sqrt"),
    ),
    "looped-batch-norm": lambda: keras_meta.MAML(
        normalized_mlp(), 0.01, steps=3, meta_gradient="first_order"
    ),
}


@pytest.mark.slow_variants(
    "batch-norm",
    "long-batch-norm",
    "looped-batch-norm",
    "meta-sgd",
    "multi-step",
    "reptile",
    "reptile-head",
)
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", with_slow(_LEARNERS, _COVERED))
def test_learners(name, blocks):
    data = regression(_BATCHES, _TASKS)
    _assert_equal_fits(_LEARNERS[name], data, metrics=["mae"])
    assert blocks == [2]


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_an_odd_number_of_tasks(blocks, monkeypatch):
    monkeypatch.setattr(task_blocks, "block_size", _BLOCK_SIZE)
    monkeypatch.setattr(task_blocks, "_CACHE_BYTES", 1)
    _assert_equal_fits(_LEARNERS["maml"], regression(_BATCHES, 7))
    assert blocks == [1]


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_convolutional_net(blocks):
    data = classification(_BATCHES, _TASKS, shape=(6, 6, 1))
    _assert_equal_fits(
        lambda: keras_meta.MAML(convolutional_net(), 0.1),
        data,
        loss=crossentropy(),
        metrics=["accuracy"],
        steps_per_execution=2,
    )
    assert blocks


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_weighted_examples(blocks):
    x, y = regression(_BATCHES, _TASKS)
    rng = np.random.default_rng(0)
    x["support_sample_weight"] = rng.uniform(size=x["support_y"].shape[:3])
    weight = rng.uniform(size=y.shape[:3])
    _assert_equal_fits(
        _LEARNERS["maml"], (x, y, weight), weighted_metrics=["mae"]
    )
    assert blocks == [2]


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_regularizers_count_once(blocks):
    def make():
        model = mlp()
        model.get_layer("head").kernel.regularizer = keras.regularizers.L2(0.3)
        return keras_meta.MAML(model, 0.1)

    _assert_equal_fits(make, regression(_BATCHES, _TASKS))
    assert blocks == [2]


class _Adds(keras.layers.Layer):
    def call(self, x):
        self.add_loss(0.01 * tf.reduce_sum(tf.square(x)))
        return x


def _network(*layers, outputs=1):
    return keras.Sequential(
        [
            keras.Input([2]),
            keras.layers.Dense(4, "tanh"),
            *layers,
            keras.layers.Dense(outputs),
        ]
    )


_DEPENDENT = {
    "moving averages": lambda: keras_meta.MAML(
        normalized_mlp(), 0.1, batch_statistics="running"
    ),
    "add_loss": lambda: keras_meta.MAML(_network(_Adds()), 0.1),
    "activity regularizer": lambda: keras_meta.MAML(
        _network(keras.layers.ActivityRegularization(l2=0.1)), 0.1
    ),
}


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", _DEPENDENT)
def test_what_ties_tasks_together_is_not_split(name, blocks):
    _assert_equal_fits(_DEPENDENT[name], regression(_BATCHES, _TASKS))
    assert not blocks


def _largest_error(y_true, y_pred):
    errors = tf.reduce_mean(tf.square(y_true - y_pred), axis=-1)
    return tf.reduce_max(errors)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "loss", [keras.losses.MeanSquaredError("sum"), _largest_error]
)
def test_losses_that_are_no_mean_are_not_split(loss, blocks):
    _assert_equal_fits(
        lambda: keras_meta.MAML(mlp(), 0.01, inner_loss="mse"),
        regression(_BATCHES, _TASKS),
        loss=loss,
    )
    assert not blocks


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_weighted_mean_is_not_split(blocks):
    x, y = regression(_BATCHES, _TASKS)
    weight = np.random.default_rng(0).uniform(size=y.shape[:3])
    loss = keras.losses.MeanSquaredError("mean_with_sample_weight")
    _assert_equal_fits(_LEARNERS["maml"], (x, y, weight), loss=loss)
    assert not blocks


@pytest.mark.slow
def test_unknown_number_of_tasks_is_not_split(blocks):
    data = regression(_BATCHES, _TASKS)
    spec = keras.tree.map_structure(
        lambda a: tf.TensorSpec([None, *a.shape[2:]], a.dtype), data
    )
    generated = tf.data.Dataset.from_generator(
        lambda: iter(dataset(data)), output_signature=spec
    )
    learner = compiled(_LEARNERS["maml"](), jit_compile=True)
    history = learner.fit(generated, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert not blocks


@pytest.mark.slow
@pytest.mark.parametrize("task", [0, 3, 5])
def test_failures_name_the_task_of_the_batch(task, blocks):
    x, y = regression(1, _TASKS)
    x["support_x"][0, task] = np.nan
    learner = compiled(_LEARNERS["maml"](), jit_compile=True)
    before = [w.numpy() for w in learner.trainable_variables]
    with pytest.raises(
        FloatingPointError, match=f"inner step 0 of task {task} "
    ):
        learner.fit(dataset((x, y)), verbose=0)
    assert blocks == [2]
    for old, new in zip(before, learner.trainable_variables, strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.slow
def test_bad_labels_name_the_task_of_the_batch(blocks):
    x, y = classification(1, _TASKS)
    x["support_y"][0, 4, 1] = WAYS
    learner = compiled(
        keras_meta.MAML(mlp(outputs=WAYS)),
        loss=crossentropy(),
        jit_compile=True,
    )
    with pytest.raises(ValueError, match="Task 4 of the batch"):
        learner.fit(dataset((x, y)), verbose=0)
    assert blocks == [2]


class SumLoss(keras_meta.MAML):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        return 0.01 * tf.reduce_sum(tf.square(y - y_pred))


class _FixedNoise(keras.layers.Layer):
    def call(self, x):
        noise = keras.random.normal(keras.ops.shape(x), seed=7)
        return x + tf.cast(noise, x.dtype)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_a_loss_of_ones_own_is_not_split(blocks):
    _assert_equal_fits(
        lambda: SumLoss(mlp(), 0.1), regression(_BATCHES, _TASKS)
    )
    assert not blocks


@pytest.mark.slow
@pytest.mark.parametrize(
    "layer", [lambda: keras.layers.Dropout(0.5), _FixedNoise]
)
def test_random_numbers_are_not_split(layer, blocks):
    _, history = _fit(
        lambda: keras_meta.MAML(_network(layer()), 0.1),
        regression(_BATCHES, _TASKS),
        jit_compile=True,
    )
    assert np.isfinite(history["loss"]).all()
    assert not blocks


@pytest.mark.slow
def test_the_graph_does_not_grow_with_the_tasks():
    def operations(tasks):
        def step(x):
            return task_blocks.map_blocks(
                lambda x: (tf.reduce_sum(x), 2 * x), 2, (x,)
            )

        graph = tf.function(step, autograph=False).get_concrete_function(
            tf.TensorSpec([tasks, 3], tf.float32)
        )
        return len(graph.graph.get_operations())

    assert operations(64) == operations(640)


@pytest.mark.slow
@given(tasks=st.integers(2, 12), lanes=st.integers(1, 7))
@settings(max_examples=15, deadline=None)
def test_blocks_are_summed_and_stacked_in_order(tasks, lanes):
    x = tf.reshape(tf.range(tasks * 6, dtype=tf.float32), [tasks * 2, 3])

    def block(x, missing):
        assert missing is None
        return {"sum": tf.reduce_sum(x, axis=0)}, (2 * x, tf.shape(x)[0])

    with mock.patch.object(task_blocks, "_cores", lambda: lanes):
        sums, (doubled, sizes) = tf.function(
            lambda: task_blocks.map_blocks(block, 2, (x, None)),
            autograph=False,
        )()
    np.testing.assert_allclose(sums["sum"], np.sum(x, axis=0))
    np.testing.assert_array_equal(tf.reshape(doubled, x.shape), 2 * x)
    assert sizes.numpy().tolist() == [2] * tasks


@pytest.mark.slow
def test_the_failure_at_the_earliest_step_is_told(blocks):
    x, y = regression(1, _TASKS)
    # Task 0 overflows at step 1, task 5 holds NaN from the beginning.
    x["support_y"][0, 0] = 1e15
    x["support_x"][0, 5] = np.nan
    learner = compiled(
        keras_meta.MAML(mlp(activation="linear"), 1e3, steps=3),
        jit_compile=True,
    )
    with pytest.raises(FloatingPointError, match="step 0 of task 5 "):
        learner.fit(dataset((x, y)), verbose=0)
    assert blocks == [2]
