import keras
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_meta.update_rules.rmsprop import RMSprop

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
@given(rate=rates, rho=decays, epsilon=st.sampled_from([1e-7, 1e-3, 0.5]))
def test_rmsprop_equals_the_optimizer_of_keras(rate, rho, epsilon):
    rule = RMSprop(rate, rho=rho, epsilon=epsilon)
    points = run(attached(rule), start(), 6)
    optimizer = keras.optimizers.RMSprop(rate, rho=rho, epsilon=epsilon)
    variables = [keras.Variable(p, dtype="float64") for p in start()]
    optimizer.build(variables)
    for point in points:
        optimizer.apply(gradients([v.value for v in variables]), variables)
        # Keras keeps epsilon in float32.
        assert_close(point, [v.value for v in variables], 1e-6)


def test_config_round_trip():
    rule = RMSprop(0.25, "layer", rho=0.5, epsilon=0.125, clip_norm=1.0)
    twin = RMSprop.from_config(rule.get_config())
    assert twin.get_config() == rule.get_config()
    assert twin.rho == 0.5


@pytest.mark.parametrize(
    ("name", "value"), [("rho", 1.0), ("rho", -0.1), ("epsilon", 0.0)]
)
def test_arguments_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be .*{name}={value}"):
        RMSprop(**{name: value})
