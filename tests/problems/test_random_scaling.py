import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_meta.problems import ModelProblem
from keras_meta.problems import Quadratic
from keras_meta.problems import RandomScaling


def test_the_problem_is_the_same_up_to_scale():
    problem = Quadratic(3)
    scaled = RandomScaling(problem, -2.0, 1.0)
    params, data = problem.draw(0, 7, 2)
    scaled_params, scaled_data = scaled.draw(0, 7, 2)
    np.testing.assert_allclose(
        scaled.losses(scaled_params, scaled_data, 0),
        problem.losses(params, data, 0),
        rtol=1e-5,
    )
    scales = scaled_data["scales"][0].numpy()
    moved = [scaled_params[0] + 1.0]
    expected = problem.losses([params[0] + scales], data, 0)
    np.testing.assert_allclose(
        scaled.losses(moved, scaled_data, 0), expected, rtol=1e-5
    )


def test_scales_are_log_uniform():
    _, data = RandomScaling(Quadratic(50), -2.0, 1.0).draw(0, 0, 100)
    logs = np.log(data["scales"][0].numpy())
    assert logs.min() >= -2.001 and logs.max() <= 1.001
    assert abs(logs.mean() + 0.5) < 5 * 3 * 12**-0.5 / logs.size**0.5


def test_an_instance_depends_only_on_its_index():
    problem = RandomScaling(Quadratic(3))
    together, alone = problem.draw(1, 4, 3), problem.draw(1, 6, 1)
    for many, one in zip(
        tf.nest.flatten(together), tf.nest.flatten(alone), strict=True
    ):
        np.testing.assert_allclose(many[2:], one, rtol=1e-5)


@pytest.mark.parametrize(
    ("per", "expected"), [("coordinate", 8), ("tensor", 2), ("instance", 1)]
)
def test_scales_have_the_shape_that_per_asks_for(per, expected):
    model = keras.Sequential([keras.Input([3]), keras.layers.Dense(2)])
    data = np.zeros([4, 3]), np.zeros([4, 2])
    problem = RandomScaling(ModelProblem(model, data, "mse"), per=per)
    params, drawn = problem.draw(0, 0, 3)
    for i in range(3):
        parts = [np.ravel(scale[i]) for scale in drawn["scales"]]
        assert len(np.unique(np.concatenate(parts))) == expected
    plain, _ = problem.problem.draw(0, 0, 3)
    for p, c, q in zip(params, drawn["scales"], plain, strict=True):
        np.testing.assert_allclose(p * c, q, rtol=1e-6)


def test_unknown_values_of_per_are_refused():
    with pytest.raises(ValueError, match="`per` must be one of .*'layer'"):
        RandomScaling(Quadratic(3), per="layer")


def test_refuses_values_that_are_not_problems():
    with pytest.raises(TypeError, match="`problem` must be .*problem=3"):
        RandomScaling(3)


@pytest.mark.parametrize("bounds", [(1.0, 0.0), (0.0, float("inf"))])
def test_a_range_out_of_order_is_refused(bounds):
    with pytest.raises(ValueError, match="`low` and `high` must be finite"):
        RandomScaling(Quadratic(2), *bounds)


def test_nested_scales_are_independent():
    twice = RandomScaling(RandomScaling(Quadratic(200)))
    _, data = twice.draw(0, 0, 1)
    outer, inner = (
        np.log(np.ravel(d["scales"][0])) for d in (data, data["data"])
    )
    assert abs(np.corrcoef(outer, inner)[0, 1]) < 0.4


@pytest.mark.parametrize(
    ("low", "high"),
    [("a", 1.0), (1.0, 0.0), (0.0, np.inf), (None, 1.0), (-100, 0)],
)
def test_a_bad_range_is_refused(low, high):
    with pytest.raises(ValueError, match="`low` and `high` must be finite"):
        RandomScaling(Quadratic(3), low, high)
