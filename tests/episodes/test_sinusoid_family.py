import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_meta.episodes import SinusoidFamily
from keras_meta.episodes import sinusoids

from .episode_cases import arrays_of

RANGES = {
    "maml": ((0.1, 5), (1, 1), (0, math.pi)),
    "meta_sgd": ((0.1, 5), (0.8, 1.2), (0, math.pi)),
    "reptile": ((0.1, 5), (1, 1), (0, 2 * math.pi)),
}
FAMILIES = {
    name: SinusoidFamily(amplitude=a, frequency=f, phase=p)
    for name, (a, f, p) in RANGES.items()
}


@pytest.mark.slow_variants("maml", "meta_sgd")
@pytest.mark.parametrize("name", RANGES)
def test_named_families_have_their_ranges(name):
    family = FAMILIES[name]
    parameters = family.parameters(seed=0, index=0, tasks=5000).numpy()
    for column, (low, high) in zip(parameters.T, RANGES[name], strict=True):
        margin = 0.01 * (high - low)
        assert low <= column.min() <= low + margin
        assert high - margin <= column.max() <= high
        assert column.mean() == pytest.approx((low + high) / 2, rel=0.03)
    batch = next(
        iter(sinusoids(shots=3, queries=4, tasks=2, family=name, seed=6))
    )
    for a, b in zip(
        arrays_of(batch), arrays_of(family.draw(6, 0, 2, 3, 4)), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", RANGES)
def test_the_equation_holds(name):
    family = FAMILIES[name]
    x, y = family.draw(seed=1, index=9, tasks=20, shots=5, queries=7)
    parameters = family.parameters(seed=1, index=9, tasks=20).numpy()
    amplitude, frequency, phase = parameters.T[:, :, None, None]
    for inputs, outputs in (
        (x["support_x"].numpy(), x["support_y"]),
        (x["query_x"].numpy(), y),
    ):
        assert np.abs(inputs).max() <= 5
        expected = amplitude * np.sin(frequency * inputs + phase)
        np.testing.assert_allclose(outputs, expected, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**40), st.integers(0, 2**40), st.integers(1, 5))
def test_an_episode_depends_only_on_seed_and_index(seed, index, before):
    family = SinusoidFamily()
    many = arrays_of(family.draw(seed, index, before + 1, 3, 2))
    alone = arrays_of(family.draw(seed, index + before, 1, 3, 2))
    for batch, one in zip(many, alone, strict=True):
        np.testing.assert_allclose(batch[before:], one, atol=1e-5)


def test_waves_do_not_depend_on_the_number_of_points():
    family = SinusoidFamily()
    wave = family.parameters(seed=0, index=0, tasks=2)
    for shots in (1, 10):
        x, _ = family.draw(seed=0, index=0, tasks=2, shots=shots, queries=1)
        np.testing.assert_allclose(
            family.evaluate(wave, x["support_x"]), x["support_y"], rtol=1e-6
        )


def test_start_resumes():
    size = {"shots": 2, "queries": 3, "tasks": 4, "seed": 2}
    whole = list(sinusoids(num_batches=4, **size))
    rest = list(sinusoids(start=8, num_batches=2, **size))
    for one, other in zip(whole[2:], rest, strict=True):
        np.testing.assert_array_equal(one[1], other[1])


def test_draw_works_in_a_compiled_function():
    family = SinusoidFamily(frequency=(0.5, 2.0))
    compiled = tf.function(
        lambda index: family.draw(3, index, 2, 4, 5), jit_compile=True
    )
    for a, b in zip(
        arrays_of(compiled(tf.constant(7))),
        arrays_of(family.draw(3, 7, 2, 4, 5)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shots": 0}, "`shots` must be a positive"),
        ({"family": "square"}, "`family` must be one of 'maml'"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sinusoids(**({"shots": 1, "queries": 1, "tasks": 1} | options))


@pytest.mark.parametrize("bounds", [(1.0, 0.0), (0.0, math.inf), (1.0,)])
def test_bad_ranges_are_refused(bounds):
    with pytest.raises(ValueError, match="`phase` must be"):
        SinusoidFamily(phase=bounds)


@pytest.mark.parametrize("bounds", [1.0, (1.0,), ("a", "b"), (2.0, 1.0), None])
def test_ranges_must_be_pairs_in_order(bounds):
    with pytest.raises(ValueError, match="`frequency` must be .smallest"):
        SinusoidFamily(frequency=bounds)
