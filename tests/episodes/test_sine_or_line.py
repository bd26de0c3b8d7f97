import math

import numpy as np
import pytest
import tensorflow as tf

from keras_meta.episodes import SineOrLine

FAMILY = SineOrLine()


def test_the_equations_hold_up_to_the_noise():
    x, y = FAMILY.draw(seed=1, index=3, tasks=400, shots=5, queries=50)
    is_line, amplitude, phase, slope, intercept = (
        FAMILY.parameters(seed=1, index=3, tasks=400)
        .numpy()
        .T[:, :, None, None]
    )
    inputs = tf.concat([x["support_x"], x["query_x"]], 1).numpy()
    labels = tf.concat([x["support_y"], y], 1).numpy()
    truth = np.where(
        is_line, slope * inputs + intercept, amplitude * np.sin(inputs + phase)
    )
    noise = (labels - truth) / FAMILY.noise
    assert np.abs(inputs).max() <= 5
    # 22,000 numbers: the errors of these moments are below .02 and .05.
    assert noise.mean() == pytest.approx(0, abs=0.03)
    assert (noise**2).mean() == pytest.approx(1, abs=0.04)
    assert (noise**4).mean() == pytest.approx(3, abs=0.25)
    assert is_line.mean() == pytest.approx(0.5, abs=0.1)
    for values, (low, high) in [
        (amplitude, (0.1, 5)),
        (phase, (0, math.pi)),
        (slope, (-3, 3)),
        (intercept, (-3, 3)),
    ]:
        margin = 0.02 * (high - low)
        assert low <= values.min() <= low + margin
        assert high - margin <= values.max() <= high


def test_an_episode_depends_on_its_index_alone():
    batches = FAMILY.episodes(shots=3, queries=2, tasks=2, seed=4, start=6)
    x, y = next(iter(batches.skip(1)))
    expected_x, expected_y = FAMILY.draw(4, 9, tasks=1, shots=3, queries=2)
    np.testing.assert_array_equal(y[1:], expected_y)
    for name, value in expected_x.items():
        np.testing.assert_array_equal(x[name][1:], value)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="`slope` must be .*Received.*3, -3"):
        SineOrLine(slope=(3, -3))
    with pytest.raises(ValueError, match="`noise`.*Received.*-1"):
        SineOrLine(noise=-1.0)
