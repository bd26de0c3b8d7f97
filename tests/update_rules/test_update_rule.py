import pytest
import tensorflow as tf

from keras_meta.update_rules.adam import Adam
from keras_meta.update_rules.gradient_descent import GradientDescent
from keras_meta.update_rules.momentum import Momentum
from keras_meta.update_rules.update_rule import UpdateRule

from .problems import assert_close
from .problems import attached
from .problems import run
from .problems import start

RULES = [GradientDescent, Momentum, Adam]


@pytest.mark.parametrize("rule_class", RULES)
@pytest.mark.parametrize("learn", [None, "layer_step", "parameter"])
def test_tasks_move_as_if_each_were_alone(rule_class, learn):
    rule = attached(rule_class(0.1, learn))
    together = run(rule, start(3), 4)
    for task in range(3):
        alone = run(rule, [p[task] for p in start(3)], 4)
        assert_close([[p[task] for p in step] for step in together], alone)


@pytest.mark.slow_variants("Adam-True", "GradientDescent-True", "Momentum-True")
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("rule_class", RULES)
def test_traced_steps_equal_eager_ones(rule_class, jit_compile):
    rule = attached(rule_class(0.1, "step", clip_norm=1.0))
    traced = tf.function(
        lambda *params: run(rule, params, 4),
        autograph=False,
        jit_compile=jit_compile,
    )
    assert_close(traced(*start(2)), run(rule, start(2), 4), 1e-11)


def test_the_base_class_names_what_is_missing():
    class Nothing(UpdateRule):
        pass

    rule = attached(Nothing())
    with pytest.raises(NotImplementedError, match="Nothing must implement"):
        rule.init_state([])
    with pytest.raises(NotImplementedError, match="Nothing must implement"):
        rule.update([], [], None)
