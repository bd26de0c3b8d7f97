import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_meta.episodes.random_bits import random_words
from keras_meta.problems.words import instance_words

_SEEDS = st.one_of(
    st.integers(0, 2**62), st.sampled_from([2**31, 2**32, 3 * 2**32 + 5])
)


def draw(seed, index, stream=3):
    return instance_words(seed, stream, index, rows=2, words=5)


compiled = tf.function(draw, jit_compile=True, autograph=False)


@settings(max_examples=30, deadline=None)
@given(seed=_SEEDS, index=st.integers(0, 2**40))
def test_xla_draws_the_same_words(seed, index):
    seed, index = tf.constant(seed, tf.int64), tf.constant(index, tf.int64)
    np.testing.assert_array_equal(compiled(seed, index), draw(seed, index))


@pytest.mark.slow_variants("0", "5")
@pytest.mark.parametrize("seed", [0, 5, 2**32 - 1])
def test_the_upper_half_of_a_seed_matters(seed):
    of_lower_half = [draw(seed, 0)]
    of_lower_half += [draw(seed, 0, stream) for stream in range(200)]
    for upper in (1, 2, 3, 2**30):
        whole = tf.constant(seed + upper * 2**32, tf.int64)
        other = compiled(whole, tf.constant(0, tf.int64))
        for words in of_lower_half:
            assert not np.array_equal(other, words)


def test_small_seeds_are_those_of_episodes():
    np.testing.assert_array_equal(draw(7, 1), random_words(7, 3, 1, 2, 5))
