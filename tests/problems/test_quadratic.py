import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_meta.problems import Quadratic
from keras_meta.problems.quadratic import _normal


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 2**40),
    index=st.integers(0, 2**40),
    at=st.integers(0, 4),
)
def test_an_instance_depends_only_on_seed_and_index(seed, index, at):
    problem = Quadratic(3, rows=4)
    together = problem.draw(seed, index, 5)
    alone = problem.draw(seed, index + at, 1)
    for many, one in zip(
        tf.nest.flatten(together), tf.nest.flatten(alone), strict=True
    ):
        np.testing.assert_allclose(many[at : at + 1], one, rtol=1e-5)


def test_losses_are_the_squares_of_the_residual():
    problem = Quadratic(3, rows=4)
    params, data = problem.draw(0, 0, 2)
    theta = params[0].numpy() + 1.0
    expected = [
        np.sum((x @ t - y) ** 2)
        for x, y, t in zip(
            data["x"].numpy(), data["y"].numpy(), theta, strict=True
        )
    ]
    actual = problem.losses([tf.constant(theta)], data, 0)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("entries", "mean", "deviation"),
    [("normal", 0.0, 1.0), ("uniform", 0.5, 12**-0.5)],
)
def test_entries_have_their_distribution(entries, mean, deviation):
    params, data = Quadratic(20, entries=entries, start=0.25).draw(0, 0, 200)
    drawn = np.concatenate(
        [data["x"].numpy().ravel(), data["y"].numpy().ravel()]
    )
    count = drawn.size
    assert abs(drawn.mean() - mean) < 5 * deviation / count**0.5
    assert abs(drawn.std() / deviation - 1) < 5 / count**0.5
    # 4.6 % of normal numbers lie beyond two deviations.
    tail = np.mean(np.abs(drawn - mean) > 2 * deviation)
    expected = 0.0455 if entries == "normal" else 0.0
    assert abs(tail - expected) < 0.005
    theta = params[0].numpy()
    assert abs(theta.std() / 0.25 - 1) < 5 / theta.size**0.5


def test_no_word_becomes_an_infinite_number():
    words = tf.constant([0, 255, 2**31, 2**32 - 256, 2**32 - 1], tf.uint32)
    drawn = _normal(words).numpy()
    assert np.isfinite(drawn).all()
    assert drawn[2] == 0
    assert -5.5 < drawn[0] < -5 and 5 < drawn[-1] < 5.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dimensions": 0}, "`dimensions` must be a positive integer.*=0"),
        ({"rows": -1}, "`rows` must be a positive integer.*=-1"),
        ({"start": "small"}, "`start` must be a finite number .*='small'"),
        ({"entries": "cauchy"}, "`entries` must be one of .*='cauchy'"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Quadratic(**arguments)
