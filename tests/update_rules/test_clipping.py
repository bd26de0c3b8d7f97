import numpy as np
import pytest
import tensorflow as tf

from keras_meta.update_rules.adam import Adam
from keras_meta.update_rules.gradient_descent import GradientDescent
from keras_meta.update_rules.momentum import Momentum

from .problems import assert_close
from .problems import attached
from .problems import run
from .problems import start

RULES = [GradientDescent, Momentum, Adam]


def clipped(grads, **bounds):
    """The clipped gradients: what a step of rate -1 from zero moves by."""
    rule = attached(GradientDescent(-1.0, **bounds))
    params = [tf.zeros_like(g) for g in grads]
    return run(rule, params, 1, lambda _: grads)[0]


@pytest.mark.parametrize("rule_class", RULES)
@pytest.mark.parametrize(
    "bounds", [{"clip_norm": 1.5}, {"clip_value": 0.3}, {}]
)
def test_each_task_is_clipped_as_if_it_were_alone(rule_class, bounds):
    def grads(params):
        return [5 * tf.sin(p) for p in params]

    rule = attached(rule_class(0.1, **bounds))
    params = start(4)
    together = run(rule, params, 3, grads)
    for task in range(4):
        alone = run(rule, [p[task] for p in params], 3, grads)
        assert_close([[p[task] for p in step] for step in together], alone)


def test_long_gradients_are_scaled_to_the_norm_and_short_ones_kept():
    grads = start(2)
    grads = [tf.stack([100 * g[0], 0.01 * g[1]]) for g in grads]
    result = clipped(grads, clip_norm=2.0)
    expected, norm = tf.clip_by_global_norm([g[0] for g in grads], 2.0)
    assert norm > 2
    assert_close([r[0] for r in result], expected)
    assert_close([r[1] for r in result], [g[1] for g in grads])


def test_clipped_norms_equal_the_bound():
    grads = [10 * g for g in start()]
    norm = tf.linalg.global_norm(clipped(grads, clip_norm=0.5))
    assert_close(norm, 0.5)
    values = np.concatenate(
        [c.numpy().ravel() for c in clipped(grads, clip_value=0.5)]
    )
    assert values.max() == 0.5
    assert values.min() == -0.5


def test_values_are_clipped_before_norms():
    grads = [10 * g for g in start()]
    result = clipped(grads, clip_value=0.5, clip_norm=1.0)
    cut = [tf.clip_by_value(g, -0.5, 0.5) for g in grads]
    assert_close(result, tf.clip_by_global_norm(cut, 1.0)[0])


def derivatives_through_clip(grads, **bounds):
    """The first and second derivatives of a function of clipped gradients."""
    with tf.GradientTape() as outer:
        outer.watch(grads)
        with tf.GradientTape() as inner:
            inner.watch(grads)
            result = clipped(grads, **bounds)
            loss = tf.add_n(
                [tf.reduce_sum(tf.sin(r) + tf.cos(2 * r)) for r in result]
            )
        first = inner.gradient(loss, grads)
        total = tf.add_n([tf.reduce_sum(tf.sin(g)) for g in first])
    return first, outer.gradient(total, grads)


@pytest.mark.parametrize("bounds", [{"clip_norm": 2.0}, {"clip_value": 1.0}])
def test_gradients_through_a_clip_are_finite_at_zero(bounds):
    zeros = [tf.zeros_like(p) for p in start(2)]
    first, second = derivatives_through_clip(zeros, **bounds)
    for x in first:
        # The derivative of sin(r) + cos(2 r), where nothing is clipped.
        assert np.all(x == 1)
    for x in second:
        assert np.all(np.isfinite(x))
        assert np.all(x != 0)


def test_gradients_through_a_norm_clip_equal_those_of_its_formula():
    grads = [10 * g for g in start()]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(grads)
        actual = clipped(grads, clip_norm=2.0)
        norm = tf.sqrt(tf.add_n([tf.reduce_sum(g**2) for g in grads]))
        expected = [g * 2.0 / norm for g in grads]
        losses = [
            tf.add_n([tf.reduce_sum(tf.sin(r)) for r in rs])
            for rs in (actual, expected)
        ]
    assert_close(*(tape.gradient(loss, grads) for loss in losses))
