"""Evolution strategies for few-shot learners."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta
from keras_meta.batching.task_batched import TaskBatched
from keras_meta.execution import task_blocks
from keras_meta.inner.few_shot import FewShotProblem
from keras_meta.inner.inner_loss import InnerLoss
from keras_meta.inner.solver import Solver
from keras_meta.learners.losses.batch_objective import BatchObjective
from tests.learners.helpers import classification
from tests.learners.helpers import compiled
from tests.learners.helpers import convolutional_net
from tests.learners.helpers import crossentropy
from tests.learners.helpers import dataset
from tests.learners.helpers import mlp
from tests.learners.helpers import normalized_mlp
from tests.learners.helpers import refuses
from tests.learners.helpers import regression
from tests.learners.helpers import weights
from tests.reference import assert_close
from tests.reference import normal

TASKS = 3
NAMES = ["evolution_strategies", "persistent_es", "noise_reuse_es"]


@keras.saving.register_keras_serializable("keras_meta_tests")
@dataclasses.dataclass(frozen=True)
class GivenNoise(keras_meta.EvolutionStrategies):
    """Perturbs all tasks by the rows of a matrix, `[particles, size]`."""

    rows: tuple = ()

    def noise(self, theta, seed, tasks=1):
        rows = tf.repeat(tf.constant(self.rows, tf.float64), tasks, axis=0)
        sizes = [int(np.prod(value.shape)) for value in theta]
        parts = tf.split(rows, sizes, axis=1)
        return [
            tf.reshape(part, [-1, *value.shape])
            for part, value in zip(parts, theta, strict=True)
        ]


def given(rows, sigma):
    rows = np.asarray(rows, float)
    return GivenNoise(len(rows), sigma, rows=tuple(map(tuple, rows)))


def objective(learner, x, y, sample_weight=None):
    learner.optimizer.build(learner.trainable_variables)
    return BatchObjective(
        learner,
        keras.tree.map_structure(tf.convert_to_tensor, x),
        tf.convert_to_tensor(y),
        sample_weight,
    )


def flat(tensors):
    return np.concatenate([np.ravel(t) for t in tensors])


def values(learner):
    return [tf.convert_to_tensor(v) for v in learner.trainable_variables]


def loss_at(learner, theta, data):
    """The outer loss of a batch; the learner stays as it is."""
    before = weights(learner)
    for variable, value in zip(learner.trainable_variables, theta, strict=True):
        variable.assign(value)
    loss, _ = objective(learner, *data).outer_loss()
    for weight, value in zip(learner.weights, before, strict=True):
        weight.assign(value)
    return loss.numpy()


# Losses of rows.


def lstm_rule():
    return keras_meta.CoordinatewiseLSTM((3,), dtype="float64", seed=1)


def step_rates():
    return keras_meta.GradientDescent(0.3, learn="layer_step", clip_norm=0.5)


def recurrent_net():
    return keras.Sequential(
        [
            keras.Input([2]),
            keras.layers.Reshape([2, 1]),
            keras.layers.SimpleRNN(2),
            keras.layers.Dense(1),
        ]
    )


REGRESSION = {
    "maml": lambda: keras_meta.MAML(mlp(), 0.3, 2),
    "anil": lambda: keras_meta.ANIL(mlp(), 0.3, 2),
    "meta_sgd": lambda: keras_meta.MetaSGD(mlp(), steps=2),
    "step_rates": lambda: keras_meta.MAML(mlp(), step_rates(), 2),
    "momentum": lambda: keras_meta.MAML(mlp(), keras_meta.Momentum(0.1), 2),
    "adam": lambda: keras_meta.MAML(mlp(), keras_meta.Adam(0.05), 2),
    "hyperparameters": lambda: keras_meta.MAML(
        mlp(), keras_meta.LearnedHyperparameters(0.05), 2
    ),
    "lstm": lambda: keras_meta.MAML(mlp(), lstm_rule(), 2),
    "frozen": lambda: keras_meta.ANIL(normalized_mlp(), 0.3, 2),
    "running": lambda: keras_meta.MAML(
        normalized_mlp(), 0.3, 2, batch_statistics="running"
    ),
    "support": lambda: keras_meta.MAML(
        normalized_mlp(), 0.3, 2, batch_statistics="support"
    ),
    "fallback": lambda: keras_meta.ANIL(recurrent_net(), 0.3, 2),
}


def assert_rows_are_tasks(learner, data):
    x, y, *rest = data
    copies = 2
    theta = [
        value + 0.1 * normal([copies * TASKS, *value.shape], i)
        for i, value in enumerate(values(learner))
    ]
    before = weights(learner)
    actual = objective(learner, *data).task_losses(theta, copies).numpy()
    for old, new in zip(before, weights(learner), strict=True):
        np.testing.assert_array_equal(old, new)
    expected = [
        loss_at(
            learner,
            [value[row] for value in theta],
            keras.tree.map_structure(
                lambda a, row=row: a[row % TASKS : row % TASKS + 1],
                (x, y, *rest),
            ),
        )
        for row in range(copies * TASKS)
    ]
    np.testing.assert_allclose(actual, expected, rtol=1e-9)
    assert len(set(expected)) == len(expected)


@pytest.mark.slow_variants(
    "frozen",
    "meta_sgd",
    "step_rates",
    "lstm",
    "running",
    "anil",
    "adam",
    "fallback",
    "hyperparameters",
    "momentum",
    "support",
)
@pytest.mark.parametrize("name", REGRESSION)
def test_rows_equal_learners_with_their_meta_parameters(name):
    learner = compiled(REGRESSION[name]())
    assert_rows_are_tasks(learner, regression(tasks=TASKS))


@pytest.mark.slow
def test_rows_of_a_convolutional_net():
    learner = keras_meta.ANIL(convolutional_net(), 0.3, 2)
    data = classification(tasks=TASKS, shape=(6, 6, 1))
    assert_rows_are_tasks(compiled(learner, loss=crossentropy()), data)


def test_rows_with_weights_of_examples():
    x, y = regression(tasks=TASKS)
    rng = np.random.default_rng(0)
    x["support_sample_weight"] = rng.uniform(size=[TASKS, 5])
    weight = tf.constant(rng.uniform(size=[TASKS, 4]))
    learner = compiled(keras_meta.MAML(mlp(), 0.3, 2))
    assert_rows_are_tasks(learner, (x, y, weight))


@pytest.mark.slow
def test_layers_that_are_frozen_later_are_not_perturbed():
    learner = compiled(keras_meta.ANIL(mlp(), 0.3, 2))
    data = regression(tasks=TASKS)
    assert_rows_are_tasks(learner, data)
    learner.model.layers[0].trainable = False
    assert len(values(learner)) == 2
    assert_rows_are_tasks(learner, data)


def test_layers_that_are_frozen_later_adapt_without_being_perturbed():
    learner = compiled(keras_meta.MAML(mlp(), 0.3, 2, proximal=0.5))
    learner.model.layers[0].trainable = False
    assert len(values(learner)) == 2
    assert_rows_are_tasks(learner, regression(tasks=TASKS))


@pytest.mark.slow
def test_copies_of_a_task_see_the_same_random_numbers():
    model = mlp()
    model = keras.Sequential(
        [keras.Input([2]), model.layers[0], keras.layers.Dropout(0.5)]
        + model.layers[1:]
    )
    learner = compiled(keras_meta.MAML(model, 0.3, 2))
    batch = objective(learner, *regression(tasks=TASKS))
    theta = [tf.stack([v] * 2 * TASKS) for v in values(learner)]
    losses = np.reshape(batch.task_losses(theta, 2), [2, TASKS])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-12)
    assert_close(np.mean(losses), batch.outer_loss()[0])


# Gradients.


def linear_net():
    """A prediction that is linear in each of two layers."""
    x = keras.Input([2])
    head = keras.layers.Dense(1, use_bias=False, name="head")
    body = keras.layers.Dense(1, use_bias=False, name="body")
    return keras.Model(x, keras.layers.Add()([body(x), head(x)]))


@pytest.mark.parametrize("adapt", ["all", ["head"]])
def test_orthogonal_signs_give_the_unrolled_gradient(adapt):
    """The outer loss is quadratic in the initialization."""
    learner = compiled(keras_meta.MAML(linear_net(), 0.2, 3, adapt=adapt))
    h2 = np.array([[1, 1], [1, -1]])
    batch = objective(learner, *regression(tasks=TASKS))
    exact = keras_meta.Unrolled().estimate(batch)
    estimate = given(np.kron(h2, h2), 0.5).estimate(batch)
    assert_close(estimate.gradients, exact.gradients)
    assert_close(estimate.loss, exact.loss)
    assert_close(estimate.predictions, exact.predictions)
    assert np.abs(flat(exact.gradients)).min() > 1e-3


@pytest.mark.slow_variants("lstm", "step_rates", "running")
@pytest.mark.parametrize("name", ["maml", "step_rates", "lstm", "running"])
def test_noise_along_one_axis_gives_the_central_difference(name):
    learner = compiled(REGRESSION[name]())
    data = regression(tasks=TASKS)
    sigma, theta = 1e-3, values(learner)
    sizes = [int(np.prod(value.shape)) for value in theta]
    ends = np.cumsum(sizes)
    # The last coordinate of each variable.
    axes = np.eye(ends[-1])[ends - 1]
    estimate = given(axes, sigma).estimate(objective(learner, *data))
    numeric = []
    for axis in axes:
        parts = np.split(sigma * axis, ends[:-1])
        moves = [
            part.reshape(value.shape)
            for part, value in zip(parts, theta, strict=True)
        ]
        ahead, behind = (
            loss_at(
                learner,
                [t + s * m for t, m in zip(theta, moves, strict=True)],
                data,
            )
            for s in (1, -1)
        )
        numeric.append((ahead - behind) / (2 * sigma))
    actual = flat(estimate.gradients)[ends - 1] * len(axes)
    np.testing.assert_allclose(actual, numeric, rtol=1e-8, atol=1e-10)
    assert np.abs(numeric).max() > 1e-4


@pytest.mark.slow
def test_windows_of_a_learned_rule_add_up_to_the_whole_run():
    learner = compiled(REGRESSION["lstm"]())
    data, _ = regression(tasks=TASKS)
    data = keras.tree.map_structure(tf.constant, data)
    solver = Solver(learner.update_rule)
    problem = FewShotProblem(
        variables=learner.trainable_variables,
        theta_per_task=True,
        task_batched=TaskBatched(
            learner.model, learner.model.trainable_variables
        ),
        inner_loss=InnerLoss("mse"),
        batch_statistics="batch",
        training=True,
    )
    data = {k: tf.tile(v, [4, 1, 1]) for k, v in data.items()}

    def run(theta, carry, first, steps):
        carry, losses = solver.run(
            problem, theta, data, carry, steps, first=first
        )
        return tf.reduce_sum(losses, axis=0), carry

    def of_windows(strategy, noises, steps):
        particles = strategy.begin(
            lambda theta: solver.init(problem, theta, data), theta, noises[0]
        )
        total = 0.0
        for i, noise in enumerate(noises):
            window = strategy.window(
                run, theta, particles, noise, i * steps, steps
            )
            particles = window.particles
            total += flat(window.gradients)
        return total

    theta = values(learner)
    whole = keras_meta.EvolutionStrategies(2, 0.1)
    noise = whole.noise(theta, tf.constant([0, 1]), TASKS)
    expected = of_windows(whole, [noise], 3)
    actual = of_windows(keras_meta.NoiseReuseES(2, 0.1), [noise] * 3, 1)
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)
    assert np.abs(expected).max() > 1e-3


def test_regularizers_are_differentiated_exactly():
    model = linear_net()
    model.get_layer("body").kernel.regularizer = keras.regularizers.L1(0.5)
    learner = compiled(keras_meta.MAML(model, 0.2))
    batch = objective(learner, *regression(tasks=TASKS))
    h2 = np.array([[1, 1], [1, -1]])
    # Steps that are so large would not see where the regularizer bends.
    estimate = given(np.kron(h2, h2), 5.0).estimate(batch)
    exact = keras_meta.Unrolled().estimate(batch)
    assert_close(estimate.gradients, exact.gradients)
    assert_close(estimate.loss, exact.loss)


def test_gradients_are_scaled_with_the_loss():
    make = keras.optimizers.LossScaleOptimizer
    optimizer = make(keras.optimizers.SGD(0.1), initial_scale=64.0)
    model = linear_net()
    model.get_layer("body").kernel.regularizer = keras.regularizers.L2(0.5)
    learner = compiled(keras_meta.MAML(model, 0.2), optimizer)
    batch = objective(learner, *regression(tasks=TASKS))
    estimate = given(np.eye(4), 0.5).estimate(batch)
    learner.compile("sgd", "mse", jit_compile=False)
    plain = given(np.eye(4), 0.5).estimate(
        objective(learner, *regression(tasks=TASKS))
    )
    assert_close(estimate.loss, plain.loss)
    assert_close(estimate.gradients, [64.0 * g for g in plain.gradients])


def test_each_pair_of_each_task_has_noise_of_its_own():
    strategy = keras_meta.EvolutionStrategies(2, 0.1)
    (noise,) = strategy.noise([tf.zeros([3])], tf.constant([0, 0]), TASKS)
    assert noise.shape == [2 * TASKS, 3]
    assert len({tuple(row) for row in noise.numpy()}) == 2 * TASKS


def _seed(learner, number=0):
    batch = objective(learner, *regression(tasks=TASKS))
    return tuple(batch.seed(number).numpy())


@pytest.mark.parametrize("accumulated", [None, 4])
def test_seeds_differ_by_step_and_by_number(accumulated):
    learner = compiled(
        keras_meta.MAML(mlp(), 0.1),
        keras.optimizers.SGD(0.1, gradient_accumulation_steps=accumulated),
        run_eagerly=True,
    )
    first = _seed(learner)
    assert first == _seed(learner)
    assert first != _seed(learner, 1)
    learner.train_on_batch(*regression(tasks=TASKS))
    assert _seed(learner) != first


# Training.


def few_shot(name="evolution_strategies", **kwargs):
    kwargs.setdefault("meta_gradient", name)
    rule = keras_meta.GradientDescent(0.3, learn="scalar")
    return keras_meta.MAML(mlp(), rule, **kwargs)


@pytest.mark.slow
def test_fitting_moves_everything_that_learns():
    learner = compiled(few_shot())
    before = [v.numpy() for v in learner.trainable_variables]
    history = learner.fit(dataset(regression(2)), verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    for old, variable in zip(before, learner.trainable_variables, strict=True):
        assert np.all(old != variable.numpy()), variable.path


@pytest.mark.slow
def test_names_make_the_same_of_whole_inner_loops():
    results = []
    for name in NAMES:
        keras.utils.set_random_seed(0)
        learner = compiled(few_shot(name), run_eagerly=True)
        learner.train_on_batch(*regression(tasks=TASKS))
        results.append(weights(learner))
    assert_close(results[1], results[0])
    assert_close(results[2], results[0])


def _misses(y_true, y_pred):
    """The share of wrong classes, which has no derivative."""
    classes = tf.cast(tf.argmax(y_pred, axis=-1), y_true.dtype)
    return tf.cast(y_true != classes, y_pred.dtype)


def test_the_outer_loss_may_be_an_error_rate():
    model = mlp(outputs=3)
    learner = keras_meta.MAML(
        model,
        0.5,
        inner_loss=crossentropy(),
        meta_gradient=keras_meta.EvolutionStrategies(16, 0.5),
    )
    data = classification(tasks=8)
    compiled(learner, keras.optimizers.SGD(0.5), _misses)
    before = weights(learner)
    history = learner.fit(dataset(data).batch(8), epochs=2, verbose=0)
    assert np.any(weights(learner)[0] != before[0])
    assert 0 < history.history["loss"][0] < 1


@pytest.mark.slow
def test_training_continues_from_a_file_as_if_it_had_not_stopped(tmp_path):
    data = regression(2)
    meta_gradient = keras_meta.PersistentES(
        3, 0.2, 7, seed=5, draws="rademacher"
    )
    learner = compiled(few_shot(meta_gradient=meta_gradient), "adam")
    learner.fit(dataset(data), verbose=0)
    learner.save(tmp_path / "learner.keras")
    loaded = keras.saving.load_model(tmp_path / "learner.keras")
    assert loaded.meta_gradient == meta_gradient
    for model in (learner, loaded):
        model.fit(dataset(data), verbose=0)
    assert_close(weights(loaded), weights(learner), 0.0)


@pytest.mark.slow
def test_the_learner_keeps_statistics_of_unperturbed_tasks():
    learners = []
    for name in ("unrolled", "evolution_strategies"):
        keras.utils.set_random_seed(0)
        learner = keras_meta.MAML(
            normalized_mlp(),
            0.3,
            meta_gradient=name,
            batch_statistics="running",
        )
        compiled(learner, run_eagerly=True)
        learner.train_on_batch(*regression(tasks=TASKS))
        learners.append(learner)
    norms = [learner.model.get_layer("norm") for learner in learners]
    assert np.all(norms[0].moving_mean.numpy() != 0)
    assert_close(norms[1].moving_mean, norms[0].moving_mean)
    assert_close(norms[1].moving_variance, norms[0].moving_variance)


@pytest.mark.parametrize("name", ["evolution_strategies", "displacement"])
@pytest.mark.parametrize("adapt", ["all", "head"])
def test_calls_have_no_derivative_rather_than_a_wrong_one(adapt, name):
    learner = compiled(
        keras_meta.MAML(mlp(), 0.3, adapt=adapt, meta_gradient=name)
    )
    x, _ = regression(tasks=TASKS)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(learner(x, training=True))
    variables = list(learner.trainable_variables)
    assert tape.gradient(loss, variables) == [None] * len(variables)


@pytest.mark.slow
def test_a_rule_that_looks_ahead_is_accepted():
    rule = keras_meta.HierarchicalRNN(attention=True)
    learner = compiled(
        keras_meta.MAML(mlp(), rule, meta_gradient="evolution_strategies"),
        run_eagerly=True,
    )
    before = weights(learner)
    learner.train_on_batch(*regression(tasks=TASKS))
    assert any(
        np.any(a != b) for a, b in zip(before, weights(learner), strict=True)
    )


@pytest.mark.slow
def test_tasks_are_not_taken_in_blocks(monkeypatch):
    monkeypatch.setattr(task_blocks, "is_faster_plain", lambda *_: True)
    monkeypatch.delattr(task_blocks, "map_blocks")
    learner = keras_meta.MAML(
        convolutional_net(), 0.1, meta_gradient="evolution_strategies"
    )
    data = classification(1, tasks=TASKS, shape=(6, 6, 1))
    compiled(learner, loss=crossentropy()).fit(dataset(data), verbose=0)


@pytest.mark.slow
def test_xla_and_many_steps_train_as_plain_steps_do():
    # XLA draws other normal numbers.
    signs = keras_meta.EvolutionStrategies(draws="rademacher")
    results = []
    for options in (
        {"jit_compile": False},
        {"jit_compile": True},
        {"jit_compile": True, "steps_per_execution": 4},
    ):
        keras.utils.set_random_seed(0)
        learner = compiled(few_shot(meta_gradient=signs), **options)
        history = learner.fit(dataset(regression(4)), verbose=0)
        results.append((history.history["loss"], weights(learner)))
    assert_close(results[1], results[0])
    assert_close(results[2], results[0])


# Refusals.


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"particles": 0}, "`particles` must be a positive integer"),
        ({"sigma": 0.0}, "`sigma` must be a positive number"),
        ({"sigma": float("nan")}, "`sigma` must be a positive number"),
        ({"length": 0}, "`length` must be a positive integer"),
        ({"seed": 1.5}, "`seed` must be an integer"),
        ({"draws": "uniform"}, "`draws` must be one of 'normal', 'rad"),
    ],
)
@pytest.mark.parametrize(
    "method",
    [
        keras_meta.EvolutionStrategies,
        keras_meta.PersistentES,
        keras_meta.NoiseReuseES,
    ],
)
def test_bad_options_are_refused(method, arguments, match):
    with refuses(ValueError, match):
        method(**arguments)


def _train(learner, loss="mse", **options):
    compiled(learner, loss=loss, run_eagerly=True, **options)
    learner.train_on_batch(*regression(tasks=TASKS))


def test_windows_shorter_than_the_inner_loop_are_refused():
    meta_gradient = keras_meta.PersistentES(length=2)
    match = "`length`.*least `steps`.*steps=3.*length=2.*Use length=None"
    with refuses(ValueError, match):
        keras_meta.MAML(mlp(), 0.1, 3, meta_gradient=meta_gradient)
    learner = keras_meta.MAML(mlp(), 0.1, 2, meta_gradient=meta_gradient)
    _train(learner)
    # The number of steps is an attribute, which may change.
    learner.steps = 3
    with refuses(ValueError, match):
        _train(learner)


def test_weights_of_steps_are_refused():
    with refuses(ValueError, "`step_weights` weigh.*EvolutionStr.*Unrolled"):
        keras_meta.MAML(
            mlp(), 0.1, 2, step_weights="uniform", meta_gradient=NAMES[0]
        )


def test_losses_that_layers_add_are_refused():
    model = mlp()
    model.layers[0].activity_regularizer = keras.regularizers.L2(0.1)
    learner = keras_meta.MAML(model, 0.1, meta_gradient=NAMES[0])
    with refuses(ValueError, "layers of the model add 1.*activity reg"):
        _train(learner)


def test_sums_over_tasks_are_refused():
    learner = keras_meta.MAML(mlp(), 0.1, meta_gradient=NAMES[0])
    with refuses(ValueError, "mean over tasks.*reduction='sum'"):
        _train(learner, keras.losses.MeanSquaredError(reduction="sum"))


def test_weights_of_losses_are_refused():
    learner = keras_meta.MAML(mlp(), 0.1, meta_gradient=NAMES[0])
    with refuses(ValueError, "loss_weights=2.0"):
        _train(learner, loss_weights=2.0)


def test_several_losses_are_refused():
    learner = keras_meta.MAML(
        mlp(), 0.1, meta_gradient=NAMES[0], inner_loss="mse"
    )
    with refuses(ValueError, r"one compiled loss.*loss=.*mse"):
        _train(learner, ["mse"])


class OwnLoss(keras_meta.MAML):
    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        return tf.reduce_mean(tf.abs(y - y_pred))


class OwnTaskLosses(OwnLoss):
    def task_losses(self, x, y, sample_weight, theta, copies):
        return tf.reduce_sum(theta[0] ** 2, [1, 2])


def test_a_loss_of_ones_own_needs_losses_of_tasks():
    with refuses(ValueError, "OwnLoss has a `compute_loss`.*`task_losses`"):
        _train(OwnLoss(mlp(), 0.1, meta_gradient=NAMES[0]))
    learner = OwnTaskLosses(mlp(), 0.1, meta_gradient=given(np.eye(17)[:1], 1))
    before = weights(learner)[0]
    _train(learner)
    moved = before - weights(learner)[0]
    # SGD(0.1) on the square of the first coordinate.
    np.testing.assert_allclose(moved[0, 0], 0.2 * before[0, 0], rtol=1e-9)
    assert np.count_nonzero(moved) == 1


def test_a_perturbation_without_a_finite_loss_stops_training():
    meta_gradient = given(1e200 * np.ones([1, 17]), 1.0)
    learner = keras_meta.MAML(mlp(), 0.1, meta_gradient=meta_gradient)
    before = weights(compiled(learner))
    with refuses(FloatingPointError, "or its gradient, is not finite"):
        learner.fit(dataset(regression(1)), verbose=0)
    assert_close(weights(learner), before, 0.0)
