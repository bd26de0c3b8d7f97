"""Runs that go on from one meta-step to the next, against plain loops."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta
from keras_meta.outer.kept_runs import KeptRuns
from keras_meta.problems import batches

from .optimizer_helpers import RATE
from .optimizer_helpers import Valley
from .optimizer_helpers import assert_equal_weights
from .optimizer_helpers import learner
from .optimizer_helpers import small_rule
from .optimizer_helpers import trajectory
from .optimizer_helpers import windows

# Two groups of two instances, on runs of three windows of two steps each.
KEPT = keras_meta.Kept(4, groups=2)
STEPS, LENGTH = 6, 2
# Which groups begin at each meta-step: the second one is a window ahead.
BEGINS = [{0, 1}, set(), {1}, {0}, set()]
PES = keras_meta.PersistentES(
    2, sigma=0.1, length=LENGTH, seed=5, draws="rademacher"
)


def kept_learner(rule=None, problem=None, **options):
    options = {"meta_gradient": windows(LENGTH), "start": KEPT, **options}
    return learner(rule, problem, STEPS, **options)


class BackpropagatedGroup:
    """A group whose windows are differentiated."""

    def __init__(self, rule, problem, index, number):
        self.rule, self.problem = rule, problem
        params, self.data = problem.draw(0, index, 2)
        self.carry = params, rule.init_state(params)
        self.position = 0

    def take(self, clock):
        """Returns gradients, the summed loss and the last one."""
        with tf.GradientTape() as tape:
            self.carry, losses = trajectory(
                self.rule,
                self.problem,
                self.carry,
                self.data,
                self.position,
                LENGTH,
                False,
            )
            value = tf.reduce_sum(tf.reduce_mean(losses[1:], axis=1))
        self.position += LENGTH
        gradients = tape.gradient(value, self.rule.trainable_variables)
        return gradients, value, tf.reduce_mean(losses[-1])


def draw_noise(theta, clock, number):
    """Draws the perturbations of two tasks."""
    seed = tf.constant([PES.seed, clock], tf.int64)
    number = tf.constant(number, tf.int64)
    seed = tf.random.experimental.stateless_fold_in(seed, number)
    return PES.noise(theta, seed, 2)


class PerturbedGroup:
    """A group whose particles run one by one, by persistent ES."""

    # XLA draws other numbers than TensorFlow.
    noise = staticmethod(draw_noise)

    def __init__(self, rule, problem, index, number):
        self.rule, self.problem, self.number = rule, problem, number
        # Ordered as particles of tasks.
        drawn = [problem.draw(0, index + i % 2, 1) for i in range(4)]
        self.data = [data for _, data in drawn]
        self.carries = {
            (pair, sign): (params, rule.init_state(params))
            for pair, (params, _) in enumerate(drawn)
            for sign in (1, -1)
        }
        self.sums = [0.0] * 4
        self.position = 0

    def take(self, clock):
        """Returns gradients, the summed loss and the last one."""
        variables = self.rule.trainable_variables
        theta = [tf.identity(v) for v in variables]
        noise = self.noise(theta, clock, self.number)
        gradients, values, ends = [], {}, []
        for pair in range(4):
            own = [n[pair] for n in noise]
            for sign in (1, -1):
                for variable, value, n in zip(
                    variables, theta, own, strict=True
                ):
                    variable.assign(value + sign * PES.sigma * n)
                self.carries[pair, sign], losses = trajectory(
                    self.rule,
                    self.problem,
                    self.carries[pair, sign],
                    self.data[pair],
                    self.position,
                    LENGTH,
                    False,
                )
                values[pair, sign] = tf.reduce_sum(losses[1:])
                ends.append(losses[-1])
            if not self.position:
                self.sums[pair] = [tf.zeros_like(n) for n in own]
            self.sums[pair] = [
                a + b for a, b in zip(self.sums[pair], own, strict=True)
            ]
            slope = (values[pair, 1] - values[pair, -1]) / (2 * PES.sigma)
            gradients.append([slope * s for s in self.sums[pair]])
        for variable, value in zip(variables, theta, strict=True):
            variable.assign(value)
        self.position += LENGTH
        mean = [sum(parts) / 4 for parts in zip(*gradients, strict=True)]
        value = sum(values.values()) / len(values)
        return mean, value, tf.reduce_mean(ends)


class CompiledDraws(PerturbedGroup):
    """A group that gets what XLA draws."""

    noise = staticmethod(tf.function(draw_noise, jit_compile=True))


def by_hand(rule, problem, group, begins, unsound=()):
    """Takes a meta-step of SGD for each entry of `begins`.

    Args:
        rule: The rule, which learns.
        problem: The problem.
        group: Makes a group.
        begins: Which groups begin, for each meta-step.
        unsound: Pairs of a meta-step and a group that do not count.

    Returns:
        The mean loss, the mean of the losses after windows, and the
        positions of the groups.
    """
    groups, values, ends = {}, [], []
    for clock, new in enumerate(begins):
        for number in new:
            index = 4 * clock + 2 * number
            groups[number] = group(rule, problem, index, number)
        taken = [groups[number].take(clock) for number in range(2)]
        sound = [
            window
            for number, window in enumerate(taken)
            if (clock, number) not in unsound
        ]
        gradients = zip(*(window[0] for window in sound), strict=True)
        for variable, parts in zip(
            rule.trainable_variables, gradients, strict=True
        ):
            variable.assign_sub(RATE * sum(parts) / len(parts))
        values += [float(window[1]) for window in sound]
        ends += [float(window[2]) for window in sound]
    positions = [groups[number].position for number in range(2)]
    return np.mean(values) / LENGTH, np.mean(ends), positions


@pytest.mark.slow_variants("differentiated-xla", "perturbed", "perturbed-xla")
@pytest.mark.parametrize(
    "meta_gradient, group, jit_compile",
    [
        (windows(LENGTH), BackpropagatedGroup, False),
        (windows(LENGTH), BackpropagatedGroup, True),
        (PES, PerturbedGroup, False),
        (PES, CompiledDraws, True),
    ],
    ids=[
        "differentiated",
        "differentiated-xla",
        "perturbed",
        "perturbed-xla",
    ],
)
def test_fit_equals_a_plain_loop(meta_gradient, group, jit_compile):
    rule, twin = small_rule(), small_rule()
    made = kept_learner(
        rule, meta_gradient=meta_gradient, jit_compile=jit_compile
    )
    data = batches(4, num_batches=len(BEGINS))
    history = made.fit(data, verbose=0).history
    loss, final, positions = by_hand(twin, Valley(), group, BEGINS)
    assert_equal_weights(rule, twin)
    np.testing.assert_allclose(history["loss"], [loss], rtol=1e-6)
    np.testing.assert_allclose(history["final_loss"], [final], rtol=1e-6)
    assert positions == [4, 6]
    np.testing.assert_array_equal(made._kept.position, positions)


@pytest.mark.slow
@pytest.mark.parametrize(
    "meta_gradient",
    [
        windows(LENGTH),
        PES,
        keras_meta.NoiseReuseES(2, length=LENGTH),
        keras_meta.EvolutionStrategies(2, length=LENGTH),
    ],
    ids=lambda x: type(x).__name__,
)
def test_training_goes_on_from_a_file(meta_gradient, tmp_path):
    path = tmp_path / "middle.weights.h5"

    def make():
        adam = keras.optimizers.Adam(0.01)
        return kept_learner(meta_gradient=meta_gradient, optimizer=adam)

    made, twin = make(), make()
    made.fit(batches(4, num_batches=2), verbose=0)
    made.save_weights(path)
    twin.optimizer.build(twin.trainable_variables)
    twin.load_weights(path)
    for resumed in (made, twin):
        resumed.fit(batches(4, start=8, num_batches=3), verbose=0)
    assert np.any(made._kept.position)
    for x, y in zip(made.weights, twin.weights, strict=True):
        np.testing.assert_array_equal(x, y)


class Cliff(Valley):
    """An instance of the first batch becomes NaN at step 3."""

    def __init__(self, instance):
        super().__init__()
        self.instance = instance

    def losses(self, params, data, step, **options):
        losses = super().losses(params, data, step, **options)
        bad = tf.logical_and(
            tf.equal(step, 3), tf.equal(data, self.instance + 1.0)
        )
        nothing = tf.zeros([], losses.dtype)
        return losses + tf.where(bad, nothing + np.nan, nothing)


@pytest.mark.slow_variants("differentiated", "perturbed")
@pytest.mark.parametrize(
    "meta_gradient, group",
    [(windows(LENGTH), BackpropagatedGroup), (PES, PerturbedGroup)],
    ids=["differentiated", "perturbed"],
)
def test_a_group_that_diverges_begins_anew(meta_gradient, group):
    rule, twin = small_rule(), small_rule()
    options = {"meta_gradient": meta_gradient, "tolerated_divergences": 1}
    # The other group goes on, and the rule learns from it. This one does not
    # wait for its turn.
    made = kept_learner(rule, Cliff(1), **options)
    history = made.fit(batches(4, num_batches=4), verbose=0).history
    begins = [{0, 1}, set(), {0, 1}, {0}]
    loss, final, _ = by_hand(twin, Cliff(1), group, begins, unsound={(1, 0)})
    assert_equal_weights(rule, twin)
    assert history["diverged"] == [0.25]
    np.testing.assert_allclose(history["loss"], [loss], rtol=1e-6)
    np.testing.assert_allclose(history["final_loss"], [final], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "meta_gradient", [windows(LENGTH), PES], ids=["differentiated", "perturbed"]
)
def test_divergences_that_are_not_tolerated_name_the_instance(meta_gradient):
    made = kept_learner(problem=Cliff(3), meta_gradient=meta_gradient)
    with pytest.raises(
        FloatingPointError, match="instance 3 .* step 3.*begins anew"
    ):
        made.fit(batches(4, num_batches=2), verbose=0)


@pytest.mark.slow
def test_steps_without_weight_do_not_count():
    rule, twin = small_rule(), small_rule()
    # Only the last window of a run has a step that counts.
    weights = [0, 0, 0, 0, 0, 2]
    made = kept_learner(rule, step_weights=weights)
    data = batches(4, num_batches=3)
    history = made.fit(data, verbose=0).history
    # One group takes that window once, from parameters of the first rule.
    group = BackpropagatedGroup(twin, Valley(), 0, 0)
    for clock in range(3):
        _, _, final = group.take(clock)
    np.testing.assert_allclose(history["loss"], [float(final)], rtol=1e-6)


def begun(kept, schedule):
    """Returns positions after each of several meta-steps.

    Args:
        kept: Kept runs.
        schedule: The windows of a run, for each meta-step.
    """
    positions = []
    for clock, count in enumerate(schedule):
        groups = kept.groups(
            tf.constant(0, tf.int64),
            tf.constant(4 * clock, tf.int64),
            tf.constant(count, tf.int64),
            LENGTH,
        )
        sound = tf.ones([kept.settings.groups], tf.bool)
        kept.keep(groups, [], sound, LENGTH)
        positions.append((kept.position.numpy() // LENGTH).tolist())
    return positions


def kept_runs(groups):
    model = keras.Model()
    return KeptRuns.make(keras_meta.Kept(groups, groups), [], model.add_weight)


def test_groups_are_staggered():
    assert begun(kept_runs(2), [3] * 6) == [
        [1, 1],
        [2, 2],
        [3, 1],
        [1, 2],
        [2, 3],
        [3, 1],
    ]
    positions = begun(kept_runs(4), [8] * 20)
    for row in positions[8:]:
        assert len({*row}) == 4 and max(row) <= 8


def test_a_curriculum_staggers_groups_again():
    # Short runs are in lockstep; longer ones are not.
    positions = begun(kept_runs(3), [1, 1] + [6] * 12)
    assert positions[1] == [1, 1, 1]
    for row in positions[6:]:
        assert len({*row}) == 3
    # Runs are cut where fewer steps are asked for.
    positions = begun(kept_runs(3), [6] * 12 + [2] * 4)
    assert max(map(max, positions[12:])) <= 2


@pytest.mark.slow
def test_the_curriculum_changes_kept_runs():
    made = kept_learner()
    curriculum = keras_meta.callbacks.LengthenUnroll({0: 2, 1: 6})
    made.fit(
        batches(4),
        steps_per_epoch=2,
        epochs=2,
        callbacks=[curriculum],
        verbose=0,
    )
    # At the clocks 2 and 3 the groups take turns: 1 begins, then 0.
    np.testing.assert_array_equal(made._kept.position, [2, 4])


@pytest.mark.slow
def test_evaluation_begins_at_new_instances():
    rule = small_rule()
    data = batches(3, num_batches=1)
    made = kept_learner(rule)
    before = [w.numpy() for w in made.weights]
    plain = learner(rule, steps=STEPS)
    assert made.evaluate(data, verbose=0) == plain.evaluate(data, verbose=0)
    for weight, value in zip(made.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"start": "kept"}, r"keras_meta.Kept\(instances\).*start='kept'"),
        ({"start": None}, "start=None"),
        ({"meta_gradient": "first_order"}, "shorter than `steps`.*FirstOrder"),
        ({"meta_gradient": windows(6)}, "shorter than `steps`.*length=6"),
        (
            {"start": keras_meta.Kept(4, groups=4)},
            "lockstep.*3 windows, of 2 steps",
        ),
        ({"problem": [Valley(), Valley()]}, "must be one.*2 problems"),
    ],
)
def test_runs_that_cannot_be_kept_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        kept_learner(**options)


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="divide.*instances=5, groups=4"):
        keras_meta.Kept(5)
    with pytest.raises(ValueError, match="`groups` must be a positive"):
        keras_meta.Kept(4, groups=0)


def test_a_batch_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"a batch of 3.*batches\(4, ...\)"):
        kept_learner().fit(batches(3, num_batches=1), verbose=0)
