"""Bad input: the error names the argument, what came and the way out."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta

from .helpers import assert_same_weights
from .helpers import classification
from .helpers import compiled
from .helpers import crossentropy
from .helpers import mlp
from .helpers import normalized_mlp
from .helpers import regression
from .helpers import weights


def _maml(**kwargs):
    return compiled(keras_meta.MAML(mlp(), 0.1, **kwargs))


def _refuses(error, match):
    return pytest.raises(error, match=f"(?s){match}")


# Inputs.


@pytest.mark.parametrize("method", ["call", "fit", "evaluate"])
def test_inputs_that_are_no_dict(method):
    learner = _maml()
    x = np.zeros([3, 5, 2], "float32")
    with _refuses(TypeError, "a dict with the keys.*'query_x'.*Received: "):
        if method == "call":
            learner(x)
        else:
            getattr(learner, method)(x, x[..., :1], verbose=0)


@pytest.mark.parametrize("key", ["support_x", "support_y", "query_x"])
def test_a_missing_key(key):
    x, y = regression()
    del x[key]
    with _refuses(ValueError, rf"must have the keys.*Missing: \['{key}'\]"):
        _maml().fit(x, y, verbose=0)


def test_a_misnamed_key():
    x, _ = regression()
    x["query"] = x.pop("query_x")
    with _refuses(ValueError, r"Missing: \['query_x'\]. Unknown: \['query'\]"):
        _maml()(x)


def test_query_labels_among_the_inputs():
    x, y = regression()
    with _refuses(
        ValueError, r"Unknown: \['query_y'\].*yield `\(x, query_y\)`"
    ):
        _maml()({**x, "query_y": y})


@pytest.mark.parametrize(
    "key", ["support_x", "support_y", "query_x", "support_sample_weight"]
)
def test_different_numbers_of_tasks(key):
    x, _ = regression()
    x["support_sample_weight"] = np.ones([3, 5], "float32")
    x[key] = x[key][:2]
    with _refuses(
        ValueError,
        rf"`{key}`.*the same number of tasks \(axis 0\).*{key}.shape=\(2",
    ):
        _maml()(x)


@pytest.mark.parametrize("key", ["support_y", "support_sample_weight"])
def test_different_numbers_of_support_examples(key):
    x, _ = regression()
    x["support_sample_weight"] = np.ones([3, 5], "float32")
    x[key] = x[key][:, :4]
    with _refuses(
        ValueError,
        rf"`{key}`.*same number of examples \(axis 1\).*{key}.shape=\(3, 4",
    ):
        _maml()(x)


def test_support_and_query_sets_of_different_rank():
    x, _ = regression()
    x["query_x"] = x["query_x"][:, 0]
    with _refuses(
        ValueError,
        r"`support_x` and `query_x` must have the same rank.*"
        r"support_x.shape=\(3, 5, 2\), query_x.shape=\(3, 2\)",
    ):
        _maml()(x)


def test_labels_without_a_task_axis():
    x, _ = classification()
    x["support_y"] = x["support_y"][0]
    with _refuses(
        ValueError, r"`support_y` must have the shape \[tasks, examples"
    ):
        _maml()(x)


def test_adapt_checks_its_examples():
    x, _ = regression()
    with _refuses(ValueError, r"same number of examples \(axis 1\)"):
        _maml().adapt(x["support_x"][0], x["support_y"][0][:2])


# Values.


def _classifier(jit_compile=False, optimizer=None):
    model = mlp(3)
    return compiled(
        keras_meta.MAML(model, 0.1),
        optimizer or keras.optimizers.Adam(0.1),
        crossentropy(),
        jit_compile,
    )


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("label", [3, -1])
def test_labels_outside_of_the_ways_stop_fit(label, jit_compile):
    learner = _classifier(jit_compile, keras.optimizers.SGD(0.1))
    x, y = classification()
    x["support_y"][1, 2] = label
    before = weights(learner)
    with _refuses(
        ValueError, r"Labels must be in 0..2.*3 outputs. Task 1 .*Relabel"
    ):
        learner.fit(x, y, batch_size=2, verbose=0)
    assert_same_weights(learner, before)


@pytest.mark.parametrize("method", ["evaluate", "call", "adapt"])
def test_labels_outside_of_the_ways_stop(method):
    learner = _classifier()
    x, y = classification()
    x["support_y"][1, 2] = 3
    task = 0 if method == "adapt" else 1
    with _refuses(ValueError, f"Labels must be in 0..2.*Task {task} "):
        if method == "evaluate":
            learner.evaluate(x, y, batch_size=2, verbose=0)
        elif method == "adapt":
            learner.adapt(x["support_x"][1], x["support_y"][1])
        else:
            learner(x)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_labels_outside_of_the_ways_stop_predict(jit_compile):
    learner = _classifier(jit_compile)
    x, _ = classification()
    x["support_y"][1, 2] = 3
    with _refuses(ValueError, "Labels must be in 0..2.*Task 1 "):
        learner.predict(x, batch_size=2, verbose=0)


@pytest.mark.parametrize("labels", ["support_y", "query_y"])
def test_good_labels_train_after_a_failure(labels):
    learner = _classifier()
    x, y = classification()
    wrong, wrong_y = classification()
    {**wrong, "query_y": wrong_y}[labels][0, 0] = 7
    # Keras itself refuses query labels, without XLA by TensorFlow's error.
    errors = (ValueError, FloatingPointError, tf.errors.InvalidArgumentError)
    with pytest.raises(errors):
        learner.fit(wrong, wrong_y, batch_size=2, verbose=0)
    history = learner.fit(x, y, batch_size=2, epochs=5, verbose=0)
    losses = history.history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("key", ["support_x", "support_y"])
def test_nan_in_a_support_set_stops_fit_and_leaves_the_weights(
    key, jit_compile
):
    learner = compiled(keras_meta.MetaSGD(mlp()), jit_compile=jit_compile)
    x, y = regression()
    x[key][2, 1, 0] = np.nan
    before = weights(learner)
    with _refuses(
        FloatingPointError,
        "not finite at inner step 0 of task 2 .*data or the model.*contain",
    ):
        learner.fit(x, y, batch_size=3, epochs=3, verbose=0)
    assert_same_weights(learner, before)
    assert learner.optimizer.iterations == 1


def test_nan_in_the_query_labels_stops_fit_and_leaves_the_weights():
    learner = _maml()
    x, y = regression()
    y[1, 0] = np.nan
    before = weights(learner)
    with _refuses(FloatingPointError, "loss of the query sets is not finite"):
        learner.fit(x, y, batch_size=3, verbose=0)
    assert_same_weights(learner, before)


@pytest.mark.parametrize("algorithm", [keras_meta.MAML, keras_meta.Reptile])
@pytest.mark.parametrize("key", ["support_x", "query_x"])
def test_nan_leaves_moving_averages_finite(key, algorithm):
    learner = compiled(
        algorithm(normalized_mlp(), 0.1, batch_statistics="running")
    )
    x, y = regression()
    x[key][2, 1, 0] = np.nan
    with pytest.raises(FloatingPointError):
        learner.fit(x, y, batch_size=3, verbose=0)
    assert all(np.all(np.isfinite(w)) for w in weights(learner))


def test_nan_in_a_support_set_stops_reptile():
    learner = compiled(keras_meta.Reptile(mlp(), steps=2))
    x, y = regression()
    x["support_x"][0, 0, 0] = np.nan
    before = weights(learner)
    with _refuses(FloatingPointError, "inner step 0 of task 0 "):
        learner.fit(x, y, batch_size=3, verbose=0)
    assert_same_weights(learner, before)


@pytest.mark.parametrize(
    "rule",
    [
        keras_meta.GradientDescent(0.1),
        keras_meta.Momentum(0.1),
        keras_meta.Adam(0.1),
    ],
    ids=lambda rule: type(rule).__name__,
)
def test_a_gradient_that_is_not_finite_is_found(rule):
    """Infinity saturates tanh: the loss is finite, its gradient is NaN."""
    learner = compiled(keras_meta.Reptile(mlp(), rule, steps=2))
    x, y = regression()
    x["support_x"][1, 0, 0] = np.inf
    before = weights(learner)
    with _refuses(FloatingPointError, "inner step 1 of task 1 "):
        learner.fit(x, y, batch_size=3, verbose=0)
    assert_same_weights(learner, before)


@pytest.mark.parametrize("method", ["predict", "evaluate"])
def test_a_failure_outside_of_training_does_not_stop_a_later_fit(method):
    learner = _maml()
    x, y = regression()
    wrong, _ = regression()
    wrong["support_x"][0, 0, 0] = np.nan
    arguments = (wrong, y) if method == "evaluate" else (wrong,)
    try:
        getattr(learner, method)(*arguments, verbose=0)
    except FloatingPointError:
        pass
    losses = learner.fit(x, y, batch_size=3, verbose=0).history["loss"]
    assert np.all(np.isfinite(losses))


@pytest.mark.parametrize("algorithm", [keras_meta.MAML, keras_meta.Reptile])
def test_a_diverging_inner_loop_says_so(algorithm):
    model = mlp(activation="relu")
    learner = compiled(algorithm(model, 1e8, 5))
    before = weights(learner)
    x, y = regression()
    with _refuses(
        FloatingPointError,
        "not finite at inner step [1-9].*diverges: lower.*learning rate",
    ):
        learner.fit(x, y, batch_size=3, verbose=0)
    assert_same_weights(learner, before)


def test_a_failure_inside_of_several_steps_per_execution_is_found():
    learner = compiled(keras_meta.MAML(mlp(), 0.1), steps_per_execution=3)
    x, y = regression(tasks=9)
    x["support_x"][4, 0, 0] = np.nan
    with _refuses(FloatingPointError, "inner step 0 of task 1 "):
        learner.fit(x, y, batch_size=3, shuffle=False, verbose=0)
    assert all(np.all(np.isfinite(w)) for w in weights(learner))


# Models and what adapts.


def test_a_model_without_trainable_weights():
    model = mlp()
    model.trainable = False
    with _refuses(
        ValueError, f"'{model.name}' has no trainable weights.*trainable = Tru"
    ):
        keras_meta.MAML(model)


@pytest.mark.parametrize("adapt", ["normalization", [], lambda v: False])
def test_adapting_nothing(adapt):
    with _refuses(
        ValueError, "`adapt` selects no trainable weight.*adapt=.*kernel"
    ):
        keras_meta.MAML(mlp(), adapt=adapt)


def test_an_unknown_layer():
    with _refuses(ValueError, "`adapt` names a layer .*'tail'.*'body', 'head'"):
        keras_meta.MAML(mlp(), adapt=["tail"])


def test_a_layer_of_another_model():
    other = keras.layers.Dense(1, name="other")
    with _refuses(ValueError, "`adapt` names a layer .*name=other"):
        keras_meta.MAML(mlp(), adapt=[other])


@pytest.mark.parametrize("adapt", ["tail", 3, None])
def test_a_selection_that_is_none(adapt):
    with _refuses(ValueError, f"`adapt` must be 'all'.*adapt={adapt!r}"):
        keras_meta.MAML(mlp(), adapt=adapt)


def test_an_unbuilt_model():
    model = keras.Sequential([keras.layers.Dense(1, name="lazy")])
    with _refuses(
        ValueError, "`model` must be built.*'lazy'.*Call the model once"
    ):
        keras_meta.MAML(model)


@pytest.mark.parametrize("model", [None, lambda x: x, keras.layers.Dense(1)])
def test_what_is_no_model(model):
    with _refuses(TypeError, "`model` must be a keras.Model. Received: <|None"):
        keras_meta.MAML(model)


# Arguments.


@pytest.mark.parametrize("steps", [0, -1, 1.5, True, "2"])
def test_bad_steps(steps):
    with _refuses(
        ValueError, f"`steps` must be an integer of at least 1.*{steps!r}"
    ):
        keras_meta.MAML(mlp(), steps=steps)


def test_bad_steps_elsewhere():
    with _refuses(ValueError, "`evaluation_steps` must be .* least 0.*=-1"):
        keras_meta.MAML(mlp(), evaluation_steps=-1)
    x, _ = regression()
    for call in (
        lambda: _maml().trajectory(x, -1),
        lambda: _maml().adapt(x["support_x"][0], x["support_y"][0], -1),
    ):
        with _refuses(ValueError, "`steps` must be an integer of at least 0"):
            call()


def test_bad_batch_statistics():
    with _refuses(
        ValueError, "`batch_statistics` must be one of.*'running'.*='query'"
    ):
        keras_meta.MAML(mlp(), batch_statistics="query")


def test_an_unknown_sharing_of_rates():
    with _refuses(ValueError, "`learn` must be one of.*'layer'.*='layers'"):
        keras_meta.GradientDescent(learn="layers")


@pytest.mark.parametrize("rate", [None, "0.1", True])
def test_a_fixed_rate_that_is_no_number(rate):
    with _refuses(ValueError, f"`learning_rate` must be a number.*{rate!r}"):
        keras_meta.GradientDescent(rate)


def test_an_update_rule_that_is_none():
    with _refuses((TypeError, ValueError), "`update_rule`.*'sgd'"):
        keras_meta.MAML(mlp(), "sgd")


def test_an_optimizer_as_an_update_rule():
    with _refuses((TypeError, ValueError), "`update_rule`.*GradientDescent"):
        keras_meta.MAML(mlp(), keras.optimizers.SGD(0.1))


@pytest.mark.parametrize("name", ["clip_norm", "clip_value"])
def test_a_clip_that_is_not_positive(name):
    with _refuses(ValueError, f"`{name}` must be positive.*{name}=0"):
        keras_meta.GradientDescent(**{name: 0})


@pytest.mark.parametrize(
    "make",
    [
        lambda: keras_meta.Momentum(momentum=1.0),
        lambda: keras_meta.Adam(beta_1=1.0),
        lambda: keras_meta.Adam(beta_2=-0.1),
    ],
)
def test_a_decay_out_of_range(make):
    with _refuses(ValueError, r"must be in \[0, 1\). Received: \w+=-?\d"):
        make()


@pytest.mark.parametrize("step_weights", [[0.5, 0.5], "linear", []])
def test_bad_step_weights(step_weights):
    with _refuses(
        ValueError, "`step_weights` must be None, 'uniform' or 3 numbers"
    ):
        keras_meta.MAML(mlp(), steps=3, step_weights=step_weights)


def test_a_number_as_step_weights():
    with _refuses(ValueError, "`step_weights` must be .*step_weights=0.5"):
        keras_meta.MAML(mlp(), steps=1, step_weights=0.5)


def test_second_order_reptile():
    with _refuses(ValueError, "Reptile .*first_order=False.*keras_meta.MAML"):
        keras_meta.Reptile(mlp(), first_order=False)


def test_reptile_with_learned_rates():
    rule = keras_meta.GradientDescent(0.1, learn="scalar")
    with _refuses(ValueError, "Reptile cannot learn rates.*learn=None"):
        keras_meta.Reptile(mlp(), rule)


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, "4"])
def test_a_bad_batch_size(batch_size):
    with _refuses(
        ValueError, f"`batch_size` must be .*at least 1.*{batch_size}"
    ):
        keras_meta.Reptile(mlp(), batch_size=batch_size)


def test_an_unknown_argument():
    with pytest.raises((TypeError, ValueError), match="inner_steps"):
        keras_meta.MAML(mlp(), inner_steps=3)


# Losses.


def test_no_loss_at_all():
    x, _ = regression()
    learner = keras_meta.MAML(mlp())
    match = r"needs a loss. Call `compile\(loss=...\)` or pass `inner_loss="
    with _refuses(ValueError, match):
        learner(x)
    learner.compile("sgd")
    with _refuses(ValueError, match):
        learner(x)


@pytest.mark.parametrize("loss", [{"head": "mse"}, ["mse"]])
def test_a_loss_for_each_output(loss):
    x, y = regression()
    learner = compiled(keras_meta.MAML(mlp()), loss=loss)
    with _refuses(ValueError, "needs one loss for all.*Pass `inner_loss=`"):
        learner.fit(x, y, verbose=0)


def test_a_loss_that_does_not_reduce():
    x, y = regression()
    loss = keras.losses.MeanSquaredError(reduction=None)
    learner = compiled(keras_meta.MAML(mlp(), inner_loss=loss))
    with _refuses(ValueError, "`inner_loss` must reduce.*=None; use"):
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
    with _refuses(
        ValueError,
        rf"inner loss '{name}' needs `support_y` of the shape \(2, 6, 3\)"
        r".*Received: support_y.shape=\(2, 6\). Use a loss that fits",
    ):
        learner(x)


def test_one_hot_labels_for_a_sparse_loss():
    x, _ = classification()
    x["support_y"] = np.eye(3, dtype="float32")[x["support_y"]]
    learner = compiled(keras_meta.MAML(mlp(3)), loss=crossentropy())
    with _refuses(
        ValueError, r"needs `support_y` of the shape \(2, 6\).*\(2, 6, 3\)"
    ):
        learner(x)


@pytest.mark.parametrize("outputs", [2, 1])
def test_targets_that_would_broadcast(outputs):
    """Shape `[..., 1]` against `[..., 2]` would be compared silently."""
    x, y = regression(outputs=3 - outputs)
    learner = compiled(keras_meta.MAML(mlp(outputs)))
    with _refuses(ValueError, "'mean_squared_error' needs `support_y`"):
        learner.fit(x, y, verbose=0)


def test_targets_without_their_last_axis_are_understood():
    x, y = regression()
    learner = compiled(keras_meta.MAML(mlp(), 0.1))
    expected = learner(x)
    flat = {**x, "support_y": x["support_y"][..., 0]}
    np.testing.assert_array_equal(learner(flat), expected)


# Operations that would be differentiated wrongly.


class _DirectPooling(keras.layers.Layer):
    def call(self, x):
        return tf.nn.max_pool2d(x, 2, 2, "VALID", name="pool")


def _pooling_net():
    return keras.Sequential(
        [
            keras.Input([6, 6, 1]),
            keras.layers.Conv2D(2, 3, activation="tanh"),
            _DirectPooling(),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )


def _pooling_learner(jit_compile, **kwargs):
    return compiled(
        keras_meta.MAML(_pooling_net(), 0.1, **kwargs),
        loss=crossentropy(),
        jit_compile=jit_compile,
    )


def test_direct_max_pooling_is_refused_under_xla():
    learner = _pooling_learner(True)
    with _refuses(
        ValueError, "max-pooling operation directly.*wrong under XLA.*Max"
    ):
        learner.train_on_batch(*classification(shape=(6, 6, 1)))


@pytest.mark.parametrize(
    ("jit_compile", "first_order"), [(False, False), (True, True)]
)
def test_direct_max_pooling_is_accepted_elsewhere(jit_compile, first_order):
    learner = _pooling_learner(jit_compile, first_order=first_order)
    data = classification(shape=(6, 6, 1))
    assert np.isfinite(learner.train_on_batch(*data))


def test_direct_moments_are_refused_at_second_order():
    class Standardize(keras.layers.Layer):
        def call(self, x):
            mean, variance = tf.nn.moments(x, [-1], keepdims=True)
            return (x - mean) / tf.sqrt(variance + 1e-3)

    model = keras.Sequential(
        [
            keras.Input([2]),
            keras.layers.Dense(4),
            Standardize(),
            keras.layers.Dense(1),
        ]
    )
    learner = compiled(keras_meta.MAML(model, 0.1))
    with _refuses(ValueError, "calls tf.nn.moments .*first_order=True"):
        learner.train_on_batch(*regression())
    learner = compiled(keras_meta.MAML(model, 0.1, first_order=True))
    assert np.isfinite(learner.train_on_batch(*regression()))
