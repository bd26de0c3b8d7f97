"""Learners that are not meta-trained, against formulas and plain Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta
from keras_meta.learners.embedded import logistic_fit
from tests.reference import assert_equals_loop
from tests.reference import normal
from tests.reference import one_layer

from .helpers import WAYS
from .helpers import classification
from .helpers import compiled
from .helpers import crossentropy
from .helpers import refuses

pytestmark = pytest.mark.usefixtures("float64")
_SIZE = 4


def _encoder():
    keras.utils.set_random_seed(0)
    layers = [keras.Input([2]), keras.layers.Dense(_SIZE, "tanh")]
    return keras.Sequential(layers)


def _points():
    """An encoder that compares inputs as they are."""
    return keras.Sequential([keras.Input([2]), keras.layers.Identity()])


def _tasks(**options):
    return classification(tasks=3, **options)


def _one_hot(labels):
    return np.eye(WAYS)[labels]


# Nearest neighbours.


def _similarities(distance, queries, points):
    if distance == "euclidean":
        return -np.sum((queries[:, None] - points) ** 2, -1)
    queries, points = (
        x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (queries, points)
    )
    return queries @ points.T


@pytest.mark.parametrize(
    ("neighbours", "distance"),
    [(1, "euclidean"), (2, "cosine"), (5, "euclidean")],
)
def test_the_nearest_examples_vote(neighbours, distance):
    learner = keras_meta.NearestNeighbour(
        _encoder(), WAYS, neighbours=neighbours, distance=distance
    )
    x, _ = _tasks()
    logits = learner(x).numpy()
    is_tied = False
    for task in range(3):
        support, queries = (
            learner.encoder(x[name][task]).numpy()
            for name in ("support_x", "query_x")
        )
        similar = _similarities(distance, queries, support)
        for i, order in enumerate(np.argsort(-similar, axis=-1)):
            voters = x["support_y"][task][order[:neighbours]]
            votes = _one_hot(voters).sum(0)
            most = np.flatnonzero(votes == votes.max())
            is_tied |= len(most) > 1
            # The first voter of a class that has most.
            winner = next(k for k in voters if k in most)
            expected = votes / neighbours
            expected[winner] += 0.5
            np.testing.assert_allclose(logits[task, i], expected)
    assert is_tied == (neighbours > 1)


def test_the_nearest_mean_is_that_of_a_prototypical_network():
    x, _ = _tasks()
    x["support_sample_weight"] = np.tile([2.0, 1, 1, 1, 1, 0], [3, 1])
    learner = keras_meta.NearestNeighbour(_encoder(), WAYS, means=True)
    other = keras_meta.PrototypicalNetwork(learner.encoder, WAYS)
    np.testing.assert_allclose(learner(x), other(x), rtol=1e-9)


def test_the_mean_of_a_class_may_be_compared_by_its_direction():
    learner = keras_meta.NearestNeighbour(
        _points(), WAYS, means=True, distance="cosine"
    )
    x, _ = _tasks()
    for task, logits in enumerate(learner(x).numpy()):
        labels, points = x["support_y"][task], x["support_x"][task]
        means = np.stack([points[labels == k].mean(0) for k in range(WAYS)])
        expected = _similarities("cosine", x["query_x"][task], means)
        np.testing.assert_allclose(logits, expected, rtol=1e-9)


def test_distances_are_exact_far_from_the_origin():
    learner = keras_meta.NearestNeighbour(_points(), WAYS, neighbours=3)
    x, _ = _tasks()
    far = {k: v + 1e8 if k.endswith("x") else v for k, v in x.items()}
    np.testing.assert_array_equal(learner(far), learner(x))


def test_an_example_without_weight_does_not_vote():
    learner = keras_meta.NearestNeighbour(_points(), WAYS)
    x, _ = _tasks()
    x["query_x"] = x["support_x"][:, :1]
    assert learner(x).numpy().argmax(-1).tolist() == [[0]] * 3
    x["support_y"][:, 3] = 1
    x["support_sample_weight"] = np.tile([0.0, 1, 1, 1, 1, 1], [3, 1])
    assert (learner(x).numpy().argmax(-1) != 0).all()


def test_neighbours_that_are_no_numbers_are_reported():
    learner = compiled(keras_meta.NearestNeighbour(_points(), WAYS))
    x, _ = _tasks()
    x["support_x"][1, 0] = np.nan
    with refuses(FloatingPointError, "not finite"):
        learner.predict(x, verbose=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neighbours": 0}, "`neighbours` must be .* at least 1"),
        ({"neighbours": 3, "means": True}, "with means=True there are none"),
        ({"distance": "manhattan"}, "`distance` must be one of"),
    ],
)
def test_bad_neighbours_are_refused(options, message):
    with refuses(ValueError, message):
        keras_meta.NearestNeighbour(_encoder(), WAYS, **options)


def test_more_neighbours_than_examples_are_refused():
    learner = keras_meta.NearestNeighbour(_encoder(), WAYS, neighbours=7)
    with refuses(ValueError, "neighbours=7 .*Received: 6 support examples"):
        learner(_tasks()[0])


# Logistic regression.


def _features(learner, x):
    """Returns features of length 1, with a last column of ones."""
    x = tf.math.l2_normalize(learner.encoder(x), -1)
    return tf.concat([x, tf.ones_like(x[..., :1])], -1)


@pytest.mark.slow_variants("4")
@pytest.mark.parametrize("shots", [1, 4])
def test_a_logistic_regression_is_at_its_optimum(shots):
    """With fewer examples than features, and with more."""
    learner = keras_meta.LogisticRegression(_encoder(), WAYS, strength=0.5)
    x, _ = _tasks(shots=shots)
    rng = np.random.default_rng(0)
    weights = rng.uniform(0.5, 2.0, x["support_y"].shape)
    w, _ = learner.adapt_tasks({**x, "support_sample_weight": weights})
    w = tf.Variable(w)
    with tf.GradientTape() as tape:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
            x["support_y"],
            tf.stack([_features(learner, x["support_x"][i]) for i in range(3)])
            @ w,
        )
        penalty = 0.25 * tf.reduce_sum(w[:, :-1] ** 2)
        loss = tf.reduce_sum(weights * losses) + penalty
    assert np.abs(w).min() > 1e-3
    np.testing.assert_allclose(tape.gradient(loss, w), 0.0, atol=1e-9)
    logits = learner(x)
    w, _ = learner.adapt_tasks(x)
    for task in range(3):
        queries = _features(learner, x["query_x"][task])
        np.testing.assert_allclose(logits[task], queries @ w[task])


def test_it_is_the_optimum_of_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    learner = keras_meta.LogisticRegression(_encoder(), WAYS, strength=0.1)
    x, _ = _tasks(shots=3)
    found = tf.nn.softmax(learner(x)).numpy()
    for task in range(3):
        reference = linear_model.LogisticRegression(
            C=10.0, tol=1e-10, max_iter=10_000
        )
        support, queries = (
            _features(learner, x[name][task])[:, :-1]
            for name in ("support_x", "query_x")
        )
        reference.fit(support, x["support_y"][task])
        np.testing.assert_allclose(
            found[task], reference.predict_proba(queries), rtol=1e-6
        )


def _problem(penalty, spread=0.0, tasks=32):
    """Regressions whose classes can be told apart perfectly.

    The weights of the examples are powers of ten up to `spread`.
    """
    x = normal([tasks, 6, 8])
    y = tf.one_hot([[0, 1, 2] * 2] * tasks, 3, dtype=x.dtype)
    weights = 10 ** (spread * tf.sin(normal([tasks, 6, 1], 1)))
    penalty = tf.constant([penalty] * 7 + [0.0], x.dtype)
    return logistic_fit.LogisticProblem(x, y * weights, penalty)


def test_derivatives_are_central_differences():
    problem = _problem(0.3)
    w, v = normal([32, 8, 3], 1), normal([32, 8, 3], 2)
    p = problem.probabilities(w)
    ahead, behind = w + 1e-5 * v, w - 1e-5 * v
    slope = tf.reduce_sum(problem.gradient(w, p) * v, [1, 2])
    np.testing.assert_allclose(
        (problem.value(ahead) - problem.value(behind)) / 2e-5, slope, rtol=1e-7
    )
    gradients = [
        problem.gradient(z, problem.probabilities(z)) for z in (ahead, behind)
    ]
    np.testing.assert_allclose(
        (gradients[0] - gradients[1]) / 2e-5,
        problem.curvature(p, v),
        atol=1e-7,
    )


@pytest.mark.parametrize(
    ("penalty", "spread"), [(1.0, 0.0), (1e-4, 0.0), (1e-2, 3.0)]
)
def test_a_regression_ends_at_its_optimum(penalty, spread):
    """Full steps of Newton's method diverge for very unequal weights."""
    problem = _problem(penalty, spread)
    w = logistic_fit.fit_logistic(problem)
    first, last = (
        problem.gradient(z, problem.probabilities(z))
        for z in (problem.start(), w)
    )
    sizes = tf.norm(last, axis=[1, 2]) / tf.norm(first, axis=[1, 2])
    np.testing.assert_array_less(sizes, 1e-8)


@pytest.mark.slow
def test_regressions_do_not_depend_on_each_other():
    problem = _problem(0.1, tasks=3)
    together = logistic_fit.fit_logistic(problem)
    for i in range(3):
        alone = logistic_fit.LogisticProblem(
            problem.x[i : i + 1], problem.y[i : i + 1], problem.penalty
        )
        np.testing.assert_allclose(
            logistic_fit.fit_logistic(alone)[0], together[i], atol=1e-9
        )


def test_a_class_without_examples_stays_out_of_the_regression():
    problem = _problem(0.1)
    # Its offset would have no lower bound.
    y = tf.stack([problem.y[..., 0] + problem.y[..., 2], problem.y[..., 1]], -1)
    y = tf.pad(y, [[0, 0], [0, 0], [0, 1]])
    two = logistic_fit.LogisticProblem(problem.x, y, problem.penalty)
    w = logistic_fit.fit_logistic(two)
    np.testing.assert_array_equal(w[..., 2], 0.0)
    p = tf.sigmoid(problem.x @ (w[..., :1] - w[..., 1:2]))
    slope = tf.matmul(problem.x, p - y[..., :1], transpose_a=True)
    slope += problem.penalty[:, None] * w[..., :1]
    np.testing.assert_allclose(slope, 0.0, atol=1e-8)


def test_a_regression_on_what_is_no_number_is_none():
    problem = _problem(0.1)
    bad = tf.tensor_scatter_nd_update(problem.x, [[1, 0, 0]], [np.nan])
    w = logistic_fit.fit_logistic(
        logistic_fit.LogisticProblem(bad, problem.y, problem.penalty)
    ).numpy()
    assert np.isnan(w[1]).all()
    np.testing.assert_array_equal(w[0], logistic_fit.fit_logistic(problem)[0])


# Fine-tuning.


def _softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def test_a_new_head_is_trained_by_descent_with_momentum():
    learner = compiled(
        keras_meta.FineTuning(
            _encoder(), WAYS, keras_meta.Momentum(0.3, momentum=0.8), steps=4
        ),
        loss=crossentropy(),
    )
    x, _ = _tasks()
    logits = learner(x).numpy()
    for task in range(3):
        support, queries = (
            np.c_[learner.encoder(x[name][task]), np.ones(6)]
            for name in ("support_x", "query_x")
        )
        w = velocity = np.zeros([_SIZE + 1, WAYS])
        for _ in range(4):
            gaps = _softmax(support @ w) - _one_hot(x["support_y"][task])
            velocity = 0.8 * velocity + support.T @ gaps / 6
            w = w - 0.3 * velocity
        np.testing.assert_allclose(logits[task], queries @ w, rtol=1e-9)


def _with_plain_keras(learner, x, y, queries):
    # Rate and momentum are exact in float32, as Keras keeps them.
    model = keras.models.clone_model(learner.model)
    model.set_weights(learner.model.get_weights())
    model.compile(keras.optimizers.SGD(0.125, momentum=0.75), crossentropy())
    model.fit(x, y, batch_size=len(x), epochs=learner.steps, verbose=0)
    return model(queries)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_the_whole_network_is_trained_as_by_keras(head):
    learner = compiled(
        keras_meta.FineTuning(
            _encoder(),
            WAYS,
            keras_meta.Momentum(0.125, momentum=0.75),
            steps=3,
            head=head,
            adapt="all",
        ),
        loss=crossentropy(),
    )
    before = learner.get_weights()
    x, _ = _tasks()
    expected = _with_plain_keras(
        learner, x["support_x"][1], x["support_y"][1], x["query_x"][1]
    )
    np.testing.assert_allclose(learner(x)[1], expected, rtol=1e-9)
    adapted = learner.adapt(x["support_x"][1], x["support_y"][1])
    np.testing.assert_allclose(adapted(x["query_x"][1]), expected, rtol=1e-9)
    for old, new in zip(before, learner.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_a_head_is_trained_on_embeddings_as_on_what_they_embed(head):
    learner = compiled(
        keras_meta.FineTuning(_encoder(), WAYS, 0.5, steps=2, head=head),
        loss=crossentropy(),
    )
    kernel = learner.model.layers[-1].weights[0]
    kernel.assign_add(tf.fill(kernel.shape, 0.3))
    x, _ = _tasks()
    embedded = dict(x)
    for part in ("support_x", "query_x"):
        flat = np.reshape(x[part], [-1, x[part].shape[-1]])
        embedded[part] = np.reshape(
            learner.encoder(flat), [*x[part].shape[:2], -1]
        )
    layers = [keras.Input([_SIZE]), keras.layers.Identity()]
    other = learner.with_encoder(keras.Sequential(layers))
    compiled(other, loss=crossentropy())
    np.testing.assert_allclose(other(embedded), learner(x), rtol=1e-9)


def test_a_head_for_other_ways_shares_the_encoder():
    learner = keras_meta.FineTuning(_encoder(), WAYS, 0.5, steps=2)
    two = compiled(learner.with_ways(2), loss=crossentropy())
    assert two.encoder is learner.encoder
    x, _ = _tasks()
    kept = x["support_y"][0] < 2
    x = {k: v[:, kept] if k.startswith("support") else v for k, v in x.items()}
    assert two(x).shape[-1] == 2


@pytest.mark.parametrize("adapt", ["head", "all"])
def test_statistics_are_the_encoders_own_while_it_does_not_change(adapt):
    layers = [keras.Input([2]), keras.layers.BatchNormalization()]
    encoder = keras.Sequential(layers)
    x, _ = _tasks()
    x = {key: x[key] for key in ("support_x", "support_y", "query_x")}
    explicit = "running" if adapt == "head" else "support"
    predictions = []
    for options in ({}, {"batch_statistics": explicit}):
        learner = keras_meta.FineTuning(
            encoder, WAYS, 0.5, steps=2, adapt=adapt, **options
        )
        predictions.append(compiled(learner, loss=crossentropy())(x))
        assert learner.with_ways(WAYS).batch_statistics == explicit
    np.testing.assert_array_equal(*predictions)


def test_an_encoder_of_another_size_is_refused():
    learner = keras_meta.FineTuning(_encoder(), WAYS)
    layers = [keras.Input([_SIZE + 1]), keras.layers.Identity()]
    with refuses(ValueError, "as many entries as the present one"):
        learner.with_encoder(keras.Sequential(layers))


class _OwnEncoder(keras.Model):
    def call(self, x):
        return x


def test_an_encoder_of_unknown_size_is_refused():
    encoder = _OwnEncoder()
    encoder(np.zeros([1, 2]))
    with refuses(ValueError, "tell the sizes .* starts with keras.Input"):
        keras_meta.FineTuning(encoder, WAYS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ways": 1}, "`ways` must be .* at least 2"),
        ({"head": "quadratic"}, "`head` must be one of 'linear', 'cosine'"),
    ],
)
def test_bad_heads_are_refused(options, message):
    with refuses(ValueError, message):
        keras_meta.FineTuning(**{"encoder": _encoder(), "ways": 3, **options})


# The head of Baseline++.


def test_scores_are_cosines_times_norms():
    layer = keras_meta.CosineDense(3, scale=4.0)
    layer.build([None, 2])
    layer.norms.assign([1.0, 2.0, 3.0])
    x, kernel = normal([5, 2]).numpy(), layer.kernel.numpy()
    cosines = _similarities("cosine", x, kernel.T)
    np.testing.assert_allclose(layer(x), 4 * cosines * [1, 2, 3], rtol=1e-9)


def test_cosines_of_tasks_equal_the_loop():
    model = one_layer(keras_meta.CosineDense(3), [2, 4])
    batched = assert_equals_loop(model, normal([3, 5, 2, 4]))
    assert not batched.has_fallback


@pytest.mark.slow
def test_cosines_with_norms_of_tasks_equal_the_loop():
    model = one_layer(keras_meta.CosineDense(3), [2, 4])
    only = [v for v in model.trainable_variables if v.name == "norms"]
    assert_equals_loop(model, normal([3, 5, 2, 4]), adapted=only)


@pytest.mark.parametrize("options", [{"units": 0}, {"units": 2, "scale": 0.0}])
def test_bad_cosines_are_refused(options):
    with refuses(ValueError, "must be .* positive"):
        keras_meta.CosineDense(**options)


# What has nothing to learn from tasks.


def test_learners_without_trainable_weights_are_refused():
    learner = keras_meta.PrototypicalNetwork(_encoder(), WAYS)
    learner.encoder.trainable = False
    x, y = _tasks()
    with refuses(ValueError, "nothing to learn.*Set `trainable = True`"):
        compiled(learner, loss=crossentropy()).fit(x, y, verbose=0)
