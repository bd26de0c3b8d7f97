"""Choosing operations by gradient."""

import functools

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


@pytest.mark.slow_variants("0.25", "1.0")
@pytest.mark.parametrize("xi", [0.0, 0.25, 0.5, 1.0])
def test_toy_ends_where_the_virtual_rate_says(xi):
    """At `a = w = 2 / (1 + 2 xi)`; the best is 1, as of a Newton step."""
    search = toy(xi)
    data = np.ones([1, 1]), np.ones([1, 1])
    fit(search, data, data, steps=80)
    found = search.predict(np.ones([1, 1]), verbose=0)[0]
    np.testing.assert_allclose(found, 2 / (1 + 2 * xi), atol=1e-6)


def two_ways(xi=None, rule=0.1, **options):
    """A search among four layers, and what its variables are at first."""
    keras.utils.set_random_seed(0)
    x = keras.Input([3])
    candidates = [
        keras.layers.Identity(name="skip"),
        keras.layers.Dense(3, "tanh", name="tanh"),
        keras_meta.Zero(name="none"),
        keras.layers.BatchNormalization(scale=False, name="normalized"),
    ]
    mixed = keras_meta.MixedOperation(candidates, name="choice")
    mixed.logits.assign([0.3, -0.1, 0.2, 0.0])
    model = keras.Model(x, keras.layers.Dense(1, name="head")(mixed(x)))
    search = keras_meta.ArchitectureSearch(
        model, rule, virtual_rate=xi, **options
    )
    search.compile(keras.optimizers.SGD(1.0), "mse", run_eagerly=True)
    return search


class Rewound:
    """A search that takes each step from the same point.

    The velocity of its weights is not zero there.
    """

    def __init__(self, xi):
        self.search = two_ways(xi, keras_meta.Momentum(0.1))
        fit(self.search, DATA, VALIDATION)
        self.raw = self.search.choices[0].logits.raw
        self.before = {id(v): v.numpy() for v in self.search.variables}

    @property
    def logits(self):
        """The logits before a step."""
        return self.before[id(self.raw)]

    def step(self, move=0.0, data=DATA):
        """Returns the logs of a step from the point, with moved logits."""
        for variable in self.search.variables:
            variable.assign(self.before[id(variable)])
        self.raw.assign(self.raw + move)
        return fit(self.search, data, VALIDATION)

    def gradient(self, data=DATA):
        """Returns the gradient by the logits."""
        self.step(data=data)
        return self.logits - self.raw.numpy()


@pytest.fixture(scope="module")
def rewound():
    return functools.cache(Rewound)


@pytest.mark.slow_variants("0.0", "0.2")
@pytest.mark.parametrize("xi", [0.0, 0.2, None])
def test_gradients_are_central_differences(rewound, xi):
    """Of the loss after the virtual step, so the product is exact."""
    kept = rewound(xi)
    # A wrong derivative by any of them shows in a random direction.
    way = np.random.default_rng(0).normal(size=4)
    difference = kept.step(1e-5 * way)["loss"] - kept.step(-1e-5 * way)["loss"]
    slope = kept.gradient() @ way
    assert difference / 2e-5 == pytest.approx(slope, rel=1e-7)


@pytest.mark.slow_variants("0.0-True", "0.2-False", "None-False")
@pytest.mark.parametrize("xi, same", [(0.0, True), (0.2, False), (None, False)])
def test_first_order_sees_no_training_data(rewound, xi, same):
    first = rewound(xi).gradient()
    second = rewound(xi).gradient(linear_data(seed=2))
    assert np.array_equal(first, second) == same


@pytest.mark.slow_variants("0.0", "0.2")
@pytest.mark.parametrize("xi", [0.0, 0.2, None])
def test_weights_take_the_step_of_keras_at_the_new_logits(xi):
    """Not the virtual one, whose rate and logits are others."""
    search = two_ways(xi)
    plain = keras.models.clone_model(search.model)
    plain.set_weights(search.model.get_weights())
    fit(search, DATA, VALIDATION)
    logits = search.choices[0].logits.numpy()
    assert np.abs(logits - [0.3, -0.1, 0.2, 0.0]).max() > 0.1
    plain.get_layer("choice").logits.assign(logits)
    plain.get_layer("choice").logits.trainable = False
    plain.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
    plain.train_on_batch(*DATA)
    for a, b in zip(search.model.weights, plain.weights, strict=True):
        # Keras keeps its rate in float32.
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)


def test_each_step_moves_its_own(rewound):
    """The outer step only the logits, the training step only the weights."""
    kept = rewound(0.0)
    optimizer = kept.search.optimizer
    weights = kept.search.model.trainable_variables
    kept.step()
    after = [v.numpy() for v in weights]
    optimizer.learning_rate = 0.0
    kept.step()
    optimizer.learning_rate = 1.0
    for v, moved in zip(weights, after, strict=True):
        before = kept.before[id(v)]
        assert np.array_equal(before, v.numpy()) == (v is kept.raw)
        assert np.any(before != moved)


@pytest.mark.slow
def test_the_validation_loss_takes_the_statistics_that_are_asked_for():
    batch, running = (
        gradients(two_ways(0.0, batch_statistics=statistics), DATA, VALIDATION)[
            0
        ]
        for statistics in ("batch", "running")
    )
    assert np.abs(batch - running).max() > 1e-3


def test_logs_say_what_is_chosen(rewound):
    kept = rewound(0.0)
    kept.search.optimizer.learning_rate = 0.0
    logits = np.array([0.3, -0.1, 0.2, 0.0])
    logs = kept.step(logits - kept.logits)
    shares = np.exp(logits) / np.exp(logits).sum()
    entropy = -np.sum(shares * np.log(shares)) / np.log(4)
    assert logs["entropy"] == pytest.approx(entropy, rel=1e-9)
    assert logs["skips"] == 1
    assert kept.search.architecture == {"choice": "skip"}
    # `Zero` is the strongest, but not chosen.
    logs = kept.step(np.array([0, 1, 2, -1]) - kept.logits)
    assert logs["skips"] == 0
    assert kept.search.architecture == {"choice": "tanh"}
    kept.search.optimizer.learning_rate = 1.0


@pytest.mark.slow
def test_a_choice_may_be_shared(tmp_path):
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
    search.save(tmp_path / "search.keras")
    loaded = keras.models.load_model(tmp_path / "search.keras")
    assert [c.name for c in loaded.choices] == ["mixed_0"]
    np.testing.assert_array_equal(loaded.hyperparameters["cell"], logits())


@pytest.mark.slow
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


def test_divergence_of_weights_is_undone(rewound):
    kept = rewound(0.0)
    with pytest.raises(FloatingPointError, match="training loss.*undone"):
        kept.step(data=(DATA[0], 1e200 * DATA[1]))
    for v in kept.search.model.variables:
        np.testing.assert_array_equal(v.numpy(), kept.before[id(v)])
