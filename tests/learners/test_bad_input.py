"""Bad inputs and losses: the error names what came and the way out."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta

from .helpers import classification
from .helpers import compiled
from .helpers import crossentropy
from .helpers import maml
from .helpers import mlp
from .helpers import refuses
from .helpers import regression


@pytest.mark.parametrize("method", ["call", "fit", "evaluate"])
def test_inputs_that_are_no_dict(method):
    learner = maml()
    x = np.zeros([3, 5, 2], "float32")
    with refuses(TypeError, "a dict with the keys.*'query_x'.*Received: "):
        if method == "call":
            learner(x)
        else:
            getattr(learner, method)(x, x[..., :1], verbose=0)


@pytest.mark.parametrize("key", ["support_x", "support_y", "query_x"])
def test_a_missing_key(key):
    x, y = regression()
    del x[key]
    with refuses(ValueError, rf"must have the keys.*Missing: \['{key}'\]"):
        maml().fit(x, y, verbose=0)


def test_a_misnamed_key():
    x, _ = regression()
    x["query"] = x.pop("query_x")
    with refuses(ValueError, r"Missing: \['query_x'\]. Unknown: \['query'\]"):
        maml()(x)


def test_query_labels_among_the_inputs():
    x, y = regression()
    with refuses(ValueError, r"Unknown: \['query_y'\].*yield `\(x, query_y\)`"):
        maml()({**x, "query_y": y})


@pytest.mark.parametrize(
    "key", ["support_x", "support_y", "query_x", "support_sample_weight"]
)
def test_different_numbers_of_tasks(key):
    x, _ = regression()
    x["support_sample_weight"] = np.ones([3, 5], "float32")
    x[key] = x[key][:2]
    with refuses(
        ValueError,
        rf"`{key}`.*the same number of tasks \(axis 0\).*{key}.shape=\(2",
    ):
        maml()(x)


@pytest.mark.parametrize("key", ["support_y", "support_sample_weight"])
def test_different_numbers_of_support_examples(key):
    x, _ = regression()
    x["support_sample_weight"] = np.ones([3, 5], "float32")
    x[key] = x[key][:, :4]
    with refuses(
        ValueError,
        rf"`{key}`.*same number of examples \(axis 1\).*{key}.shape=\(3, 4",
    ):
        maml()(x)


def test_support_and_query_sets_of_different_rank():
    x, _ = regression(inputs=1)
    x["query_x"] = x["query_x"][..., 0]
    with refuses(
        ValueError,
        r"`support_x` and `query_x` must have the same rank.*"
        r"support_x.shape=\(3, 5, 1\), query_x.shape=\(3, ",
    ):
        compiled(keras_meta.MAML(mlp(inputs=1)))(x)


def test_labels_without_a_task_axis():
    x, _ = classification()
    x["support_y"] = x["support_y"][0]
    with refuses(
        ValueError, r"`support_y` must have the shape \[tasks, examples"
    ):
        maml()(x)


def test_adapt_checks_its_examples():
    x, _ = regression()
    with refuses(ValueError, r"same number of examples \(axis 1\)"):
        maml().adapt(x["support_x"][0], x["support_y"][0][:2])


def test_no_loss_at_all():
    x, _ = regression()
    learner = keras_meta.MAML(mlp())
    match = r"needs a loss. Call `compile\(loss=...\)` or pass `inner_loss="
    with refuses(ValueError, match):
        learner(x)
    learner.compile("sgd")
    with refuses(ValueError, match):
        learner(x)


@pytest.mark.parametrize("loss", [{"head": "mse"}, ["mse"]])
def test_a_loss_for_each_output(loss):
    x, y = regression()
    learner = compiled(keras_meta.MAML(mlp()), loss=loss)
    with refuses(ValueError, "needs one loss for all.*Pass `inner_loss=`"):
        learner.fit(x, y, verbose=0)


def test_a_loss_that_does_not_reduce():
    x, y = regression()
    loss = keras.losses.MeanSquaredError(reduction=None)
    with refuses(ValueError, "must reduce to one number.*=None. Use"):
        keras_meta.MAML(mlp(), inner_loss=loss)
    learner = keras_meta.MAML(mlp())
    learner.compile("sgd", loss)
    with refuses(ValueError, "must reduce to one number.*=None. Use"):
        learner.fit(x, y, verbose=0)


@pytest.mark.parametrize(
    ("loss", "outputs", "name"),
    [
        (
            keras.losses.CategoricalCrossentropy(from_logits=True),
            3,
            "categorical_crossentropy",
        ),
        ("categorical_crossentropy", 3, "categorical_crossentropy"),
        ("mse", 3, "mean_squared_error"),
    ],
)
def test_class_numbers_for_a_loss_of_another_shape(loss, outputs, name):
    x, _ = classification()
    learner = compiled(keras_meta.MAML(mlp(outputs)), loss=loss)
    with refuses(
        ValueError,
        rf"loss '{name}' needs `support_y` of the shape \(2, 6, 3\)"
        r".*Received: support_y.shape=\(2, 6\). Use a loss that fits",
    ):
        learner(x)


def test_one_hot_labels_for_a_sparse_loss():
    x, _ = classification()
    x["support_y"] = np.eye(3, dtype="float32")[x["support_y"]]
    learner = compiled(keras_meta.MAML(mlp(3)), loss=crossentropy())
    with refuses(
        ValueError, r"needs `support_y` of the shape \(2, 6\).*\(2, 6, 3\)"
    ):
        learner(x)


@pytest.mark.slow_variants("1")
@pytest.mark.parametrize("outputs", [2, 1])
def test_targets_that_would_broadcast(outputs):
    """Shape `[..., 1]` against `[..., 2]` would be compared silently."""
    x, y = regression(outputs=3 - outputs)
    learner = compiled(keras_meta.MAML(mlp(outputs)))
    with refuses(ValueError, "'mean_squared_error' needs `support_y`"):
        learner(x)
    _, fine = regression(outputs=outputs)
    with refuses(ValueError, "'mean_squared_error' needs `query_y`"):
        learner.fit(x, y, verbose=0)
    with refuses(ValueError, "'mean_squared_error' needs `support_y`"):
        learner.fit(x, fine, verbose=0)


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 5, 1)])
def test_query_labels_of_other_sizes(shape):
    x, y = regression()
    assert y.shape == (3, 4, 1)
    learner = compiled(keras_meta.MAML(mlp()))
    for run in (learner.fit, learner.evaluate):
        with refuses(ValueError, r"`query_y` must have the shape \[tasks, que"):
            run(x, np.ones(shape, "float32"), verbose=0)


@pytest.mark.slow_variants("<lambda>-steps_per_epoch")
@pytest.mark.parametrize(
    ("run", "named"),
    [
        (lambda learner, data: learner.fit(data), "steps_per_epoch"),
        (lambda learner, data: learner.evaluate(data), "steps"),
        (lambda learner, data: learner.predict(data), "steps"),
        (
            lambda learner, data: learner.fit(
                data.take(1), validation_data=data
            ),
            "validation_steps",
        ),
    ],
)
def test_data_without_an_end(run, named):
    data = keras_meta.episodes.sinusoids(shots=3, queries=3, tasks=2)
    learner = compiled(keras_meta.MAML(mlp(inputs=1)))
    with refuses(ValueError, f"has no end.*{named}=None.*num_batches="):
        run(learner, data)


@pytest.mark.slow
def test_data_without_an_end_and_steps():
    data = keras_meta.episodes.sinusoids(shots=3, queries=3, tasks=2)
    learner = compiled(keras_meta.MAML(mlp(inputs=1)))
    options = {"validation_data": data, "validation_steps": 1, "verbose": 0}
    learner.fit(data, steps_per_epoch=2, **options)
    assert learner.optimizer.iterations == 2
    learner.evaluate(data, steps=1, verbose=0)


def test_adapting_to_lists():
    learner = compiled(keras_meta.MAML(mlp(), 0.1))
    x, y = np.ones([2, 2], "float32"), np.array([[1.0], [2.0]], "float32")
    adapted = learner.adapt(x, y.tolist())
    np.testing.assert_allclose(adapted(x), learner.adapt(x, y)(x), rtol=1e-6)
    with refuses(ValueError, r"`support_y` must hold a label for each example"):
        learner.adapt(x, 1.0)


def test_targets_without_their_last_axis_are_understood():
    x, y = regression()
    learner = compiled(keras_meta.MAML(mlp(), 0.1))
    expected = learner(x)
    flat = {**x, "support_y": x["support_y"][..., 0]}
    np.testing.assert_array_equal(learner(flat), expected)


def test_one_number_is_an_array_of_lists():
    model = keras.Sequential(
        [keras.Input([1]), keras.layers.Dense(1, kernel_initializer="ones")]
    )
    learner = compiled(keras_meta.MAML(model, 0.5))
    # The error of 0 for 1 is -1, and the prediction for 0 its bias.
    assert learner.adapt([[0.0]], [1])(np.zeros([1, 1])) == 1.0


_NOT_ARRAYS = {
    "None": (lambda a: None, "array of numbers.*Received: None"),
    "ragged": (tf.RaggedTensor.from_tensor, "dense.*RaggedTensor.*to_tensor"),
    "sparse": (tf.sparse.from_dense, "dense.*SparseTensor.*to_dense"),
    "objects": (lambda a: np.full(3, None), "array of numbers.*object"),
    "strings": (lambda a: a.astype(str), "strings|numbers"),
    "uneven": (lambda a: [[1.0], [2.0, 3.0]], "array of numbers.*a list"),
}


@pytest.mark.parametrize("kind", _NOT_ARRAYS)
@pytest.mark.parametrize("key", ["support_x", "support_y", "query_x"])
def test_what_is_no_array_of_numbers(key, kind):
    change, message = _NOT_ARRAYS[kind]
    x, _ = regression()
    with refuses(TypeError, f"^`{key}` must be .*({message})"):
        maml()({**x, key: change(x[key])})


@pytest.mark.parametrize("kind", ["objects", "strings"])
@pytest.mark.parametrize("key", ["support_x", "query_y"])
def test_what_keras_would_refuse_without_a_name(key, kind):
    x, y = regression()
    data = {**x, "query_y": y}
    data[key] = _NOT_ARRAYS[kind][0](data[key])
    y = data.pop("query_y")
    for run in (maml().fit, maml().evaluate):
        with refuses(TypeError, f"^`{key}` must"):
            run(data, y, verbose=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"support_x": [[1.0]]}, "`support_x` must be an array.*np.asarray"),
        ({"support_y": None}, "`support_y` must hold an array.*=None"),
        ({"query_x": tf.constant(1.0)}, "`query_x` must have at least one tas"),
        ({"query_x": np.ones([4, 4, 2])}, "same number of tasks.*=.4, 4, 2"),
        ({"y": "labels"}, "`query_y` must be an array.*'labels'"),
        ({"y": np.zeros([3], "M8[D]")}, "`query_y` must be .*Received: dates"),
        ({"sample_weight": []}, "`sample_weight` must hold an array"),
        ({"sample_weight": np.ones([2, 4])}, "`sample_weight` .*same number"),
    ],
)
def test_arrays_are_checked_before_keras_takes_them(changes, message):
    x, y = regression()
    given = {**x, "y": y, "sample_weight": None, **changes}
    y, sample_weight = given.pop("y"), given.pop("sample_weight")
    for run in (maml().fit, maml().evaluate):
        with refuses((TypeError, ValueError), message):
            run(given, y, sample_weight=sample_weight, verbose=0)
    with refuses((TypeError, ValueError), message):
        maml().fit(
            *regression(),
            validation_data=(given, y, sample_weight),
            verbose=0,
        )


def test_weights_of_support_examples_are_one_array():
    x, _ = regression()
    with refuses(ValueError, "`support_sample_weight` must be one array"):
        maml()({**x, "support_sample_weight": {}})


def test_no_tasks():
    x, y = regression()
    x = {key: value[:0] for key, value in x.items()}
    message = r"at least one task \(axis 0\). Received: support_x.shape=\(0"
    for run in (
        lambda: maml()(x),
        lambda: maml().fit(x, y[:0], verbose=0),
        lambda: maml().evaluate(x, y[:0], verbose=0),
    ):
        with refuses(ValueError, message):
            run()


def test_no_examples():
    x, y = regression(shots=0)
    with refuses(ValueError, r"`support_x` .* at least one support example"):
        maml()(x)
    with refuses(ValueError, r"`support_x` .* at least one support example"):
        maml().adapt(x["support_x"][0], x["support_y"][0])
    x, y = regression(queries=0)
    with refuses(ValueError, "`query_x` must have at least one query"):
        maml().fit(x, y, verbose=0)


def test_inputs_of_another_size_than_the_model_takes():
    x, _ = regression(inputs=7)
    with refuses(
        ValueError,
        r"`support_x` must have the shape \[tasks, examples, 2\].*\(3, 5, 7\)",
    ):
        maml()(x)


@pytest.mark.slow_variants("None")
@pytest.mark.parametrize("shape", [[None, None, None], None])
def test_sizes_that_the_model_knows_may_be_open(shape):
    x, y = regression()
    specs = {
        "support_x": tf.TensorSpec(shape),
        "support_y": tf.TensorSpec([None, None, 1]),
        "query_x": tf.TensorSpec(shape),
    }
    learner = maml()
    expected = learner(x)
    call = tf.function(lambda x: learner(x), [specs], autograph=False)
    np.testing.assert_allclose(call(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_sizes_that_are_known_at_run_time_are_checked_there():
    x, y = regression()
    x["query_x"] = x["query_x"][:1]
    specs = {key: tf.TensorSpec([None, None, None]) for key in x}
    data = tf.data.Dataset.from_generator(
        lambda: iter([(x, y)]),
        output_signature=(specs, tf.TensorSpec([None, None, 1])),
    )
    learner = maml()
    for run in (learner.fit, learner.evaluate):
        with pytest.raises(
            tf.errors.InvalidArgumentError, match="same number of tasks"
        ):
            run(data, verbose=0)


@pytest.mark.slow
def test_queries_are_needed_for_a_loss_alone():
    x, y = regression(queries=0)
    specs = {key: tf.TensorSpec([None, None, 2]) for key in x}
    specs["support_y"] = tf.TensorSpec([None, None, 1])
    data = tf.data.Dataset.from_generator(
        lambda: iter([(x, y)]),
        output_signature=(specs, tf.TensorSpec([None, None, 1])),
    )
    learner = maml()
    for run in (learner.fit, learner.evaluate):
        with pytest.raises(
            tf.errors.InvalidArgumentError, match="at least one of the queries"
        ):
            run(data, verbose=0)
    assert learner.predict(data, verbose=0).shape == (3, 0, 1)


@pytest.mark.parametrize("support_x", [[], {}])
def test_no_inputs(support_x):
    _, y = regression()
    with refuses((TypeError, ValueError), "`support_x` must"):
        maml().adapt(support_x, y[0])


def test_examples_of_another_rank_than_the_model_takes():
    with refuses(
        ValueError, r"`support_x` must have the shape \[tasks, examples, 2\]"
    ):
        maml().adapt([1.0, 2.0], [[1.0], [2.0]])


class _Picky(keras.layers.Layer):
    """Fails once it is told to."""

    fails = False

    def call(self, x):
        if self.fails:
            raise RuntimeError("the user's own error")
        return x


def test_errors_arrive_as_they_were_raised():
    x, y = regression()
    del x["query_x"]
    learner = maml()
    for run in (
        lambda: learner(x),
        lambda: learner.predict(x, verbose=0),
        lambda: learner.evaluate(x, y, verbose=0),
        lambda: learner.fit(x, y, verbose=0),
    ):
        with pytest.raises(ValueError, match=r"^The inputs must have") as info:
            run()
        assert "\x1b" not in str(info.value)
        assert "Arguments received" not in str(info.value)


def test_errors_of_a_layer_still_name_it():
    x, _ = regression()
    picky = _Picky()
    learner = compiled(
        keras_meta.MAML(
            keras.Sequential([keras.Input([2]), *mlp().layers, picky]), 0.1
        )
    )
    picky.fails = True
    with pytest.raises(RuntimeError, match=r"calling _Picky.call\(\)") as info:
        learner(x)
    assert "calling MAML" not in str(info.value)


def test_an_inner_loss_that_returns_nothing():
    x, _ = regression()
    with refuses(TypeError, "must return a number for each.*Received: None"):
        maml(inner_loss=lambda y_true, y_pred: None)(x)


@pytest.mark.slow_variants("<lambda>1")
@pytest.mark.parametrize(
    "loss",
    [
        lambda y_true, y_pred: 0.5,
        lambda y_true, y_pred: keras.ops.mean(y_true),
    ],
)
def test_an_inner_loss_that_does_not_depend_on_the_predictions(loss):
    x, _ = regression()
    with refuses(ValueError, "inner loss must depend on the adapted.*`y_pred`"):
        maml(inner_loss=loss)(x)
