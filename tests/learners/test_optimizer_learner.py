"""Meta-training of update rules, against plain loops and differences."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta
from keras_meta.inner.inner_loop import InnerLoop
from keras_meta.inner.optimization import Instances
from keras_meta.inner.optimization import OptimizationProblem
from keras_meta.inner.solver import Solver
from keras_meta.outer.optimization_runs import OptimizationRuns
from keras_meta.problems import batches

from .optimizer_helpers import RATE
from .optimizer_helpers import Valley
from .optimizer_helpers import assert_equal_weights
from .optimizer_helpers import attending_rule
from .optimizer_helpers import by_hand
from .optimizer_helpers import learner
from .optimizer_helpers import small_rule
from .optimizer_helpers import trajectory
from .optimizer_helpers import windows


@pytest.mark.slow_variants("False-True", "True-False", "True-True")
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("second_order", [False, True])
def test_fit_equals_a_plain_loop(second_order, jit_compile):
    rule, twin = small_rule(), small_rule()
    made = learner(
        rule,
        meta_gradient=windows(2, second_order),
        jit_compile=jit_compile,
    )
    history = made.fit(batches(3, num_batches=1), verbose=0).history
    loss, final = by_hand(twin, Valley(), 4, 2, second_order=second_order)
    assert_equal_weights(rule, twin)
    np.testing.assert_allclose(history["loss"], [loss])
    np.testing.assert_allclose(history["final_loss"], [final])


@pytest.mark.slow
def test_eager_steps_are_the_same():
    rule, twin = small_rule(), small_rule()
    made = learner(rule)
    made.run_eagerly = True
    made.fit(batches(3, num_batches=1), verbose=0)
    by_hand(twin, Valley(), 4, 2)
    assert_equal_weights(rule, twin)


@pytest.mark.slow
def test_the_logarithm_of_the_ratio():
    rule, twin = small_rule(), small_rule()
    made = learner(rule, objective="log_ratio", meta_gradient="first_order")
    history = made.fit(batches(3, num_batches=1), verbose=0).history
    loss, _ = by_hand(
        twin, Valley(), 4, 4, value=lambda x, first: tf.math.log(x / first)
    )
    np.testing.assert_allclose(history["loss"], [loss], rtol=1e-8)
    assert_equal_weights(rule, twin, 1e-8)


def runs_of(problem, rule, params, data, dtype="float64"):
    """Returns runs of four steps that count alike, and the rule's weights."""
    variables = rule.trainable_variables
    inner = OptimizationProblem(problem=problem, variables=variables)
    runs = OptimizationRuns(
        Solver(rule),
        inner,
        Instances(params, data),
        tf.ones([4], dtype),
        first_losses=None,
        scaled=tf.identity,
    )
    return runs, [tf.convert_to_tensor(v) for v in variables]


def _linear(params, gradients):
    return sum(
        tf.reduce_sum(p * g) / 3 for p, g in zip(params, gradients, strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize("second_order", [False, True])
def test_meta_gradient_of_a_window_equals_finite_differences(second_order):
    problem, rule = Valley(), small_rule()
    params, data = problem.draw(0, 0, 3)
    runs, theta = runs_of(problem, rule, params, data)
    start = runs.take(InnerLoop.run, theta, runs.start(theta), 0, 2).carry

    @tf.function
    def meta_gradient():
        window = windows(2, second_order).take_window(
            runs, theta, start, 2, 2, seed=None
        )
        return window.gradients

    gradients = meta_gradient()
    recorded = _gradients_on_the_way(problem, rule, start, data)

    def value():
        carry = (start.params, start.rule_state)
        if second_order:
            _, losses = trajectory(rule, problem, carry, data, 2, 2, True)
            return float(tf.reduce_sum(tf.reduce_mean(losses[1:], axis=1)))
        params, state = carry
        total = 0.0
        for i in range(2):
            params, state = rule.update(params, recorded[i], state)
            total += _linear(params, recorded[i + 1])
        return float(total)

    rng = np.random.default_rng(0)
    for variable, gradient in zip(
        rule.trainable_variables, gradients, strict=True
    ):
        direction = rng.normal(size=variable.shape)
        there = variable.numpy()
        ends = []
        for sign in (1, -1):
            variable.assign(there + sign * 1e-5 * direction)
            ends.append(value())
        variable.assign(there)
        expected = (ends[0] - ends[1]) / 2e-5
        actual = float(tf.reduce_sum(gradient * direction))
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-9)


def _gradients_on_the_way(problem, rule, start, data):
    """Gradients at the window's start, after one step and after two."""
    params, state = start.params, start.rule_state
    recorded = []
    for i in (2, 3, 4):
        with tf.GradientTape() as tape:
            tape.watch(params)
            losses = problem.losses(params, data, i)
        recorded.append(tape.gradient(losses, params))
        params, state = rule.update(params, recorded[-1], state)
    return recorded


@pytest.mark.slow
def test_the_unroll_equals_the_optimizer_of_keras():
    x = np.random.default_rng(0).normal(size=[30, 4]).astype("float32")
    y = np.random.default_rng(1).integers(3, size=[30])
    model = keras.Sequential(
        [
            keras.Input([4]),
            keras.layers.Dense(5, "tanh"),
            keras.layers.Dense(3),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    problem = keras_meta.problems.ModelProblem(
        model, (x, y), loss, batch_size=7
    )
    rule = keras_meta.CoordinatewiseLSTM([4, 3], seed=2, output_scale=0.2)
    params, data = problem.draw(0, 5, 1)
    rule.attach(problem.variables, 12)
    runs, theta = runs_of(problem, rule, params, data, "float32")
    run, losses = tf.function(
        lambda: runs.run(InnerLoop.run, theta, runs.start(theta), 0, 12),
        jit_compile=True,
    )()

    optimizer = keras_meta.optimizers.LearnedOptimizer(rule)
    model.compile(optimizer, loss)
    for variable, value in zip(model.trainable_variables, params, strict=True):
        variable.assign(value[0])
    expected = []
    for step in range(12):
        inputs, labels = problem._examples(data, step, 1)
        expected.append(model.train_on_batch(inputs[0], labels[0]))
        model.reset_metrics()
    np.testing.assert_allclose(losses[:12, 0], expected, rtol=1e-6)
    for variable, value in zip(
        model.trainable_variables, run.params, strict=True
    ):
        np.testing.assert_allclose(variable, value[0], atol=1e-6)


@pytest.mark.slow
def test_step_weights_choose_what_counts():
    rule, twin = small_rule(), small_rule()
    made = learner(rule, meta_gradient="first_order", step_weights=[0, 0, 0, 1])
    history = made.fit(batches(3, num_batches=1), verbose=0).history
    only_last = lambda x, _: x[-1:]  # noqa: E731
    _, final = by_hand(twin, Valley(), 4, 4, value=only_last)
    np.testing.assert_allclose(history["loss"], [final])
    assert_equal_weights(rule, twin)


@pytest.mark.slow
def test_problems_take_turns():
    rule, twin = small_rule(), small_rule()
    first, second = Valley(), Valley(bends=-2.0)
    made = learner(rule, [first, second], steps=2)
    made.fit(batches(3, num_batches=1), verbose=0)
    by_hand(twin, first, 2, 2)
    assert_equal_weights(rule, twin)

    rule, twin = small_rule(), small_rule()
    made = learner(rule, [second, first], steps=2)
    made.fit(batches(3, num_batches=1), verbose=0)
    by_hand(twin, second, 2, 2)
    assert_equal_weights(rule, twin)

    losses = []
    for problem in (first, second):
        made = learner(small_rule(), problem, steps=2)
        data = batches(3, start=3, num_batches=1)
        losses.append(made.evaluate(data, verbose=0)[0])
    made = learner(small_rule(), [first, second], steps=2)
    data = batches(3, start=3, num_batches=1)
    assert made.evaluate(data, verbose=0)[0] == pytest.approx(losses[1])


@pytest.mark.slow
def test_evaluate_takes_its_own_number_of_steps():
    rule = small_rule()
    made = learner(rule, evaluation_steps=7)
    loss, final = made.evaluate(batches(3, num_batches=1), verbose=0)
    params, data = Valley().draw(0, 0, 3)
    _, losses = trajectory(
        rule, Valley(), (params, rule.init_state(params)), data, 0, 7, False
    )
    np.testing.assert_allclose(loss, tf.reduce_mean(losses[1:]))
    np.testing.assert_allclose(final, tf.reduce_mean(losses[-1]))


@pytest.mark.slow
def test_validation_and_the_best_weights(tmp_path):
    made = learner(optimizer=keras.optimizers.Adam(0.02))
    path = str(tmp_path / "best.weights.h5")
    history = made.fit(
        batches(3),
        steps_per_epoch=2,
        epochs=4,
        validation_data=batches(3, seed=1, start=50, num_batches=1),
        callbacks=[
            keras.callbacks.ModelCheckpoint(
                path, "val_loss", save_best_only=True, save_weights_only=True
            )
        ],
        verbose=0,
    ).history
    twin = learner()
    twin.load_weights(path)
    data = batches(3, seed=1, start=50, num_batches=1)
    best = twin.evaluate(data, verbose=0)[0]
    assert best == pytest.approx(min(history["val_loss"]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_training_learns_to_optimize(jit_compile):
    rule = keras_meta.CoordinatewiseLSTM(
        [8], preprocessing=None, output_scale=0.1, seed=0
    )
    made = keras_meta.OptimizerLearner(
        rule,
        keras_meta.problems.Quadratic(4),
        steps=20,
        meta_gradient=windows(10),
    )
    made.compile(keras.optimizers.Adam(0.01), jit_compile=jit_compile)
    data = batches(64, seed=1, num_batches=1)
    before = made.evaluate(data, verbose=0)[1]
    made.fit(batches(32, num_batches=60), verbose=0)
    assert made.evaluate(data, verbose=0)[1] < before / 3


@pytest.mark.slow
def test_the_curriculum_lengthens_the_unroll():
    rule, twin = small_rule(), small_rule()
    made = learner(rule, steps=4)
    made.fit(
        batches(3),
        steps_per_epoch=1,
        epochs=2,
        callbacks=[keras_meta.callbacks.LengthenUnroll({0: 2, 1: 4})],
        verbose=0,
    )
    assert made.steps == 4
    short = learner(twin, steps=2)
    short.fit(batches(3), steps_per_epoch=1, verbose=0)
    long = learner(twin, steps=4)
    long.fit(batches(3, start=3), steps_per_epoch=1, verbose=0)
    assert_equal_weights(rule, twin)


@pytest.mark.slow
def test_the_scale_of_the_loss_does_not_matter():
    rules = small_rule(), small_rule()
    for rule, scale in zip(rules, (None, 1024.0), strict=True):
        optimizer = keras.optimizers.SGD(RATE, loss_scale_factor=scale)
        made = learner(rule, optimizer=optimizer)
        made.fit(batches(3, num_batches=1), verbose=0)
    assert_equal_weights(*rules)


@pytest.mark.slow
def test_mixed_precision_around_it_changes_nothing():
    rules = small_rule(), small_rule()
    for rule, policy in zip(rules, ("float32", "mixed_float16"), strict=True):
        keras.config.set_dtype_policy(policy)
        try:
            made = learner(rule)
            made.fit(batches(3, num_batches=1), verbose=0)
        finally:
            keras.config.set_dtype_policy("float32")
    assert_equal_weights(*rules)


def test_with_attention_the_losses_are_those_of_the_parameters():
    problem, rule = Valley(), attending_rule()
    params, data = problem.draw(0, 0, 3)
    rule.attach(problem.variables, 3)
    runs, theta = runs_of(problem, rule, params, data)
    _, losses = runs.run(
        keras_meta.Unrolled().solve, theta, runs.start(theta), 0, 3
    )
    points, state = params, rule.init_state(params)
    for i in range(4):
        result, _ = rule.final(points, state)
        np.testing.assert_allclose(losses[i], problem.losses(result, data, i))
        with tf.GradientTape() as tape:
            tape.watch(points)
            loss = problem.losses(points, data, i)
        gradients = tape.gradient(loss, points)
        points, state = rule.update(points, gradients, state)


@pytest.mark.slow
def test_with_attention_both_directions_are_learned():
    rule = attending_rule()
    before = {w.name: tf.identity(w) for w in rule.weights}
    made = learner(rule, meta_gradient=windows(2, second_order=True))
    made.fit(batches(3, num_batches=1), verbose=0)
    for name in ("direction", "attention"):
        assert np.abs(rule._by_name[name] - before[name]).max() > 1e-9


@pytest.mark.slow
def test_the_first_state_is_learned_too():
    rule = keras_meta.HierarchicalRNN([3, 2, 2], seed=0, dtype="float64")
    made = learner(rule, meta_gradient="first_order")
    before = [tf.identity(w) for w in rule.weights]
    made.fit(batches(3, num_batches=1), verbose=0)
    moved = {
        weight.name: np.abs(weight - old).max()
        for weight, old in zip(rule.weights, before, strict=True)
    }
    starts = [x for name, x in moved.items() if name.endswith("_start")]
    assert len(starts) == 3 and min(starts) > 0


@pytest.mark.slow
def test_learned_rates_are_a_rule_too():
    rule = keras_meta.GradientDescent(0.05, "layer", dtype="float64")
    made = learner(rule, optimizer=keras.optimizers.SGD(0.001))
    before = rule.trainable_variables[0].numpy()
    made.fit(batches(3, num_batches=1), verbose=0)
    assert not np.allclose(rule.trainable_variables[0], before)
