import keras
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_meta.update_rules.gradient_descent import GradientDescent
from keras_meta.update_rules.momentum import Momentum

from .problems import assert_close
from .problems import attached
from .problems import decays
from .problems import few
from .problems import gradients
from .problems import rates
from .problems import run
from .problems import start


@pytest.mark.slow
@few
@given(
    rate=rates,
    momentum=decays,
    nesterov=st.booleans(),
)
def test_momentum_equals_the_optimizer_of_keras(rate, momentum, nesterov):
    # Keras's velocity is ours times minus the rate, which is constant.
    points = run(
        attached(Momentum(rate, momentum=momentum, nesterov=nesterov)),
        start(),
        5,
    )
    optimizer = keras.optimizers.SGD(rate, momentum=momentum, nesterov=nesterov)
    variables = [keras.Variable(p, dtype="float64") for p in start()]
    optimizer.build(variables)
    for point in points:
        optimizer.apply(gradients([v.value for v in variables]), variables)
        assert_close(point, [v.value for v in variables])


def test_zero_momentum_is_gradient_descent():
    expected = run(attached(GradientDescent(0.1)), start(2), 3)
    for nesterov in (False, True):
        rule = attached(Momentum(0.1, momentum=0.0, nesterov=nesterov))
        assert_close(run(rule, start(2), 3), expected)


def test_the_velocity_starts_at_zero_for_every_task():
    rule = attached(Momentum(0.1))
    first = run(rule, start(2), 3)
    assert_close(run(rule, start(2), 3), first, 0)
    state = rule.init_state(start(2))
    assert all((v == 0).numpy().all() for v in state["velocity"])


def test_a_learned_rate_multiplies_the_velocity():
    rule = attached(Momentum(0.1, "step", momentum=0.5))
    rule.weights[0].assign([0.0, 1.0, 0.0])
    points = run(rule, start(), 3)
    grads = gradients(start())
    assert_close(points[0], start())
    expected = [p - 1.5 * g for p, g in zip(start(), grads, strict=True)]
    assert_close(points[1], expected)
    assert_close(points[2], expected)


@pytest.mark.parametrize("momentum", [-0.1, 1.0, 2])
def test_momentum_out_of_range_is_refused(momentum):
    with pytest.raises(ValueError, match="`momentum` must be a number in"):
        Momentum(0.1, momentum=momentum)


def test_config_round_trip():
    rule = Momentum(
        0.2, "layer", momentum=0.7, nesterov=True, clip_norm=3.0, name="rule"
    )
    config = keras.saving.serialize_keras_object(rule)
    copy = keras.saving.deserialize_keras_object(config)
    assert type(copy) is Momentum
    assert copy.get_config() == rule.get_config()
    points = run(attached(rule), start(), 3)
    assert_close(run(attached(copy), start(), 3), points, 0)
