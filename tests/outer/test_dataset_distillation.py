"""Learning a few examples that stand for a data set."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta

D = 4
RATE = 0.3
TARGET = np.array([[1.0], [-2.0], [0.5], [0.0]])
# Every direction counts the same: the loss is the squared distance.
REAL_X = np.sqrt(D) * np.concatenate([np.eye(D), -np.eye(D)])
SPARSE = keras.losses.SparseCategoricalCrossentropy


def linear_model(start, **options):
    start = np.asarray(start)
    model = keras.Sequential(
        [
            keras.Input([len(start)]),
            keras.layers.Dense(start.shape[1], use_bias=False, **options),
        ]
    )
    model.set_weights([start])
    return model


def regression(model, x, y, **options):
    """A learner on given points, whose optimizer subtracts the gradient."""
    learner = keras_meta.DatasetDistillation(
        model, x=x, y=y, learned_labels=True, learning_rate=RATE, **options
    )
    learner.compile(keras.optimizers.SGD(1.0), "mse", run_eagerly=True)
    return learner


def fit(learner, x, y, steps=1, **options):
    """Takes steps on all real examples; returns the logs of the last."""
    options.setdefault("batch_size", len(x))
    history = learner.fit(x, y, steps_per_epoch=steps, verbose=0, **options)
    return {k: v[-1] for k, v in history.history.items()}


def gradients(learner, x, y):
    """Returns the gradients of one step, and leaves everything as it was."""
    variables = learner.trainable_variables
    before = [v.numpy() for v in variables]
    fit(learner, x, y)
    after = [v.numpy() for v in variables]
    for v, value in zip(variables, before, strict=True):
        v.assign(value)
    return [b - a for b, a in zip(before, after, strict=True)]


def test_one_point_takes_given_weights_to_the_best_ones():
    start = np.array([[0.3], [1.0], [-1.0], [2.0]])
    x = (start - TARGET).T / (2 * RATE)
    y = x @ start - 1
    learner = regression(linear_model(start), x[None], y[None], start="initial")
    data = REAL_X, REAL_X @ TARGET
    for gradient in gradients(learner, *data):
        np.testing.assert_allclose(gradient, 0, atol=1e-12)
    assert fit(learner, *data)["loss"] == pytest.approx(0, abs=1e-20)
    trained = learner.train()
    np.testing.assert_allclose(trained.get_weights()[0], TARGET, rtol=1e-6)
    # From elsewhere, a step leads there.
    learner.x.assign(learner.x + 0.1 * np.array([[[1, -1, 1, 2.0]]]))
    learner.optimizer.learning_rate = 1e-3
    first, second = (fit(learner, *data)["loss"] for _ in range(2))
    assert first > 0.05
    assert second < 0.999 * first


def rotation(count):
    """Orthonormal rows; the last two of all four do not touch `TARGET`."""
    target = TARGET / np.linalg.norm(TARGET)
    basis, _ = np.linalg.qr(np.concatenate([target, np.eye(D)], 1))
    return basis.T[:count]


def test_as_many_points_as_weights_suit_all_initial_weights():
    x = np.sqrt(D / (2 * RATE)) * rotation(D)
    model = linear_model(TARGET)
    learner = regression(model, x[None], (x @ TARGET)[None], starts=3)
    data = REAL_X, REAL_X @ TARGET
    for gradient in gradients(learner, *data):
        np.testing.assert_allclose(gradient, 0, atol=1e-12)
    assert fit(learner, *data)["loss"] == pytest.approx(0, abs=1e-20)
    found = learner.predict_starts(REAL_X, 5)
    np.testing.assert_allclose(found, [data[1]] * 5, atol=1e-9)


def test_fewer_points_leave_what_they_do_not_see():
    """Each output is a regression of its own, with the same labels.

    Their initial weights are orthogonal and of both signs, `distance * e_i`,
    so the best three points leave a quarter of `distance ** 2`.
    """
    distance, outputs = 2.0, 2 * D
    start = distance * np.concatenate([np.eye(D), -np.eye(D)], 1)
    labels = np.repeat(REAL_X @ TARGET, outputs, 1)
    count = D - 1
    # The loss is the mean over outputs as well.
    x = np.sqrt(count * outputs / (2 * RATE)) * rotation(count)
    y = np.repeat(x @ TARGET, outputs, 1)
    learner = regression(linear_model(start), x[None], y[None], start="initial")
    best = fit(learner, REAL_X, labels)["loss"]
    assert best == pytest.approx(distance**2 / D, rel=1e-9)
    for gradient in gradients(learner, REAL_X, labels):
        np.testing.assert_allclose(gradient, 0, atol=1e-12)
    # Other points are worse.
    rng = np.random.default_rng(0)
    for _ in range(3):
        learner.x.assign(x[None] + 0.05 * rng.normal(size=[1, count, D]))
        learner.y.assign(y[None] + 0.05 * rng.normal(size=[1, count, outputs]))
        learner.optimizer.learning_rate = 0.0
        assert fit(learner, REAL_X, labels)["loss"] > best + 1e-4


def classifier(*before):
    """A model of three classes; layers `before` come before its last one."""
    keras.utils.set_random_seed(0)
    decay = keras.regularizers.L2(0.02)
    last = keras.layers.Dense(3, kernel_regularizer=decay)
    return keras.Sequential([keras.Input([2]), *before, last])


def real_classes():
    rng = np.random.default_rng(0)
    y = np.arange(15) % 3
    return rng.normal(size=[15, 2]) + np.eye(3)[y][:, :2], y


def distilled_classes(*before, rate=1.0, **options):
    options = {"steps": 2, "learning_rate": 0.4, **options}
    learner = keras_meta.DatasetDistillation(classifier(*before), **options)
    learner.compile(
        keras.optimizers.SGD(rate),
        SPARSE(from_logits=True),
        metrics=["accuracy"],
        run_eagerly=True,
    )
    return learner


@pytest.mark.slow_variants("labels", "epochs")
@pytest.mark.parametrize(
    "options",
    [
        {"learned_labels": True},
        {"steps": 1, "epochs": 2},
    ],
    ids=["labels", "epochs"],
)
def test_gradients_are_central_differences(options):
    hidden = keras.layers.Dense(5, "tanh")
    learner = distilled_classes(hidden, start="initial", **options)
    data = real_classes()
    variables = learner.trainable_variables
    first = [v.numpy() for v in variables]
    found = gradients(learner, *data)

    def loss(ways, size):
        for v, value, way in zip(variables, first, ways, strict=True):
            v.assign(value + size * way)
        return learner.evaluate(*data, batch_size=len(data[0]), verbose=0)[0]

    # One direction for each kind of variable, and one for all.
    rng = np.random.default_rng(0)
    drawn = [rng.normal(size=v.shape) for v in variables]
    for kind in [*range(len(drawn)), None]:
        ways = [w * (kind in (i, None)) for i, w in enumerate(drawn)]
        slope = sum(np.sum(g * w) for g, w in zip(found, ways, strict=True))
        difference = (loss(ways, 1e-4) - loss(ways, -1e-4)) / 2e-4
        assert abs(slope) > 1e-3
        assert difference == pytest.approx(slope, rel=1e-5)


@pytest.mark.slow
def test_starts_side_by_side_are_a_loop_over_them():
    data = real_classes()
    together = distilled_classes(starts=3)
    one = distilled_classes(starts=1)
    alone = [gradients(one, *data) for _ in range(3)]
    for found, *each in zip(gradients(together, *data), *alone, strict=True):
        assert not np.allclose(each[0], each[1], rtol=1e-3)
        np.testing.assert_allclose(found, np.mean(each, 0), rtol=1e-9)


@pytest.mark.slow
def test_logs_are_means_over_starts():
    x, y = real_classes()
    learner = distilled_classes(starts=3)
    logs = learner.evaluate(x, y, batch_size=4, return_dict=True, verbose=0)
    outputs = learner.predict_starts(x, 3, batch_size=7)
    loss = SPARSE(from_logits=True)
    losses = [float(loss(y, output)) for output in outputs]
    assert logs["loss"] == pytest.approx(np.mean(losses), rel=1e-6)
    right = np.mean(np.argmax(outputs, -1) == y)
    assert logs["accuracy"] == pytest.approx(right, rel=1e-6)
    np.testing.assert_allclose(learner.predict(x, verbose=0), outputs[0])
    # Training draws others.
    learner.optimizer.learning_rate = 0.0
    assert fit(learner, x, y)["loss"] != pytest.approx(logs["loss"], rel=1e-3)


@pytest.mark.slow_variants("False")
@pytest.mark.parametrize("learned", [False, True])
def test_plain_keras_trains_the_same_model(learned):
    """By the loop of the docstring, here written out again."""
    x, y = real_classes()
    frozen = keras.layers.BatchNormalization(trainable=False)
    learner = distilled_classes(
        frozen,
        start="initial",
        epochs=2,
        learned_labels=learned,
        rate=0.1,
    )
    fit(learner, x, y, steps=2)
    predictions = learner.predict(x, verbose=0)
    trained = learner.train()
    # Keras keeps its rate in float32.
    np.testing.assert_allclose(
        trained.predict(x, verbose=0), predictions, rtol=1e-5, atol=1e-7
    )
    model = classifier(keras.layers.BatchNormalization(trainable=False))
    loss = SPARSE(from_logits=True)
    if learned:
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(), loss)
    distilled = learner.distilled
    for rates in distilled.learning_rates:
        for inputs, labels, rate in zip(
            distilled.x, distilled.y, rates, strict=True
        ):
            model.optimizer.learning_rate = rate
            model.train_on_batch(inputs, labels)
    for a, b in zip(model.weights, trained.weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_labels_are_those_of_all_classes():
    learner = distilled_classes(examples_per_class=2, epochs=3)
    x, y, rates = learner.distilled
    assert (x.shape, rates.shape) == ((2, 6, 2), (3, 2))
    np.testing.assert_array_equal(y, [[0, 0, 1, 1, 2, 2]] * 2)
    assert y.dtype == np.int64
    soft = distilled_classes(examples_per_class=2, learned_labels=True)
    np.testing.assert_array_equal(soft.distilled.y, np.eye(3)[y])
    assert len(soft.trainable_variables) == 3
    soft.x.trainable = False
    before = soft.distilled
    fit(soft, *real_classes())
    np.testing.assert_array_equal(soft.distilled.x, before.x)
    assert np.all(soft.distilled.y != before.y)


@pytest.mark.slow
def test_the_model_stays_as_it_is():
    learner = distilled_classes(start="initial")
    before = learner.model.get_weights()
    fit(learner, *real_classes())
    learner.train(learner.model)
    changed = learner.train()
    # The first weights are kept apart.
    learner.model.set_weights(before)
    for a, b in zip(learner.train().weights, changed.weights, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("given", [False, True])
def test_training_continues_from_a_file(given, tmp_path):
    x, y = real_classes()
    options = {"x": np.ones([2, 3, 2]), "y": [[0, 1, 2]] * 2} if given else {}
    dropout = keras.layers.Dropout(0.5, seed=1)
    learner = distilled_classes(dropout, **options)
    learner.compile(
        keras.optimizers.Adam(0.1),
        learner.loss,
        metrics=["accuracy"],
        run_eagerly=True,
    )
    fit(learner, x, y, batch_size=4, steps=2)
    learner.save(tmp_path / "distillation.keras")
    loaded = keras.models.load_model(tmp_path / "distillation.keras")
    loaded.run_eagerly = True
    assert fit(loaded, x, y, batch_size=4) == fit(learner, x, y, batch_size=4)
    assert len(loaded.weights) == len(learner.weights)
    for a, b in zip(learner.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_graphs_compute_what_eager_execution_does():
    data = tf.data.Dataset.from_tensor_slices(real_classes()).batch(4)
    eager, graph = distilled_classes(rate=0.1), distilled_classes(rate=0.1)
    graph.compile(graph.optimizer, graph.loss, jit_compile=False)
    logs = [
        learner.fit(data, epochs=1, verbose=0).history["loss"]
        for learner in (eager, graph)
    ]
    assert logs[0] == pytest.approx(logs[1], rel=1e-9)
    for a, b in zip(eager.distilled, graph.distilled, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [2, 6], ids=["laid out", "loop"])
def test_xla_computes_the_same(epochs):
    data = real_classes()
    learners = []
    for jit in (False, True):
        # XLA draws other weights.
        learner = distilled_classes(start="initial", epochs=epochs, rate=0.1)
        learner.compile(learner.optimizer, learner.loss, jit_compile=jit)
        fit(learner, *data, steps=2)
        learners.append(learner)
    for a, b in zip(*(x.distilled for x in learners), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.slow
def test_checkpointed_gradients_are_the_same():
    data = real_classes()
    whole = distilled_classes(epochs=2)
    sparing = distilled_classes(
        epochs=2, meta_gradient=keras_meta.Unrolled("sqrt")
    )
    for a, b in zip(
        gradients(whole, *data), gradients(sparing, *data), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-9)


def test_a_step_that_diverges_is_undone():
    learner = distilled_classes(learning_rate=1e38, epochs=3)
    before = learner.distilled
    with pytest.raises(FloatingPointError, match="learning_rate.*undone"):
        fit(learner, *real_classes())
    for a, b in zip(before, learner.distilled, strict=True):
        np.testing.assert_array_equal(a, b)


def embedding():
    layers = [keras.layers.Embedding(5, 2), keras.layers.Flatten()]
    return keras.Sequential(
        [
            keras.Input([4], dtype="int32"),
            *layers,
            keras.layers.Dense(3),
        ]
    )


def two_inputs():
    inputs = [keras.Input([2]), keras.Input([2])]
    y = keras.layers.Dense(3)(keras.layers.Add()(inputs))
    return keras.Model(inputs, y)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"meta_gradient": "first_order"}, "gradient is zero"),
        ({"meta_gradient": "implicit"}, "last examples alone"),
        ({"meta_gradient": "displacement"}, "does not differentiate"),
        ({"meta_gradient": "evolution_strategies"}, "does not differentiate"),
        ({"meta_gradient": keras_meta.Truncated(1)}, "last 1 of 2 training"),
        ({"start": "kept"}, "start"),
        ({"steps": 0}, "steps"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"model": linear_model(TARGET)}, "`y` must be given"),
        ({"model": embedding()}, "real numbers"),
        ({"model": two_inputs()}, "one input"),
        ({"y": [0, 1, 2]}, r"\[steps, n, ...\].*y.shape=\(3,\)"),
        ({"x": np.ones([2, 4, 2])}, r"x.shape=\(2, 4, 2\)"),
        ({"x": np.full([2, 3, 2], np.nan)}, "`x`"),
    ],
)
def test_what_is_refused(options, words):
    options = {"model": classifier(), "steps": 2, **options}
    with pytest.raises(ValueError, match=words):
        keras_meta.DatasetDistillation(**options)


def test_what_fit_and_others_refuse():
    x, y = real_classes()
    learner = keras_meta.DatasetDistillation(classifier(), start="initial")
    with pytest.raises(ValueError, match="training loss must be known"):
        learner.train()
    with pytest.raises(ValueError, match="`loss` must be given"):
        learner.compile("adam")
    learner.compile("adam", SPARSE(from_logits=True), run_eagerly=True)
    with pytest.raises(ValueError, match="labels of `x, y`|labels of `y`"):
        learner.fit(x, y + 1)
    with pytest.raises(ValueError, match="drawn weights"):
        learner.predict_starts(x, 2)
    averaging = distilled_classes(keras.layers.BatchNormalization(), starts=1)
    with pytest.raises(ValueError, match="changes.*moving_mean.*freeze it"):
        fit(averaging, x, y)
