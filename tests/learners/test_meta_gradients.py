"""Meta-gradients are the derivatives of the outer loss.

With plain gradient descent of rate 1 as the outer optimizer a training step
moves every variable by its gradient; the loss that the same step reports is
differentiated numerically.
"""

import keras
import numpy as np
import pytest

import keras_meta

from .helpers import classification
from .helpers import compiled
from .helpers import convolutional_net
from .helpers import crossentropy
from .helpers import mlp
from .helpers import normalized_mlp
from .helpers import regression
from .helpers import weights

pytestmark = pytest.mark.usefixtures("float64")

_STEP = 2e-5


def _train(learner, data):
    """Takes a training step; returns the loss that it started from."""
    learner.reset_metrics()
    return learner.train_on_batch(*data, return_dict=True)["loss"]


def _assert_exact(learner, data, loss):
    compiled(learner, keras.optimizers.SGD(1.0), loss)
    learner.optimizer.build(learner.trainable_variables)
    start = weights(learner)
    variables = learner.trainable_variables
    before = [v.numpy() for v in variables]
    _train(learner, data)
    gradients = [
        old - v.numpy() for old, v in zip(before, variables, strict=True)
    ]
    rng = np.random.default_rng(1)
    sizes = []
    for variable, gradient in zip(variables, gradients, strict=True):
        direction = rng.normal(size=gradient.shape)
        direction /= np.linalg.norm(direction)
        losses = []
        for sign in (1, -1):
            for w, value in zip(learner.weights, start, strict=True):
                w.assign(value)
            variable.assign_add(sign * _STEP * direction)
            losses.append(_train(learner, data))
        numeric = (losses[0] - losses[1]) / (2 * _STEP)
        exact = np.sum(gradient * direction)
        np.testing.assert_allclose(
            exact, numeric, rtol=1e-6, atol=1e-9, err_msg=variable.path
        )
        sizes.append(abs(numeric))
    assert max(sizes) > 1e-3


@pytest.mark.slow_variants("1-softplus", "1-tanh", "3-softplus")
@pytest.mark.parametrize("activation", ["tanh", "softplus"])
@pytest.mark.parametrize("steps", [1, 3])
def test_maml(steps, activation):
    learner = keras_meta.MAML(mlp(activation=activation), 0.3, steps)
    _assert_exact(learner, regression(), "mse")


@pytest.mark.parametrize("steps", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_maml_of_a_convolutional_net(steps):
    learner = keras_meta.MAML(convolutional_net(), 0.3, steps)
    data = classification(shape=(6, 6, 1))
    _assert_exact(learner, data, crossentropy())


@pytest.mark.slow
def test_maml_through_max_pooling():
    learner = keras_meta.MAML(convolutional_net(pool="max"), 0.3)
    data = classification(shape=(6, 6, 1))
    _assert_exact(learner, data, crossentropy())


def test_maml_over_a_loop_that_is_not_laid_out():
    _assert_exact(keras_meta.MAML(mlp(), 0.1, 12), regression(), "mse")


@pytest.mark.slow
def test_maml_with_weights_of_support_examples():
    x, y = regression()
    weight = np.random.default_rng(0).uniform(size=[3, 5])
    data = {**x, "support_sample_weight": weight}, y
    _assert_exact(keras_meta.MAML(mlp(), 0.3, 2), data, "mse")


@pytest.mark.slow
@pytest.mark.parametrize("statistics", ["batch", "support", "running"])
def test_maml_with_statistics_of(statistics):
    learner = keras_meta.MAML(
        normalized_mlp(), 0.3, 2, batch_statistics=statistics
    )
    _assert_exact(learner, regression(), "mse")


@pytest.mark.slow
def test_meta_sgd_and_its_rates():
    learner = keras_meta.MetaSGD(mlp(), steps=2)
    assert len(learner.trainable_variables) == 8
    _assert_exact(learner, regression(), "mse")


@pytest.mark.slow
def test_anil():
    _assert_exact(keras_meta.ANIL(mlp(), 0.3, 3), regression(), "mse")


@pytest.mark.slow
def test_maml_of_normalization_alone():
    learner = keras_meta.MAML(normalized_mlp(), 0.3, 2, adapt="normalization")
    _assert_exact(learner, regression(), "mse")


def test_multi_step_loss():
    learner = keras_meta.MAML(mlp(), 0.3, 3, step_weights=[0.2, 0.3, 0.5])
    _assert_exact(learner, regression(), "mse")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("learn", "shapes"),
    [("scalar", [()]), ("step", [(3,)]), ("layer_step", [(2, 3)])],
)
def test_learned_rates(learn, shapes):
    rule = keras_meta.GradientDescent(0.3, learn=learn)
    learner = keras_meta.MAML(mlp(), rule, 3)
    assert [tuple(r.shape) for r in rule.trainable_variables] == shapes
    _assert_exact(learner, regression(), "mse")


@pytest.mark.slow
@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum(nesterov):
    rule = keras_meta.Momentum(0.1, nesterov=nesterov)
    _assert_exact(keras_meta.MAML(mlp(), rule, 3), regression(), "mse")


@pytest.mark.slow
def test_adam_as_the_inner_rule():
    rule = keras_meta.Adam(0.05, epsilon=1e-3)
    _assert_exact(keras_meta.MAML(mlp(), rule, 3), regression(), "mse")


@pytest.mark.slow
def test_clipped_gradients():
    rule = keras_meta.GradientDescent(0.3, clip_norm=0.5)
    _assert_exact(keras_meta.MAML(mlp(), rule, 2), regression(), "mse")


@pytest.mark.slow
def test_an_inner_loss_of_its_own():
    learner = keras_meta.MAML(mlp(), 0.3, 2, inner_loss="log_cosh")
    _assert_exact(learner, regression(), "mse")


@pytest.mark.slow
def test_regularizers_act_on_the_initialization():
    model = mlp()
    model.layers[0].kernel.regularizer = keras.regularizers.L2(0.25)
    learner = keras_meta.MAML(model, 0.3, 2)
    plain = keras_meta.MAML(mlp(), 0.3, 2)
    plain.set_weights(learner.get_weights())
    penalty = 0.25 * np.sum(model.layers[0].kernel.numpy() ** 2)
    data = regression()
    difference = _train(compiled(learner), data) - _train(compiled(plain), data)
    np.testing.assert_allclose(difference, penalty, rtol=1e-9)
    _assert_exact(learner, data, "mse")


@pytest.mark.slow
def test_multi_step_loss_weighs_the_trajectory():
    step_weights = [0.2, 0.3, 0.5]
    learner = compiled(
        keras_meta.MAML(mlp(), 0.3, 3, step_weights=step_weights)
    )
    x, y = regression()
    predictions = learner.trajectory(x).numpy()[1:]
    losses = np.mean((predictions - y) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(
        _train(learner, (x, y)), np.dot(step_weights, losses), rtol=1e-12
    )
