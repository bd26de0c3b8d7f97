"""What an `OptimizerLearner` refuses, and when it stops."""

import unittest.mock

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta
from keras_meta.problems import batches

from .optimizer_helpers import Valley
from .optimizer_helpers import assert_equal_weights
from .optimizer_helpers import attending_rule
from .optimizer_helpers import by_hand
from .optimizer_helpers import learner
from .optimizer_helpers import small_rule
from .optimizer_helpers import windows

layers = keras.layers


def test_a_curriculum_begins_at_epoch_0():
    with pytest.raises(ValueError, match="include epoch 0.*{1: 20}"):
        keras_meta.callbacks.LengthenUnroll({1: 20})


@pytest.mark.parametrize("steps", [3, 6, 0])
def test_steps_that_do_not_fit_are_refused(steps):
    with pytest.raises(ValueError, match=f"multiple of 2, .*steps={steps}"):
        learner().steps = steps


def test_fewer_steps_than_a_window_are_one_window():
    made = keras_meta.OptimizerLearner(small_rule(), Valley(), steps=10)
    with pytest.raises(ValueError, match="multiple of 10.*steps=5"):
        made.steps = 5


@pytest.mark.parametrize(
    "options", [{"loss": "mse"}, {"metrics": ["accuracy"]}]
)
def test_losses_and_metrics_are_those_of_the_problems(options):
    made = learner()
    with pytest.raises(ValueError, match=f"{[*options][0]}=.*Leave it out"):
        made.compile("adam", **options)


def test_a_loss_after_the_optimizer_is_refused_too():
    with pytest.raises(ValueError, match="loss='mse'.*Leave it out"):
        learner().compile("adam", "mse")


def test_there_is_nothing_to_predict():
    with pytest.raises(NotImplementedError, match="predicts nothing.*`evalu"):
        learner().predict(batches(2, num_batches=1), verbose=0)


def test_problems_without_an_end():
    with pytest.raises(ValueError, match="steps_per_epoch=None"):
        learner().fit(batches(2))
    with pytest.raises(ValueError, match="steps=None"):
        learner().evaluate(batches(2))


def test_callbacks_of_meta_learners_are_refused():
    switch = keras_meta.callbacks.SwitchMetaGradient({0: "first_order"})
    with pytest.raises(ValueError, match="meta-learner.*OptimizerLearner"):
        learner().fit(batches(2, num_batches=1), callbacks=[switch])


class Cliff(Valley):
    """Instance 1 becomes NaN at step 3."""

    def losses(self, params, data, step, **options):
        losses = super().losses(params, data, step, **options)
        bad = tf.logical_and(tf.equal(step, 3), tf.equal(data, 2.0))
        nothing = tf.zeros([], losses.dtype)
        return losses + tf.where(bad, nothing + np.nan, nothing)


@pytest.mark.slow_variants("False", "True")
@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_problem_that_diverges_stops_fit(jit_compile):
    rule, twin = small_rule(), small_rule()
    made = learner(rule, Cliff(), jit_compile=jit_compile)
    with pytest.raises(
        FloatingPointError, match="instance 1 .* at optimization step 3.*clip"
    ):
        made.fit(batches(3, num_batches=1), verbose=0)
    # The first window was sound and the second one changed nothing.
    by_hand(twin, Valley(), 2, 2)
    assert_equal_weights(rule, twin)
    with pytest.raises(FloatingPointError, match="instance 1 .* step 3"):
        made.evaluate(batches(3, num_batches=1), verbose=0)


@pytest.mark.slow
def test_a_failed_window_does_not_even_move_by_momentum():
    optimizers = [keras.optimizers.Adam(0.01) for _ in range(2)]
    rule, twin = small_rule(), small_rule()
    made = learner(rule, Cliff(), optimizer=optimizers[0])
    with pytest.raises(FloatingPointError):
        made.fit(batches(3, num_batches=1), verbose=0)
    sound = learner(twin, Cliff(), steps=2, optimizer=optimizers[1])
    sound.fit(batches(3, num_batches=1), verbose=0)
    assert_equal_weights(rule, twin)


@pytest.mark.slow
def test_a_tolerated_divergence_leaves_the_other_batches():
    rule, twin = small_rule(), small_rule()
    made = learner(rule, Cliff(), tolerated_divergences=1)
    logs = made.fit(batches(3, num_batches=2), verbose=0).history
    # The sound window of the first batch, then all of the second.
    learner(twin, Cliff(), steps=2).fit(batches(3, num_batches=1), verbose=0)
    rest = learner(twin, Cliff())
    expected = rest.fit(batches(3, start=3, num_batches=1), verbose=0).history
    assert_equal_weights(rule, twin)
    assert logs["diverged"] == [0.5]
    for name in ("loss", "final_loss"):
        np.testing.assert_allclose(logs[name], expected[name], rtol=1e-12)


@pytest.mark.slow
def test_a_particle_that_diverges_names_its_instance():
    class Gap(Valley):
        """Instance 2 becomes NaN in one half of the particles."""

        def losses(self, params, data, step, **options):
            losses = super().losses(params, data, step, **options)
            rows = tf.range(tf.size(losses))
            bad = (rows >= tf.size(losses) // 2) & tf.equal(data, 3.0)
            return tf.where(bad, losses * np.nan, losses)

    made = learner(
        problem=Gap(), meta_gradient=keras_meta.PersistentES(2, length=2)
    )
    with pytest.raises(FloatingPointError, match="instance 2 in the batch"):
        made.fit(batches(3, num_batches=1), verbose=0)


@pytest.mark.slow
def test_a_rule_that_diverges_does_not_look_good():
    made = learner(problem=Cliff(), tolerated_divergences=1)
    logs = made.evaluate(batches(3, num_batches=2), verbose=0, return_dict=True)
    assert logs == {"loss": np.inf, "final_loss": np.inf, "diverged": 0.5}


@pytest.mark.slow
def test_divergences_in_a_row_are_tolerated_so_often():
    made = learner(problem=Cliff(), tolerated_divergences=2)
    one_bad = batches(3, num_batches=1)
    made.fit(one_bad, epochs=2, verbose=0)
    # A sound batch begins the count anew.
    made.fit(batches(3, start=3, num_batches=1), verbose=0)
    made.fit(one_bad, epochs=2, verbose=0)
    with pytest.raises(FloatingPointError, match="tolerated_divergences=1"):
        made.fit(one_bad, verbose=0)


class Negative(Valley):
    """Functions without a logarithm."""

    def losses(self, params, data, step, **options):
        return super().losses(params, data, step, **options) - 100


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_losses_without_a_logarithm_stop_with_the_way_out(method):
    made = learner(problem=Negative(), objective="log_ratio")
    with pytest.raises(FloatingPointError, match="use objective='loss'"):
        getattr(made, method)(batches(2, num_batches=1), verbose=0)


def test_attention_without_second_derivatives_is_refused():
    with pytest.raises(ValueError, match="attention=True.*keras_meta.Unrolled"):
        learner(attending_rule())


@pytest.mark.parametrize("name", ["displacement", "implicit"])
def test_meta_gradients_that_do_not_reach_the_rule_are_refused(name):
    with pytest.raises(
        ValueError, match=f"(?i){name}.*where a run ends.*Truncated"
    ):
        learner(meta_gradient=name)


def test_a_meta_gradient_without_derivative_is_refused():
    class NoDerivative(keras_meta.MetaGradient):
        differentiates_steps = False

    with pytest.raises(ValueError, match="NoDerivative.*PersistentES"):
        learner(meta_gradient=NoDerivative())


def test_a_rule_of_another_model_is_refused():
    rule = keras_meta.LearnedHyperparameters(dtype="float64")
    rule.attach([keras.Variable([0.0])], 1)
    with pytest.raises(ValueError, match=r"belongs to .*\[\(1,\)\].*\(2, 2\)"):
        learner(rule).fit(batches(2, num_batches=1), verbose=0)


def test_steps_without_a_weight_are_refused():
    made = learner(step_weights=[0, 0, 1, 1])
    with pytest.raises(ValueError, match="first 2 are, for steps=2"):
        made.fit(
            batches(3, num_batches=1),
            callbacks=[keras_meta.callbacks.LengthenUnroll({0: 2})],
            verbose=0,
        )


def test_a_curriculum_that_does_not_fit_fails_before_it_begins():
    made = learner()
    with pytest.raises(ValueError, match="multiple of 2, .*steps=3"):
        made.fit(
            batches(3, num_batches=1),
            callbacks=[keras_meta.callbacks.LengthenUnroll({0: 2, 9: 3})],
            verbose=0,
        )


@pytest.mark.slow
def test_bad_data_are_not_blamed_on_the_rule():
    class Broken(Valley):
        def losses(self, params, data, step, **options):
            return super().losses(params, data, step, **options) + np.nan

    with pytest.raises(FloatingPointError, match="step 0.*problem's data"):
        learner(problem=Broken()).fit(batches(2, num_batches=1), verbose=0)


def test_the_curriculum_is_for_optimizer_learners():
    model = keras.Sequential([keras.Input([1]), layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="OptimizerLearner.*Sequential"):
        model.fit(
            np.zeros([2, 1]),
            np.zeros([2, 1]),
            callbacks=[keras_meta.callbacks.LengthenUnroll({0: 2})],
            verbose=0,
        )


def test_what_is_no_rule_is_refused():
    with pytest.raises(TypeError, match="`rule` must be .*rule=3"):
        keras_meta.OptimizerLearner(3, Valley())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "`steps` must be a positive integer.*steps=0"),
        ({"meta_gradient": windows(3)}, "multiple of 3, .*steps=4"),
        ({"evaluation_steps": -1}, "`evaluation_steps` must be a positive"),
        ({"objective": "best"}, "`objective` must be one of .*'best'"),
        ({"step_weights": [1.0]}, r"must be 4 .*step_weights=\[1.0\]"),
        ({"step_weights": [0.0] * 4}, "`step_weights` .* not be zero for all"),
        ({"step_weights": [1.0, -1.0, 1, 1]}, r"of at least 0.*-1\."),
        ({"step_weights": [1.0, np.inf, 1, 1]}, "of at least 0.*inf"),
        ({"evaluation_steps": 0}, "`evaluation_steps` must be a positive"),
        ({"rule": keras_meta.GradientDescent(0.1)}, "`rule` must have weights"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        learner(**arguments)


@pytest.mark.parametrize("problem", [3, [Valley(), "mnist"], []])
def test_what_is_no_problem_is_refused(problem):
    with pytest.raises(TypeError, match="`problem` must be"):
        keras_meta.OptimizerLearner(small_rule(), problem)


def test_other_data_are_refused():
    with pytest.raises(ValueError, match=r"keras_meta.problems.batches"):
        learner().fit(np.zeros([3, 2]), np.zeros([3, 1]), verbose=0)


def test_a_rule_of_one_model_has_one_problem():
    rule = keras_meta.GradientDescent(0.05, "layer", dtype="float64")
    with pytest.raises(ValueError, match="from one problem.*2 problems"):
        learner(rule, [Valley(), Valley()])


def test_several_replicas_are_refused():
    made = learner()
    strategy = unittest.mock.Mock(num_replicas_in_sync=2)
    with (
        unittest.mock.patch.object(
            tf.distribute, "get_strategy", return_value=strategy
        ),
        pytest.raises(ValueError, match="one device.*2 replicas"),
    ):
        made.train_step({})


def test_problems_without_a_config_are_not_saved(tmp_path):
    class NoConfig(Valley):
        get_config = keras_meta.problems.Problem.get_config

    path = tmp_path / "learner.keras"
    path.write_text("an earlier learner")
    with pytest.raises(
        NotImplementedError,
        match="NoConfig must implement `get_config`.*save_weights_only",
    ):
        learner(problem=NoConfig()).save(path)
    assert path.read_text() == "an earlier learner"


@pytest.mark.slow
def test_an_epoch_of_which_nothing_is_left_does_not_look_good():
    made = learner(problem=Cliff(), tolerated_divergences=2)
    logs = made.fit(batches(3, num_batches=1), verbose=0).history
    assert logs == {"loss": [np.inf], "final_loss": [np.inf], "diverged": [1]}


@pytest.mark.slow
def test_validation_and_training_are_counted_apart():
    made = learner(problem=Cliff(), tolerated_divergences=1)
    one_bad = batches(3, num_batches=1)
    made.fit(one_bad, validation_data=one_bad, verbose=0)
    # Sound validation does not make up for a second failure of training.
    made.evaluate(batches(3, start=3, num_batches=1), verbose=0)
    with pytest.raises(FloatingPointError):
        made.fit(one_bad, verbose=0)


class Steep(Valley):
    """From step 3 on, finite losses whose meta-gradient has no finite norm."""

    def losses(self, params, data, step, **options):
        losses = super().losses(params, data, step, **options)
        factor = tf.where(step < 3, tf.ones([], losses.dtype), 1e160)
        return factor * losses


@pytest.mark.slow
def test_a_meta_gradient_whose_norm_overflows_is_not_learned_from():
    rule, twin = small_rule(), small_rule()
    clipped = keras.optimizers.SGD(1 / 128, global_clipnorm=1e9)
    made = learner(rule, Steep(), optimizer=clipped)
    with pytest.raises(FloatingPointError, match="window from .* step 2 on"):
        made.fit(batches(3, num_batches=1), verbose=0)
    by_hand(twin, Valley(), 2, 2)
    assert_equal_weights(rule, twin)


@pytest.mark.slow_variants("layer1")
@pytest.mark.parametrize("layer", [layers.RandomRotation(0.1), layers.GRU(2)])
def test_xla_is_left_out_for_layers_that_do_without(layer):
    shape = [5, 2] if isinstance(layer, layers.GRU) else [4, 4, 1]
    model = keras.Sequential(
        [keras.Input(shape), layer, layers.Flatten(), layers.Dense(1)]
    )
    data = np.zeros([4, *shape]), np.zeros([4, 1])
    problem = keras_meta.problems.ModelProblem(model, data, "mse")
    scaled = keras_meta.problems.RandomScaling(problem)
    for family, expected in (
        (problem, False),
        (scaled, False),
        (Valley(), True),
    ):
        made = keras_meta.OptimizerLearner(small_rule(), family)
        made.compile("adam")
        assert made.jit_compile == expected
