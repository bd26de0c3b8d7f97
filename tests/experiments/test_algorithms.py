import keras
import numpy as np
import pytest

import keras_meta
from experiments.algorithms import ImplicitOptions
from experiments.algorithms import make_learner


def _network():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])


def _implicit_maml(cg_steps, algorithm="implicit_maml"):
    return make_learner(
        algorithm,
        _network(),
        inner_rate=0.1,
        steps=3,
        evaluation_steps=4,
        implicit=ImplicitOptions(
            proximal=2.0, momentum=0.5, cg_steps=cg_steps, damping=0.3
        ),
    )


def test_implicit_maml_has_its_options():
    learner = _implicit_maml(cg_steps=7)
    assert isinstance(learner, keras_meta.ImplicitMAML)
    assert (learner.steps, learner.evaluation_steps) == (3, 4)
    assert learner.proximal == 2.0
    assert learner.update_rule.learning_rate == pytest.approx(0.1)
    assert learner.update_rule.momentum == 0.5
    assert learner.meta_gradient == keras_meta.Implicit(steps=7, damping=0.3)


def test_proximal_maml_has_the_same_inner_loop():
    learner = _implicit_maml(cg_steps=7, algorithm="proximal_maml")
    implicit = _implicit_maml(cg_steps=7)
    assert isinstance(learner, keras_meta.MAML)
    assert learner.meta_gradient == keras_meta.Unrolled()
    assert learner.proximal == implicit.proximal
    rules = [x.update_rule.get_config() for x in (learner, implicit)]
    for rule in rules:
        del rule["name"]
    assert rules[0] == rules[1]


@pytest.mark.slow
def test_without_steps_of_conjugate_gradient_it_is_first_order():
    rng = np.random.default_rng(0)
    x = {
        "support_x": rng.normal(size=[3, 4, 2]),
        "support_y": rng.normal(size=[3, 4, 1]),
        "query_x": rng.normal(size=[3, 5, 2]),
    }
    y = rng.normal(size=[3, 5, 1])
    rule = keras_meta.Momentum(0.1, momentum=0.5)
    first_order = keras_meta.MAML(
        _network(), rule, 3, proximal=2.0, meta_gradient="first_order"
    )
    weights = []
    for learner in (first_order, _implicit_maml(cg_steps=0)):
        learner.compile(keras.optimizers.SGD(1.0), "mse", jit_compile=False)
        learner.train_on_batch(x, y)
        weights.append(learner.get_weights())
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
