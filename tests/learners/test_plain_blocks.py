"""Tasks one by one, without XLA, give the step of all tasks at once."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta
from keras_meta.execution import task_blocks

from .helpers import assert_equal_fits
from .helpers import assert_same_weights
from .helpers import classification
from .helpers import compiled
from .helpers import convolutional_net
from .helpers import crossentropy
from .helpers import dataset
from .helpers import mlp
from .helpers import with_slow

pytestmark = pytest.mark.skipif(
    bool(tf.config.list_logical_devices("GPU")),
    reason="blocks are for the CPU",
)

_BATCHES = 2
_TASKS = 3


def _fit(make, data, **options):
    keras.utils.set_random_seed(0)
    learner = compiled(
        make(), loss=crossentropy(), metrics=["accuracy"], **options
    )
    history = learner.fit(dataset(data), epochs=2, verbose=0, shuffle=False)
    return learner, history.history


def _images():
    return classification(_BATCHES, _TASKS, shape=(6, 6, 1))


def _maml(**options):
    options = {"update_rule": 0.1, "pool": "max", **options}
    net = convolutional_net(pool=options.pop("pool"))
    return keras_meta.MAML(net, **options)


def _per_step():
    rule = keras_meta.GradientDescent(0.1, learn="layer_step")
    return _maml(update_rule=rule, steps=2)


def _strange_net():
    """Convolutions for whose derivatives the CPU has no kernels."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input([6, 6, 1]),
            layers.Conv2D(4, 3, dilation_rate=2),
            layers.Conv2D(4, 1, groups=2, activation="tanh"),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )


_LEARNERS = {
    "one step": _maml,
    "laid out": lambda: _maml(steps=3, pool="average"),
    "loop": lambda: _maml(update_rule=0.01, steps=12),
    "checkpoints": lambda: _maml(
        steps=4, meta_gradient=keras_meta.Unrolled("sqrt")
    ),
    "first order": lambda: _maml(steps=3, meta_gradient="first_order"),
    "support statistics": lambda: _maml(batch_statistics="support"),
    "step weights": lambda: _maml(steps=2, step_weights="uniform"),
    "rates of steps": _per_step,
    "anil": lambda: keras_meta.ANIL(convolutional_net(), 0.1, steps=2),
    "reptile": lambda: keras_meta.Reptile(
        convolutional_net(), steps=3, batch_size=2
    ),
    "implicit": lambda: keras_meta.ImplicitMAML(
        convolutional_net(), 0.1, steps=3
    ),
    "unusual": lambda: keras_meta.MAML(_strange_net(), 0.1, steps=2),
}


# What the others nearly cover.
_COVERED = ("one step", "first order", "support statistics")


@pytest.mark.slow_variants(
    "step weights",
    "anil",
    "checkpoints",
    "implicit",
    "laid out",
    "loop",
    "rates of steps",
    "reptile",
    "unusual",
)
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", with_slow(_LEARNERS, _COVERED))
def test_learners(name, plain):
    make, data = _LEARNERS[name], _images()
    one_by_one = _fit(make, data, jit_compile=True)
    assert_equal_fits(one_by_one, _fit(make, data, run_eagerly=True), 1e-9)
    assert plain == [(1, False)]


@pytest.mark.slow
def test_fused_kernels_equal_float64(plain):
    """In float32 normalization is computed by TensorFlow's fused kernels."""
    learner, history = _fit(_LEARNERS["laid out"], _images(), jit_compile=True)
    assert plain == [(1, False)]
    keras.config.set_floatx("float64")
    try:
        expected, losses = _fit(
            _LEARNERS["laid out"], _images(), run_eagerly=True
        )
    finally:
        keras.config.set_floatx("float32")
    np.testing.assert_allclose(history["loss"], losses["loss"], atol=1e-5)
    assert_same_weights(learner, expected, atol=1e-4)


@pytest.mark.slow
def test_a_failure_names_the_task(plain):
    x, y = _images()
    x["support_x"][0, 2] = np.nan
    with pytest.raises(FloatingPointError, match="inner step 0 of task 2 "):
        _fit(_maml, (x, y), jit_compile=True)
    assert plain == [(1, False)]


class _Scale(keras.layers.Layer):
    """A layer that no rule knows."""

    def build(self, shape):
        self.scale = self.add_weight(shape=shape[1:], initializer="ones")

    def call(self, x):
        return x * self.scale


def _unknown_layer():
    layers = convolutional_net().layers
    return keras_meta.MAML(
        keras.Sequential([keras.Input([6, 6, 1]), *layers[:-1], _Scale()]),
        0.1,
        steps=2,
    )


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("make", "jit_compile"), [(_maml, False), (_unknown_layer, "auto")]
)
def test_also_where_xla_is_off(make, jit_compile, plain):
    one_by_one = _fit(make, _images(), jit_compile=jit_compile)
    assert not one_by_one[0].jit_compile
    assert plain == [(1, False)]
    assert_equal_fits(one_by_one, _fit(make, _images(), run_eagerly=True), 1e-9)


@pytest.mark.slow
def test_random_numbers_go_through_xla(plain):
    def make():
        layers = convolutional_net().layers
        net = keras.Sequential(
            [keras.Input([6, 6, 1]), *layers[:-1], keras.layers.Dropout(0.5)]
        )
        return keras_meta.MAML(net, 0.1)

    _, history = _fit(make, _images(), jit_compile=True)
    assert np.isfinite(history["loss"]).all()
    assert not plain


def test_what_is_large_and_convolves_is_faster_plain():
    net, large = convolutional_net(), 10**7
    assert task_blocks.is_faster_plain(net, large)
    assert not task_blocks.is_faster_plain(net, 10**6)
    assert not task_blocks.is_faster_plain(mlp(), large)
    assert not task_blocks.is_faster_plain(_strange_net(), large)
