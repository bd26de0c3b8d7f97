"""What holds for every learner, update rule and meta-gradient.

A new one is a new row of a table.
"""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta
from tests.learners.helpers import WAYS
from tests.learners.helpers import assert_same_weights
from tests.learners.helpers import batch
from tests.learners.helpers import classification
from tests.learners.helpers import compiled
from tests.learners.helpers import crossentropy
from tests.learners.helpers import dataset
from tests.learners.helpers import mlp
from tests.learners.helpers import normalized_mlp
from tests.learners.helpers import refuses
from tests.learners.helpers import regression
from tests.learners.helpers import run_python
from tests.learners.helpers import weights


def _with_rule(make_rule, **options):
    return lambda: keras_meta.MAML(mlp(), make_rule(), 3, **options)


def _with_gradient(make_meta_gradient, **options):
    return lambda: keras_meta.MAML(
        mlp(), 0.1, 3, meta_gradient=make_meta_gradient(), **options
    )


LEARNERS = {
    "ANIL": lambda: keras_meta.ANIL(mlp(), 0.1, 3),
    "BayesianMAML": lambda: keras_meta.BayesianMAML(mlp(), 0.1, 3, particles=3),
    "ImplicitMAML": lambda: keras_meta.ImplicitMAML(mlp(), 0.1, 5),
    "MAML": lambda: keras_meta.MAML(mlp(), 0.1, 3, step_weights="uniform"),
    "MAMLEnsemble": lambda: keras_meta.MAMLEnsemble(mlp(), 0.1, 3, particles=2),
    "MetaSGD": lambda: keras_meta.MetaSGD(mlp(), steps=3, seed=0),
    "ProbabilisticMAML": lambda: keras_meta.ProbabilisticMAML(
        mlp(), 0.1, 3, samples=4, training_samples=2, scale=0.5
    ),
    "Reptile": lambda: keras_meta.Reptile(mlp(), 0.1, 3, batch_size=2),
}
RULES = {
    "Adam": _with_rule(lambda: keras_meta.Adam(0.1)),
    "CoordinatewiseLSTM": _with_rule(
        lambda: keras_meta.CoordinatewiseLSTM([3], seed=0)
    ),
    "GradientDescent": _with_rule(
        lambda: keras_meta.GradientDescent(0.1, "layer_step", clip_norm=1.0)
    ),
    "HierarchicalRNN": _with_rule(
        lambda: keras_meta.HierarchicalRNN([3, 2, 2], seed=0)
    ),
    "LearnedHyperparameters": _with_rule(keras_meta.LearnedHyperparameters),
    "MetaLearnerLSTM": _with_rule(
        lambda: keras_meta.MetaLearnerLSTM(3, seed=0),
        meta_gradient="first_order",
    ),
    "Momentum": _with_rule(lambda: keras_meta.Momentum(0.1, "scalar")),
    "RMSprop": _with_rule(lambda: keras_meta.RMSprop(0.1)),
    "SteinGradient": _with_rule(
        lambda: keras_meta.SteinGradient(keras_meta.Momentum(0.1), particles=1)
    ),
}
# XLA draws the same signs as TensorFlow, but other normal numbers.
META_GRADIENTS = {
    "Displacement": _with_gradient(keras_meta.Displacement),
    "EvolutionStrategies": _with_gradient(
        lambda: keras_meta.EvolutionStrategies(2, 0.1, draws="rademacher")
    ),
    "FirstOrder": _with_gradient(keras_meta.FirstOrder),
    "Implicit": _with_gradient(
        lambda: keras_meta.Implicit("neumann", steps=3), proximal=1.0
    ),
    "NoiseReuseES": _with_gradient(
        lambda: keras_meta.NoiseReuseES(2, 0.1, draws="rademacher")
    ),
    "PersistentES": _with_gradient(
        lambda: keras_meta.PersistentES(2, 0.1, draws="rademacher")
    ),
    "Truncated": _with_gradient(lambda: keras_meta.Truncated(3)),
    "Unrolled": _with_gradient(lambda: keras_meta.Unrolled("step")),
}
INNER_LOSSES = {
    "LossNetwork": lambda: keras_meta.MAML(
        mlp(), 0.1, 3, inner_loss=keras_meta.LossNetwork([4], base="mse")
    ),
}
STARTS = {
    "Drawn": lambda: keras_meta.MAML(
        mlp(),
        keras_meta.GradientDescent(0.1, "layer_step"),
        3,
        start=keras_meta.Drawn(seed=1),
    ),
}
METRIC_LEARNERS = {
    "MatchingNetwork": lambda: keras_meta.MatchingNetwork(
        mlp(4), WAYS, context_steps=2
    ),
    "PrototypicalNetwork": lambda: keras_meta.PrototypicalNetwork(
        normalized_mlp(4), WAYS
    ),
    "RidgeHead": lambda: keras_meta.RidgeHead(mlp(4), WAYS),
    "SiameseNetwork": lambda: keras_meta.SiameseNetwork(mlp(4), WAYS),
}
# Not meta-trained, so `fit` refuses. All else is as for the others.
BASELINES = {
    "FineTuning": lambda: keras_meta.FineTuning(
        normalized_mlp(4), WAYS, 0.1, 3, head="cosine", adapt="all"
    ),
    "LogisticRegression": lambda: keras_meta.LogisticRegression(mlp(4), WAYS),
    "NearestNeighbour": lambda: keras_meta.NearestNeighbour(
        mlp(4), WAYS, neighbours=3
    ),
}
SEQUENCE_LEARNERS = {
    "MANN": lambda: keras_meta.MANN(
        mlp(4), WAYS, keras_meta.sequence.MemoryCell(5, 12, 4, heads=2)
    ),
    "SNAIL": lambda: keras_meta.SNAIL(
        mlp(4), WAYS, 2, filters=3, attention=[(4, 2), (5, 3)]
    ),
}
CLASSIFIERS = {**METRIC_LEARNERS, **SEQUENCE_LEARNERS, **BASELINES}
ROWS = {
    **LEARNERS,
    **RULES,
    **META_GRADIENTS,
    **INNER_LOSSES,
    **STARTS,
    **METRIC_LEARNERS,
    **SEQUENCE_LEARNERS,
}
slow = pytest.mark.slow
# The others take the same ways.
FAST = ("ImplicitMAML",)

each_row = pytest.mark.parametrize(
    "name",
    [name if name in FAST else pytest.param(name, marks=slow) for name in ROWS],
    scope="module",
)


def _public(base):
    """Returns the names of the public classes of a kind, but its base."""
    found = vars(keras_meta).items()
    return {
        name
        for name, value in found
        if isinstance(value, type) and issubclass(value, base)
    } - {base.__name__}


def test_the_tables_are_complete():
    learners = _public(keras_meta.Learner) - {"SamplingLearner", *BASELINES}
    assert learners == set(LEARNERS)
    metric_learners = _public(keras_meta.MetricLearner) - set(BASELINES)
    assert metric_learners == set(METRIC_LEARNERS)
    assert _public(keras_meta.SequenceLearner) == set(SEQUENCE_LEARNERS)
    assert _public(keras_meta.UpdateRule) == set(RULES)
    assert _public(keras_meta.MetaGradient) == set(META_GRADIENTS)


def tasks_of(name, batches, tasks=3, seed=0):
    """Returns what a learner of a row can learn, `batches` of them."""
    kind = classification if name in CLASSIFIERS else regression
    return kind(batches, tasks=tasks, seed=seed)


def loss_of(name):
    """Returns a loss for a row."""
    return crossentropy() if name in CLASSIFIERS else "mse"


def _new(name, **options):
    keras.utils.set_random_seed(0)
    metric = "accuracy" if name in CLASSIFIERS else "mae"
    return compiled(
        {**ROWS, **BASELINES}[name](),
        keras.optimizers.Adam(0.01),
        loss_of(name),
        metrics=[metric],
        **options,
    )


@pytest.fixture(scope="module")
def trained():
    """Returns a learner of a row, which is trained once."""
    known = {}

    def get(name):
        if name not in known:
            learner = _new(name)
            before = weights(learner)
            history = learner.fit(dataset(tasks_of(name, 3)), verbose=0).history
            known[name] = learner, before, history
        return known[name]

    return get


def _fit(name, learner):
    data = dataset(tasks_of(name, 2, seed=5))
    return learner.fit(data, verbose=0).history


@each_row
def test_training_moves_what_is_learned(name, trained):
    learner, before, history = trained(name)
    assert np.all(np.isfinite([*history.values()]))
    learned = {id(v) for v in learner.trainable_variables}
    moved = [
        not np.array_equal(a, b)
        for v, a, b in zip(
            learner.weights, before, weights(learner), strict=True
        )
        if id(v) in learned
    ]
    assert all(moved)


@each_row
def test_training_continues_from_a_file(name, trained, tmp_path):
    learner, *_ = trained(name)
    learner.save(tmp_path / "learner.keras")
    loaded = keras.saving.load_model(tmp_path / "learner.keras")
    assert type(loaded) is type(learner)
    if name not in CLASSIFIERS:
        assert loaded.meta_gradient == learner.meta_gradient
    x, _ = batch(tasks_of(name, 1, seed=7), 0)
    np.testing.assert_array_equal(loaded(x), learner(x))
    assert _fit(name, loaded) == _fit(name, learner)
    assert_same_weights(loaded, learner)


# `learners/test_export.py` serves one by default.
@slow
@each_row
def test_a_served_learner_predicts_the_same(name, trained, tmp_path):
    learner, *_ = trained(name)
    learner.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    x, _ = batch(tasks_of(name, 1, seed=7), 0)
    np.testing.assert_allclose(
        served.serve(x), learner(x), rtol=1e-5, atol=1e-6
    )


@slow
@each_row
def test_a_step_that_fails_changes_nothing(name, trained):
    learner, *_ = trained(name)
    x, y = batch(tasks_of(name, 1), 0)
    x["support_x"][1, 0, 0] = np.nan
    state = [v.numpy() for v in learner.weights + learner.optimizer.variables]
    with refuses(FloatingPointError, "task 1 in the batch.*undone"):
        learner.train_on_batch(x, y)
    after = [v.numpy() for v in learner.weights + learner.optimizer.variables]
    assert_same_weights(state, after)


@slow
@each_row
def test_the_number_of_tasks_may_change(name, trained):
    learner, *_ = trained(name)
    # A graph for the first, then one for any number.
    for tasks in (3, 2, 4):
        x, _ = batch(tasks_of(name, 1, tasks=tasks, seed=tasks), 0)
        np.testing.assert_allclose(
            learner.predict(x, batch_size=tasks, verbose=0),
            learner(x),
            rtol=1e-5,
            atol=1e-6,
        )


@each_row
def test_bad_inputs_are_refused(name, trained):
    learner, *_ = trained(name)
    x, _ = batch(tasks_of(name, 1), 0)
    with refuses(ValueError, "`support_x` must have the shape"):
        learner({**x, "support_x": x["support_x"][..., :1]})
    with refuses(ValueError, "Missing: .'query_x'."):
        learner({k: v for k, v in x.items() if k != "query_x"})


# XLA draws other numbers from the same seed.
_DRAW_WEIGHTS = {*STARTS, "ProbabilisticMAML"}


@slow
@pytest.mark.parametrize("name", sorted(set(ROWS) - _DRAW_WEIGHTS))
def test_xla_computes_the_same(name, trained):
    learner, before, _ = trained(name)
    other = _new(name, jit_compile=True)
    assert_same_weights(before, weights(other))
    history = other.fit(dataset(tasks_of(name, 3)), verbose=0).history
    np.testing.assert_allclose(
        history["loss"], trained(name)[2]["loss"], rtol=1e-4
    )


each_baseline = pytest.mark.parametrize(
    "name",
    [
        name if name == "FineTuning" else pytest.param(name, marks=slow)
        for name in BASELINES
    ],
)


@each_baseline
def test_a_baseline_refuses_to_learn(name):
    learner = _new(name)
    x, y = batch(tasks_of(name, 1), 0)
    for learn in (learner.fit, learner.train_on_batch):
        with refuses(ValueError, f"{name} has nothing to learn.*classifier"):
            learn(x, y)


@each_baseline
def test_a_baseline_is_saved(name, tmp_path):
    learner = _new(name)
    x, _ = batch(tasks_of(name, 1, seed=7), 0)
    learner.save(tmp_path / "learner.keras")
    loaded = keras.saving.load_model(tmp_path / "learner.keras")
    assert type(loaded) is type(learner)
    settings, expected = (
        {k: v for k, v in model.get_config().items() if k != "encoder"}
        for model in (loaded, learner)
    )
    assert settings == expected
    np.testing.assert_array_equal(loaded(x), learner(x))


@slow
@each_baseline
def test_a_served_baseline_predicts_the_same(name, tmp_path):
    learner = _new(name)
    x, _ = batch(tasks_of(name, 1, seed=7), 0)
    learner.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    np.testing.assert_allclose(
        served.serve(x), learner(x), rtol=1e-4, atol=1e-5
    )


@slow
@each_baseline
def test_xla_evaluates_a_baseline_the_same(name):
    x, y = batch(tasks_of(name, 1), 0)
    plain, xla = (
        _new(name, jit_compile=jit).evaluate(x, y, verbose=0)
        for jit in (False, True)
    )
    np.testing.assert_allclose(xla, plain, rtol=1e-4, atol=1e-5)


_TWO_DEVICES = """
    import json
    import os

    import keras
    import numpy as np
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * 2
    )

    from tests.contracts.test_learners import ROWS
    from tests.contracts.test_learners import loss_of
    from tests.contracts.test_learners import tasks_of
    from tests.learners.helpers import dataset

    one = tf.distribute.OneDeviceStrategy("/cpu:0")
    two = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
    assert two.num_replicas_in_sync == 2
    report = {}
    for name in json.loads(os.environ["ROWS_TO_TRAIN"]):
        losses = []
        for strategy in one, two:
            with strategy.scope():
                keras.utils.set_random_seed(0)
                learner = ROWS[name]()
                learner.compile("sgd", loss_of(name), jit_compile=False)
            data = dataset(tasks_of(name, 2, tasks=4))
            losses.append(learner.fit(data, verbose=0).history["loss"])
            losses[-1].append(learner.evaluate(data, verbose=0))
        report[name] = losses
    print(json.dumps(report))
"""
# Each device perturbs the meta-parameters in its own way.
_DRAWN = ("EvolutionStrategies", "NoiseReuseES", "PersistentES")


@pytest.fixture(scope="module")
def losses_by_devices(request):
    """Returns the losses of all selected rows, of one program."""
    names = {
        item.callspec.params["name"]
        for item in request.session.items
        if item.function is test_two_devices_train_as_one
    }
    rows = json.dumps(sorted(names))
    result = run_python(_TWO_DEVICES, timeout=1200, ROWS_TO_TRAIN=rows)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


@slow
@pytest.mark.parametrize("name", ROWS)
def test_two_devices_train_as_one(name, losses_by_devices):
    one, two = losses_by_devices[name]
    tolerance = 0.1 if name in _DRAWN else 1e-5
    assert one == pytest.approx(two, rel=tolerance)
