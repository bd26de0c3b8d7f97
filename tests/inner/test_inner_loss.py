import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_meta.inner.inner_loss import InnerLoss
from tests.reference import assert_close
from tests.reference import normal

losses = keras.losses

TASKS, N, CLASSES = 3, 4, 5
REDUCTIONS = ["sum_over_batch_size", "sum", "mean", "mean_with_sample_weight"]


def probabilities(shape, seed):
    return tf.nn.softmax(normal(shape, seed))


def class_numbers(shape, seed=0):
    rng = np.random.default_rng(seed)
    return tf.constant(rng.integers(0, CLASSES, shape))


def signs(shape, seed=0):
    rng = np.random.default_rng(seed)
    return tf.constant(rng.choice([-1.0, 1.0], shape))


def by_task(loss, y_true, y_pred, weight=None):
    """Keras's own loss of each task alone."""
    weights = [None] * len(y_true) if weight is None else weight
    return tf.stack(
        [loss(t, p, w) for t, p, w in zip(y_true, y_pred, weights, strict=True)]
    )


def assert_equals_keras(loss, y_true, y_pred, weight=None):
    """Compares losses and their gradients by the predictions."""
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(y_pred)
        actual = InnerLoss(loss)(y_true, y_pred, weight)
        expected = by_task(losses.get(loss), y_true, y_pred, weight)
    assert_close(actual, expected)
    assert len(np.unique(expected)) > 1
    assert_close(tape.gradient(actual, y_pred), tape.gradient(expected, y_pred))


SHAPE = [TASKS, N, CLASSES]
REGRESSION = (normal(SHAPE, 1), normal(SHAPE, 2))
POSITIVE = (tf.exp(normal(SHAPE, 1)), tf.exp(normal(SHAPE, 2)))
BINARY = (
    tf.constant(np.random.default_rng(1).integers(0, 2, SHAPE) * 1.0),
    tf.sigmoid(normal(SHAPE, 2)),
)
CLASSIFIED = (
    tf.one_hot(class_numbers([TASKS, N]), CLASSES, dtype=tf.float64),
    probabilities(SHAPE, 2),
)
SPARSE = (class_numbers([TASKS, N]), probabilities(SHAPE, 2))
HINGED = (signs(SHAPE), normal(SHAPE, 2))

CASES = {
    "BinaryCrossentropy": BINARY,
    "BinaryFocalCrossentropy": BINARY,
    "CategoricalCrossentropy": CLASSIFIED,
    "CategoricalFocalCrossentropy": CLASSIFIED,
    "CategoricalGeneralizedCrossEntropy": SPARSE,
    "CategoricalHinge": CLASSIFIED,
    "CosineSimilarity": REGRESSION,
    "Dice": BINARY,
    "Hinge": HINGED,
    "Huber": REGRESSION,
    "KLDivergence": (probabilities(SHAPE, 1), probabilities(SHAPE, 2)),
    "LogCosh": REGRESSION,
    "MeanAbsoluteError": REGRESSION,
    "MeanAbsolutePercentageError": REGRESSION,
    "MeanSquaredError": REGRESSION,
    "MeanSquaredLogarithmicError": POSITIVE,
    "Poisson": POSITIVE,
    "SparseCategoricalCrossentropy": SPARSE,
    "SquaredHinge": HINGED,
    "Tversky": BINARY,
}


def test_every_loss_of_keras_has_a_case():
    known = {
        name
        for name, value in vars(losses).items()
        if isinstance(value, type) and issubclass(value, losses.Loss)
    }
    # CTC and Circle compare sequences and embeddings; see below for Circle.
    assert known - {"Loss", "CTC", "Circle"} == set(CASES)


# Without weights, three of the reductions are one.
@pytest.mark.slow_variants(
    "Tversky-sum",
    *(f"{name}-sum_over_batch_size" for name in CASES),
    *(f"{name}-mean_with_sample_weight" for name in CASES),
)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", CASES)
def test_losses_equal_keras_for_each_task_alone(name, reduction):
    loss = getattr(losses, name)(reduction=reduction)
    assert_equals_keras(loss, *CASES[name])


@pytest.mark.slow
def test_circle_loss_equals_keras_for_each_task_alone():
    embeddings = tf.math.l2_normalize(normal([2, 6, 3], 2), -1)
    labels = tf.constant([[0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 0, 1]])
    assert_equals_keras(losses.Circle(), labels, embeddings)


# Dice and Tversky give one number for all examples, which weights of
# examples do not reach in Keras.
EXAMPLE_WISE = sorted(set(CASES) - {"Dice", "Tversky"})


@pytest.mark.slow_variants(
    *(f"{name}-sum_over_batch_size" for name in EXAMPLE_WISE),
    *(f"{name}-sum" for name in EXAMPLE_WISE),
)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", EXAMPLE_WISE)
def test_sample_weights_equal_keras_for_each_task_alone(name, reduction):
    weight = tf.exp(normal([TASKS, N], 3))
    loss = getattr(losses, name)(reduction=reduction)
    assert_equals_keras(loss, *CASES[name], weight)


def test_sample_weights_of_zero_give_a_loss_of_zero():
    weight = tf.constant([[0.0] * N, [1.0] * N, [2.0] * N], tf.float64)
    for reduction in REDUCTIONS:
        loss = losses.MeanSquaredError(reduction=reduction)
        actual = InnerLoss(loss)(*REGRESSION, weight)
        assert actual[0] == 0
        assert_close(actual, by_task(loss, *REGRESSION, weight))


@pytest.mark.parametrize("shape", [[TASKS, N], [TASKS, N, 3, 2]])
def test_weights_spread_over_further_axes(shape):
    weight = tf.exp(normal([TASKS, N], 3))
    y_true, y_pred = normal([*shape, 2], 1), normal([*shape, 2], 2)
    for reduction in REDUCTIONS:
        loss = losses.MeanAbsoluteError(reduction=reduction)
        # Keras wants the axes of the weights to be those of the losses.
        full = tf.reshape(weight, [TASKS, N, *[1] * (len(shape) - 2)])
        full += tf.zeros(shape, tf.float64)
        expected = by_task(loss, y_true, y_pred, full)
        assert_close(InnerLoss(loss)(y_true, y_pred, weight), expected)


@pytest.mark.parametrize("name", ["mse", "binary_crossentropy", "poisson"])
def test_names_equal_their_classes(name):
    y_true, y_pred = BINARY
    expected = by_task(
        {
            "mse": losses.MeanSquaredError,
            "binary_crossentropy": losses.BinaryCrossentropy,
            "poisson": losses.Poisson,
        }[name](),
        y_true,
        y_pred,
    )
    assert_close(InnerLoss(name)(y_true, y_pred), expected)


@pytest.mark.parametrize(
    "loss",
    [
        "sparse_categorical_crossentropy",
        losses.sparse_categorical_crossentropy,
        losses.SparseCategoricalCrossentropy(),
        losses.SparseCategoricalCrossentropy(from_logits=True),
    ],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_class_numbers_may_have_a_last_axis_of_one(loss, weighted):
    y_true, y_pred = SPARSE
    weight = tf.exp(normal([TASKS, N], 3)) if weighted else None
    inner = InnerLoss(loss)
    assert inner.is_sparse
    expected = inner(y_true, y_pred, weight)
    assert_close(inner(y_true[..., tf.newaxis], y_pred, weight), expected)
    assert not InnerLoss("mse").is_sparse


ONE_OUTPUT = {
    "BinaryCrossentropy": "binary",
    "BinaryFocalCrossentropy": "binary",
    "Hinge": "hinged",
    "Huber": "regression",
    "KLDivergence": "binary",
    "LogCosh": "regression",
    "MeanSquaredError": "regression",
    "Poisson": "binary",
    "SquaredHinge": "hinged",
}


@pytest.mark.slow_variants(
    "BinaryFocalCrossentropy-labels",
    "BinaryFocalCrossentropy-predictions",
    "KLDivergence-labels",
    "KLDivergence-predictions",
    "LogCosh-labels",
    "LogCosh-predictions",
    "Poisson-labels",
    "Poisson-predictions",
    "SquaredHinge-labels",
    "SquaredHinge-predictions",
)
@pytest.mark.parametrize("missing", ["labels", "predictions"])
@pytest.mark.parametrize("name", ONE_OUTPUT)
def test_one_output_needs_no_last_axis(name, missing):
    # Keras allows labels [n] for predictions [n, 1] and the reverse.
    for n in (TASKS, TASKS + 1):
        shape = [TASKS, n]
        y_true, y_pred = {
            "binary": (signs(shape) / 2 + 0.5, tf.sigmoid(normal(shape))),
            "hinged": (signs(shape), normal(shape)),
            "regression": (normal(shape, 1), normal(shape, 2)),
        }[ONE_OUTPUT[name]]
        if missing == "labels":
            y_pred = y_pred[..., tf.newaxis]
        else:
            y_true = y_true[..., tf.newaxis]
        for reduction in ("sum_over_batch_size", "sum"):
            loss = getattr(losses, name)(reduction=reduction)
            assert_equals_keras(loss, y_true, y_pred)
            weight = tf.exp(normal(shape, 3))
            assert_equals_keras(loss, y_true, y_pred, weight)


@pytest.mark.parametrize("axis", [1, -2])
def test_classes_on_another_axis_equal_keras_for_each_task(axis):
    shape = [TASKS, N, CLASSES, 2]
    y_true = tf.one_hot(class_numbers([TASKS, N, 2]), CLASSES, axis=2)
    y_pred = tf.nn.softmax(normal(shape, 2), axis=2)
    loss = losses.CategoricalCrossentropy(axis=axis)
    assert_equals_keras(loss, tf.cast(y_true, tf.float64), y_pred)


def test_a_function_may_return_one_number():
    def loss(y_true, y_pred):
        return tf.reduce_max(tf.abs(y_true - y_pred))

    y_true, y_pred = REGRESSION
    expected = tf.reduce_max(tf.abs(y_true - y_pred), [1, 2])
    assert_close(InnerLoss(loss)(y_true, y_pred), expected)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_function_may_return_a_loss_per_example(weighted):
    def loss(y_true, y_pred):
        return tf.reduce_max(tf.abs(y_true - y_pred), axis=1)

    y_true, y_pred = REGRESSION
    weight = tf.exp(normal([TASKS, N], 3)) if weighted else None
    each = tf.reduce_max(tf.abs(y_true - y_pred), axis=2)
    expected = tf.reduce_mean(each * (1.0 if weight is None else weight), 1)
    assert_close(InnerLoss(loss)(y_true, y_pred, weight), expected)


def test_a_function_may_mix_the_examples_of_a_task():
    def loss(y_true, y_pred):
        return tf.reduce_mean(tf.abs(tf.sort(y_pred, 0) - tf.sort(y_true, 0)))

    expected = tf.stack([loss(t, p) for t, p in zip(*REGRESSION, strict=True)])
    assert_close(InnerLoss(loss)(*REGRESSION), expected)


@pytest.mark.slow
def test_a_custom_loss_class_keeps_its_reduction():
    class Fourth(losses.Loss):
        def call(self, y_true, y_pred):
            return tf.reduce_sum((y_true - y_pred) ** 4, axis=-1)

    for reduction in REDUCTIONS:
        assert_equals_keras(Fourth(reduction=reduction), *REGRESSION)


def test_a_custom_loss_gets_the_labels_as_keras_gives_them():
    # Keras casts labels to the loss's floating type.
    class Squared(losses.Loss):
        def call(self, y_true, y_pred):
            return tf.reduce_mean(tf.square(y_true - y_pred), axis=-1)

    y_true = class_numbers(SHAPE)
    assert_equals_keras(Squared(), y_true, REGRESSION[1])


def test_nested_predictions_reach_a_function_whole():
    def loss(y_true, y_pred):
        return tf.reduce_sum(y_pred["a"] * y_true) + tf.reduce_sum(y_pred["b"])

    y_true, a = REGRESSION
    b = normal([TASKS, N], 7)
    actual = InnerLoss(loss)(y_true, {"a": a, "b": b})
    expected = tf.reduce_sum(y_true * a, [1, 2]) + tf.reduce_sum(b, 1)
    assert_close(actual, expected)


@pytest.mark.parametrize("loss", ["mse", losses.Dice()])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_computed_in_float32(loss, dtype):
    y_true, y_pred = BINARY
    half = tf.cast(y_pred, dtype)
    y_true = tf.cast(y_true, tf.float32)
    actual = InnerLoss(loss)(y_true, half)
    assert actual.dtype == tf.float32
    expected = InnerLoss(loss)(y_true, tf.cast(half, tf.float32))
    assert_close(actual, expected, 0)


@pytest.mark.parametrize("reduction", [None, "none"])
def test_losses_without_reduction_are_refused(reduction):
    with pytest.raises(ValueError, match="must reduce to one number for each"):
        InnerLoss(losses.MeanSquaredError(reduction=reduction))


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="no_such_loss"):
        InnerLoss("no_such_loss")


@pytest.mark.parametrize(
    "loss, y_true, y_pred",
    [
        ("mse", [TASKS, N], SHAPE),
        ("mse", [TASKS, N, 2], SHAPE),
        ("categorical_crossentropy", [TASKS, N], SHAPE),
        ("sparse_categorical_crossentropy", SHAPE, SHAPE),
        ("mse", [TASKS, N + 1, CLASSES], SHAPE),
    ],
)
def test_shapes_that_do_not_fit_are_refused(loss, y_true, y_pred):
    with pytest.raises(ValueError, match="support_y"):
        InnerLoss(loss)(tf.ones(y_true), tf.ones(y_pred))


def test_replicas_do_not_scale_the_loss(monkeypatch):
    monkeypatch.setattr(
        tf.distribute.Strategy, "num_replicas_in_sync", property(lambda s: 4)
    )
    actual = InnerLoss(losses.MeanSquaredError())(*REGRESSION)
    y_true, y_pred = REGRESSION
    assert_close(actual, tf.reduce_mean((y_true - y_pred) ** 2, [1, 2]))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_ignored_classes_equal_keras_for_each_task_alone(reduction, weighted):
    weight = tf.exp(normal([TASKS, N], 3)) if weighted else None
    loss = losses.SparseCategoricalCrossentropy(
        ignore_class=1, reduction=reduction
    )
    y_true = tf.constant([[0, 1, 2, 1], [1, 3, 1, 4], [2, 3, 2, 0]])
    assert_equals_keras(loss, y_true, SPARSE[1], weight)


MASK = tf.constant([[1, 0, 1, 0], [0, 0, 0, 1], [1, 1, 1, 1]]) > 0


def _masked(y_pred, mask):
    y_pred = tf.identity(y_pred)
    y_pred._keras_mask = mask
    return y_pred


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", ["MeanSquaredError", "CosineSimilarity"])
def test_masks_equal_keras_for_each_task_alone(name, reduction, weighted):
    weight = tf.exp(normal([TASKS, N], 3)) if weighted else None
    loss = getattr(losses, name)(reduction=reduction)
    y_true, y_pred = REGRESSION
    actual = InnerLoss(loss)(y_true, _masked(y_pred, MASK), weight)
    each = [_masked(p, m) for p, m in zip(y_pred, MASK, strict=True)]
    assert_close(actual, by_task(loss, y_true, each, weight))


def test_a_task_that_is_masked_entirely_has_no_loss():
    mask = tf.zeros_like(MASK)
    for reduction in REDUCTIONS:
        loss = losses.MeanSquaredError(reduction=reduction)
        y_true, y_pred = REGRESSION
        actual = InnerLoss(loss)(y_true, _masked(y_pred, mask))
        np.testing.assert_array_equal(actual, 0)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_loss_of_one_number_with_weights(reduction, masked):
    class OneNumber(losses.Loss):
        def call(self, y_true, y_pred):
            return tf.reduce_mean(tf.square(y_true - y_pred), keepdims=True)[0]

    loss = OneNumber(reduction=reduction)
    weight = tf.exp(normal([TASKS, N], 3))
    y_true, y_pred = REGRESSION
    each = list(y_pred)
    if masked:
        y_pred = _masked(y_pred, MASK)
        each = [_masked(p, m) for p, m in zip(each, MASK, strict=True)]
    actual = InnerLoss(loss)(y_true, y_pred, weight)
    assert actual.shape == [TASKS]
    expected = [
        tf.reshape(loss(t, p, w), [])
        for t, p, w in zip(y_true, each, weight, strict=True)
    ]
    assert_close(actual, tf.stack(expected))
