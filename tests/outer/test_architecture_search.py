"""Choosing operations by gradient."""

import keras
import numpy as np
import pytest

import keras_meta
from tests.outer.tuners import fit
from tests.outer.tuners import gradients
from tests.outer.tuners import linear_data

DATA, VALIDATION = linear_data(), linear_data(8, seed=1)


def toy_training_loss(y_true, y_pred):
    """`w^2 - 2 a w + a^2`."""
    a, w = y_pred[:, 0], y_pred[:, 1]
    return w**2 - 2 * a * w + a**2


def toy_validation_loss(y_true, y_pred):
    """`a w - 2 a + 1`."""
    a, w = y_pred[:, 0], y_pred[:, 1]
    return a * w - 2 * a + 1


def toy(xi):
    """The quadratic losses of the paper, with `a` in the range of a mixture."""
    x = keras.Input([1])
    four = keras.layers.Rescaling(4.0, name="four")
    a = keras_meta.MixedOperation([four, keras_meta.Zero(name="zero")])(x)
    w = keras.layers.Dense(1, use_bias=False)(x)
    model = keras.Model(x, keras.layers.Concatenate()([a, w]))
    model.set_weights([np.zeros([2]), np.full([1, 1], -2.0)])
    search = keras_meta.ArchitectureSearch(
        model, 0.4, virtual_rate=xi, inner_loss=toy_training_loss
    )
    search.compile(keras.optimizers.SGD(0.3), toy_validation_loss)
    return search


@pytest.mark.parametrize("xi", [0.0, 0.25, 0.5, 1.0])
def test_toy_ends_where_the_virtual_rate_says(xi):
    """At `a = w = 2 / (1 + 2 xi)`; the best is 1, as of a Newton step."""
    search = toy(xi)
    data = np.ones([1, 1]), np.ones([1, 1])
    fit(search, data, data, steps=200)
    found = search.predict(np.ones([1, 1]), verbose=0)[0]
    np.testing.assert_allclose(found, 2 / (1 + 2 * xi), atol=1e-6)


def two_ways(xi=None, rule=0.1, **options):
    """A search between two dense layers."""
    keras.utils.set_random_seed(0)
    x = keras.Input([3])
    candidates = [
        keras.layers.Identity(name="skip"),
        keras.layers.Dense(3, "tanh", name="tanh"),
        keras_meta.Zero(name="none"),
        keras.Sequential(
            [
                keras.layers.Dense(3, "softplus"),
                keras.layers.BatchNormalization(scale=False, center=False),
            ],
            name="normalized",
        ),
    ]
    mixed = keras_meta.MixedOperation(candidates, name="choice")
    mixed.logits.assign([0.3, -0.1, 0.2, 0.0])
    model = keras.Model(x, keras.layers.Dense(1, name="head")(mixed(x)))
    search = keras_meta.ArchitectureSearch(
        model, rule, virtual_rate=xi, **options
    )
    search.compile(keras.optimizers.SGD(1.0), "mse", run_eagerly=True)
    return search


def weights_of(search):
    """Values of all weights that training moves."""
    logits = search.choices[0].logits.raw
    return [
        v.numpy() for v in search.model.trainable_variables if v is not logits
    ]


@pytest.mark.parametrize("xi", [0.0, 0.2, None])
def test_gradients_are_central_differences(xi):
    """Of the loss after the virtual step, which takes a full product."""
    search = two_ways(xi, keras_meta.Momentum(0.1))
    # Let the velocity be other than zero.
    fit(search, DATA, VALIDATION)
    raw = search.choices[0].logits.raw
    variables = search.variables
    before = [v.numpy() for v in variables]

    def restore():
        for v, value in zip(variables, before, strict=True):
            v.assign(value)

    found = gradients(search, DATA, VALIDATION)[0]
    differences = np.zeros(4)
    for i in range(4):
        for sign in (1, -1):
            restore()
            raw.assign(raw + sign * 1e-5 * np.eye(4)[i])
            loss = fit(search, DATA, VALIDATION)["loss"]
            differences[i] += sign * loss / 2e-5
    np.testing.assert_allclose(found, differences, atol=1e-8)


@pytest.mark.parametrize("xi", [0.0, 0.2, None])
def test_weights_take_the_step_of_keras_at_the_new_logits(xi):
    """Not the virtual one, whose rate is another."""
    search = two_ways(xi)
    plain = keras.models.clone_model(search.model)
    plain.set_weights(search.model.get_weights())
    fit(search, DATA, VALIDATION)
    (mixed,) = [m for m in plain.layers if m.name == "choice"]
    mixed.logits.assign(search.choices[0].logits.numpy())
    mixed.logits.trainable = False
    plain.compile(keras.optimizers.SGD(0.1), "mse")
    plain.train_on_batch(*DATA)
    for a, b in zip(search.model.weights, plain.weights, strict=True):
        # Keras keeps its rate in float32.
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)


def test_each_step_moves_its_own():
    """The outer step only the logits, the training step only the weights."""
    search = two_ways()
    logits, weights = search.choices[0].logits.numpy(), weights_of(search)
    search.optimizer.learning_rate = 0.0
    fit(search, DATA, VALIDATION)
    np.testing.assert_array_equal(search.choices[0].logits.numpy(), logits)
    assert any(map(np.any, map(np.subtract, weights, weights_of(search))))
    search = two_ways(rule=0.0)
    fit(search, DATA, VALIDATION)
    assert np.all(search.choices[0].logits.numpy() != logits)
    for before, after in zip(weights, weights_of(search), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("xi, same", [(0.0, True), (0.2, False)])
def test_first_order_sees_no_training_data(xi, same):
    found = [
        gradients(two_ways(xi), data, VALIDATION)[0]
        for data in (DATA, linear_data(seed=2))
    ]
    assert np.array_equal(*found) == same


def test_the_validation_loss_takes_the_statistics_that_are_asked_for():
    batch, running = (
        gradients(two_ways(0.0, batch_statistics=statistics), DATA, VALIDATION)[
            0
        ]
        for statistics in ("batch", "running")
    )
    assert np.abs(batch - running).max() > 1e-3


def test_logs_say_what_is_chosen():
    search = two_ways()
    search.optimizer.learning_rate = 0.0
    logs = fit(search, DATA, VALIDATION)
    shares = np.exp([0.3, -0.1, 0.2, 0.0])
    shares /= shares.sum()
    entropy = -np.sum(shares * np.log(shares)) / np.log(4)
    assert logs["entropy"] == pytest.approx(entropy, rel=1e-9)
    assert logs["skips"] == 1
    assert search.architecture == {"choice": "skip"}
    # `Zero` is the strongest, but not chosen.
    search.choices[0].logits.assign([0.0, 1.0, 2.0, -1.0])
    assert fit(search, DATA, VALIDATION)["skips"] == 0
    assert search.architecture == {"choice": "tanh"}


def test_a_choice_may_be_shared():
    logits = keras_meta.Hyperparameter([0.0, 0.0], name="cell")
    x = y = keras.Input([3])
    for i in range(2):
        candidates = [
            keras.layers.Identity(name="skip"),
            keras.layers.Dense(3, "tanh", name="tanh"),
        ]
        y = keras_meta.MixedOperation(candidates, logits, name=f"mixed_{i}")(y)
    model = keras.Model(x, keras.layers.Dense(1)(y))
    search = keras_meta.ArchitectureSearch(model, 0.1)
    search.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
    assert [c.name for c in search.choices] == ["mixed_0"]
    assert len(gradients(search, DATA, VALIDATION)) == 1
    assert len({*search.architecture.values()}) == 1


def test_a_search_continues_from_a_file(tmp_path):
    search = two_ways(0.2, keras_meta.Momentum(0.1))
    search.compile(keras.optimizers.Adam(0.1), "mse", run_eagerly=True)
    fit(search, DATA, VALIDATION, 5)
    search.save(tmp_path / "search.keras")
    loaded = keras.models.load_model(tmp_path / "search.keras")
    loaded.run_eagerly = True
    assert loaded.virtual_rate == 0.2
    assert fit(loaded, DATA, VALIDATION, 5) == fit(search, DATA, VALIDATION, 5)
    for a, b in zip(search.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    derived = loaded.derive()
    derived.save(tmp_path / "derived.keras")
    again = keras.models.load_model(tmp_path / "derived.keras")
    x = DATA[0]
    np.testing.assert_array_equal(
        derived.predict(x, verbose=0), again.predict(x, verbose=0)
    )


def with_decay():
    search = two_ways(0.0)
    decay = keras_meta.LearnedL2(0.1, name="decay")
    search.model.get_layer("head").kernel.regularizer = decay
    again = keras_meta.ArchitectureSearch(search.model, virtual_rate=0.0)
    again.compile("adam", "mse")
    fit(again, DATA, VALIDATION)


def without_choice():
    model = keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])
    keras_meta.ArchitectureSearch(
        model, keras_meta.GradientDescent(0.1, learn="scalar")
    )


@pytest.mark.parametrize(
    "make, words",
    [
        (with_decay, "virtual_rate=0.*does not on 'decay'"),
        (without_choice, "must have a keras_meta.MixedOperation"),
        (lambda: two_ways(-0.1), "`virtual_rate`.*at least 0"),
        (lambda: two_ways(batch_statistics="support"), "`batch_statistics`"),
        (
            lambda: two_ways(
                0.1, keras_meta.GradientDescent(0.1, learn="scalar")
            ),
            "must be its own.*virtual_rate=0.1",
        ),
    ],
)
def test_what_cannot_be_learned_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_divergence_is_undone():
    search = two_ways(rule=1e200)
    before = [v.numpy() for v in search.model.variables]
    with pytest.raises(FloatingPointError, match="The step was undone"):
        fit(search, DATA, VALIDATION, steps=3)
    assert all(np.isfinite(v.numpy()).all() for v in search.model.variables)
    assert len(before) == len(search.model.variables)
