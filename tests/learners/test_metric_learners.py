"""Learners that compare embedded examples, against formulas."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta
from keras_meta.learners import ridge_head
from keras_meta.learners.embedding_learner import EmbeddedSupport

from .helpers import WAYS
from .helpers import batch
from .helpers import classification
from .helpers import compiled
from .helpers import crossentropy
from .helpers import normalized_mlp
from .helpers import refuses

pytestmark = pytest.mark.usefixtures("float64")
_SIZE = 4


def _encoder():
    keras.utils.set_random_seed(0)
    layers = [keras.Input([2]), keras.layers.Dense(_SIZE, "tanh")]
    return keras.Sequential(layers)


def _tasks(**options):
    return classification(tasks=3, **options)


def _softmax(x, axis=-1):
    x = np.exp(x - x.max(axis, keepdims=True))
    return x / x.sum(axis, keepdims=True)


def _of_task(learner, x, task):
    """Returns one task's embedded support set, labels and queries."""
    embed = learner.encoder.predict
    return (
        embed(x["support_x"][task], verbose=0),
        x["support_y"][task],
        embed(x["query_x"][task], verbose=0),
    )


# Each learner as its paper writes it, for one task.


def _prototypes(learner, support, labels, queries):
    means = [support[labels == k].mean(0) for k in range(WAYS)]
    gaps = queries[:, None] - np.stack(means)
    return -np.sum(gaps**2, -1)


def _matching(learner, support, labels, queries):
    def unit(x):
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    cosines = unit(queries) @ unit(support).T
    attention = _softmax(learner.temperature * cosines)
    return np.log(attention @ np.eye(WAYS)[labels])


def _ridge(learner, support, labels, queries):
    x, z = (np.c_[a, np.ones(len(a))] for a in (support, queries))
    matrix = x.T @ x + learner.strength * np.eye(_SIZE + 1)
    return (
        learner.scale * z @ np.linalg.solve(matrix, x.T @ np.eye(WAYS)[labels])
    )


LEARNERS = {
    "prototypical": (
        lambda: keras_meta.PrototypicalNetwork(_encoder(), WAYS),
        _prototypes,
    ),
    "matching": (
        lambda: keras_meta.MatchingNetwork(_encoder(), WAYS, temperature=7.0),
        _matching,
    ),
    "ridge": (
        lambda: keras_meta.RidgeHead(_encoder(), WAYS, strength=0.3, scale=2.0),
        _ridge,
    ),
}
each_learner = pytest.mark.parametrize("name", LEARNERS)
slow_but_ridge = pytest.mark.slow_variants("matching", "prototypical")


@each_learner
def test_predictions_are_those_of_the_formula(name):
    make, formula = LEARNERS[name]
    learner = make()
    x, _ = _tasks()
    logits = learner(x).numpy()
    for task in range(3):
        expected = formula(learner, *_of_task(learner, x, task))
        np.testing.assert_allclose(
            _softmax(logits[task]), _softmax(expected), rtol=1e-9
        )


@each_learner
def test_the_order_of_a_support_set_does_not_matter(name):
    learner = LEARNERS[name][0]()
    x, _ = _tasks()
    order = np.random.default_rng(0).permutation(x["support_y"].shape[1])
    mixed = {
        **x,
        "support_x": x["support_x"][:, order],
        "support_y": x["support_y"][:, order],
    }
    np.testing.assert_allclose(learner(x), learner(mixed), rtol=1e-9)


@each_learner
def test_a_weight_counts_copies_of_an_example(name):
    learner = LEARNERS[name][0]()
    x, _ = _tasks()
    weights = np.tile([2.0, 1.0, 1.0, 0.0, 1.0, 1.0], [3, 1])
    weighted = learner({**x, "support_sample_weight": weights})
    index = [0, 0, 1, 2, 4, 5]
    copied = {key: x[key][:, index] for key in ("support_x", "support_y")}
    np.testing.assert_allclose(weighted, learner({**x, **copied}), rtol=1e-9)


@each_learner
def test_one_hot_labels_are_class_numbers(name):
    learner = LEARNERS[name][0]()
    x, _ = _tasks()
    one_hot = np.eye(WAYS)[x["support_y"]]
    expected = learner(x)
    for labels in (one_hot, x["support_y"][..., None]):
        found = learner({**x, "support_y": labels})
        np.testing.assert_array_equal(found, expected)


@slow_but_ridge
@each_learner
def test_a_class_without_examples_is_not_predicted(name):
    learner = compiled(LEARNERS[name][0](), loss=crossentropy())
    x, y = _tasks()
    x["support_y"] = np.where(x["support_y"] == 2, 1, x["support_y"])
    probabilities = tf.nn.softmax(learner(x)).numpy()
    np.testing.assert_array_equal(probabilities[..., 2], 0.0)
    learner.train_on_batch(x, np.where(y == 2, 1, y))
    assert all(np.isfinite(w).all() for w in learner.get_weights())


@slow_but_ridge
@each_learner
def test_gradients_are_central_differences(name):
    learner = compiled(
        LEARNERS[name][0](), keras.optimizers.SGD(1.0), crossentropy()
    )
    x, y = _tasks()
    before = learner.get_weights()
    learner.train_on_batch(x, y)
    moves = [b - a for b, a in zip(before, learner.get_weights(), strict=True)]
    rng = np.random.default_rng(1)
    ways = [rng.normal(size=np.shape(w)) for w in before]

    def loss(size):
        moved = [w + size * v for w, v in zip(before, ways, strict=True)]
        learner.set_weights(moved)
        return crossentropy()(y, learner(x)).numpy()

    slope = sum(np.sum(m * v) for m, v in zip(moves, ways, strict=True))
    difference = (loss(1e-5) - loss(-1e-5)) / 2e-5
    assert difference == pytest.approx(slope, rel=1e-7)


def test_other_ways_need_no_other_weights():
    learner = LEARNERS["ridge"][0]()
    learner.offset.assign(0.7)
    two = learner.with_ways(2)
    assert two.encoder is learner.encoder
    np.testing.assert_array_equal(two.offset, 0.7)
    x, _ = _tasks()
    kept = x["support_y"][0] < 2
    x = {k: v[:, kept] if k.startswith("support") else v for k, v in x.items()}
    np.testing.assert_allclose(two(x), learner(x)[..., :2], rtol=1e-9)


@each_learner
def test_embeddings_are_as_good_as_what_they_embed(name):
    learner = LEARNERS[name][0]()
    for variable in learner.trainable_variables:
        variable.assign_add(tf.fill(variable.shape, 0.3))
    x, _ = _tasks()
    embedded = dict(x)
    for part in ("support_x", "query_x"):
        embedded[part] = learner.embed(x[part]).numpy()
    layers = [keras.Input([_SIZE]), keras.layers.Identity()]
    head = learner.with_encoder(keras.Sequential(layers))
    np.testing.assert_allclose(head(embedded), learner(x), rtol=1e-9)


@each_learner
def test_adapting_to_one_task_gives_a_plain_model(name):
    learner = LEARNERS[name][0]()
    x, _ = _tasks()
    adapted = learner.adapt(x["support_x"][1], x["support_y"][1])
    np.testing.assert_allclose(
        adapted(x["query_x"][1]), learner(x)[1], rtol=1e-9
    )
    # It is a copy.
    before = adapted(x["query_x"][1])
    learner.set_weights([0.5 * w for w in learner.get_weights()])
    np.testing.assert_array_equal(adapted(x["query_x"][1]), before)


@slow_but_ridge
@each_learner
def test_an_adapted_model_is_saved_and_exported(name, tmp_path):
    learner = LEARNERS[name][0]()
    x, _ = _tasks()
    adapted = learner.adapt(x["support_x"][1], x["support_y"][1])
    queries = x["query_x"][1]
    expected = adapted(queries)
    adapted.save(tmp_path / "adapted.keras")
    loaded = keras.models.load_model(tmp_path / "adapted.keras")
    np.testing.assert_array_equal(loaded(queries), expected)
    adapted.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    np.testing.assert_allclose(served.serve(queries), expected, rtol=1e-9)


def test_weights_of_examples_count_in_adapting():
    learner = LEARNERS["ridge"][0]()
    x, _ = _tasks()
    weights = np.array([1.0, 2.0, 0.0, 1.0, 0.5, 1.0])
    one = learner.adapt(x["support_x"][0], x["support_y"][0], weights)
    x["support_sample_weight"] = np.tile(weights, [len(x["support_x"]), 1])
    np.testing.assert_allclose(one(x["query_x"][0]), learner(x)[0], rtol=1e-9)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"support_x": [[np.nan, 0.0]] * 2}, FloatingPointError, "NaN"),
        ({"support_y": [0, WAYS]}, ValueError, f"label {WAYS}"),
        ({"support_y": [0, 1, 2]}, ValueError, "same number of examples"),
    ],
)
def test_bad_support_sets_are_refused(change, error, message):
    learner = LEARNERS["ridge"][0]()
    given = {"support_x": np.ones([2, 2]), "support_y": [0, 1], **change}
    with pytest.raises(error, match=message):
        learner.adapt(**given)


def test_containers_that_would_not_be_saved_are_refused():
    class Named(keras_meta.PrototypicalNetwork):
        def adapt_embedded(self, x, classes, weights):
            means = super().adapt_embedded(x, classes, weights)
            return EmbeddedSupport(means, classes, weights)

    x, _ = _tasks()
    with pytest.raises(ValueError, match="lists, tuples.*EmbeddedSupport"):
        Named(_encoder(), WAYS).adapt(x["support_x"][0], x["support_y"][0])


def test_convolutions_that_all_tasks_share_are_left_to_tensorflow():
    convolution = keras.Sequential(
        [keras.Input([4, 4, 1]), keras.layers.Conv2D(2, 3)]
    )
    has_gpu = bool(tf.config.list_logical_devices("GPU"))
    for encoder, uses_xla in ((_encoder(), True), (convolution, has_gpu)):
        learner = keras_meta.PrototypicalNetwork(encoder, WAYS)
        learner.compile("sgd", crossentropy())
        assert learner.jit_compile == uses_xla


@pytest.mark.slow
def test_many_steps_in_one_execution_are_many_steps():
    x, y = _tasks()
    data = tf.data.Dataset.from_tensors((x, y)).repeat(4)
    weights = []
    for steps in (1, 4):
        learner = keras_meta.PrototypicalNetwork(_encoder(), WAYS)
        learner.compile("sgd", crossentropy(), steps_per_execution=steps)
        learner.fit(data, verbose=0)
        weights.append(learner.get_weights())
    for one, many in zip(*weights, strict=True):
        np.testing.assert_allclose(many, one, rtol=1e-9)


def test_batch_statistics_are_those_of_a_set():
    learner = keras_meta.PrototypicalNetwork(
        normalized_mlp(_SIZE), WAYS, batch_statistics="batch"
    )
    x, _ = _tasks()
    alone = [
        learner({k: v[i : i + 1] for k, v in x.items()}).numpy()[0]
        for i in range(3)
    ]
    np.testing.assert_allclose(learner(x), alone, rtol=1e-9)
    running = keras_meta.PrototypicalNetwork(learner.encoder, WAYS)
    assert np.abs(running(x) - learner(x)).max() > 1e-3


@pytest.mark.slow
def test_training_updates_moving_averages():
    learner = compiled(
        keras_meta.PrototypicalNetwork(normalized_mlp(_SIZE), WAYS),
        loss=crossentropy(),
    )
    averages = learner.encoder.get_layer("norm").moving_mean
    x, y = _tasks()
    before = averages.numpy()
    learner.evaluate(x, y, verbose=0)
    np.testing.assert_array_equal(averages, before)
    learner.train_on_batch(x, y)
    assert np.abs(averages - before).min() > 0
    before = averages.numpy()
    x["query_x"][1] = np.nan
    with refuses(FloatingPointError, "undone"):
        learner.train_on_batch(x, y)
    np.testing.assert_array_equal(averages, before)


# Ridge regression.


@pytest.mark.parametrize(("examples", "size"), [(3, 7), (7, 3), (5, 5)])
def test_both_forms_of_ridge_regression_agree(examples, size):
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=[2, examples, size]))
    y = tf.constant(rng.normal(size=[2, examples, 4]))
    by_features = ridge_head.ridge_by_features(x, y, 0.7)
    by_examples = ridge_head.ridge_by_examples(x, y, 0.7)
    np.testing.assert_allclose(by_features, by_examples, rtol=1e-9)


@pytest.mark.parametrize(("examples", "size"), [(3, 50), (50, 3)])
def test_ridge_regression_solves_the_smaller_system(examples, size):
    graph = tf.function(ridge_head.ridge).get_concrete_function(
        tf.TensorSpec([2, examples, size]),
        tf.TensorSpec([2, examples, 4]),
        tf.TensorSpec([]),
    )
    factors = [
        op.outputs[0].shape.as_list()
        for op in graph.graph.get_operations()
        if op.type == "Cholesky"
    ]
    assert factors == [[2, 3, 3]]


def test_a_strong_ridge_points_at_the_sums_of_the_classes():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=[6, 4]), np.eye(3)[[0, 1, 2, 0, 1, 2]]
    weights = ridge_head.ridge(tf.constant(x), tf.constant(y), 1e8) * 1e8
    np.testing.assert_allclose(weights, x.T @ y, rtol=1e-6)


# Matching networks.


@pytest.mark.parametrize(
    ("temperature", "ways", "least", "most"),
    [(1.0, 5, 0.0, 0.65), (1.0, 20, 0.0, 0.28), (30.0, 5, 0.99, 1.0)],
)
def test_a_temperature_makes_attention_sharp(temperature, ways, least, most):
    """Without it, the probability of a class has a low bound."""
    encoder = keras.Sequential([keras.Input([2]), keras.layers.Identity()])
    learner = keras_meta.MatchingNetwork(encoder, ways, temperature=temperature)
    # The first class lies where the query is, all others opposite.
    points = np.tile([-1.0, 0.0], [ways, 1])
    points[0] *= -1
    x = {
        "support_x": points[None],
        "support_y": np.arange(ways)[None],
        "query_x": points[None, :1],
    }
    probability = tf.nn.softmax(learner(x)).numpy()[0, 0, 0]
    assert least < probability < most + 0.005


def test_full_context_depends_on_the_other_examples():
    x, _ = _tasks()
    far = {**x, "support_x": x["support_x"].copy()}
    far["support_x"][:, -1] += 5.0
    for steps in (0, 2):
        learner = keras_meta.MatchingNetwork(
            _encoder(), WAYS, context_steps=steps
        )
        (one, classes), _ = learner.adapt_tasks(x)
        (other, _), _ = learner.adapt_tasks(far)
        moved = np.abs(one - other).max(-1)[:, :-1] > 1e-9
        assert moved.all() if steps else not moved.any()
        assert classes.shape == [3, 6, WAYS]


def test_a_query_reads_the_support_set_as_written_out():
    learner = keras_meta.MatchingNetwork(_encoder(), WAYS, context_steps=3)
    x, _ = batch(_tasks(batches=1), 0)
    context = learner.context
    support = context.of_support(learner.embed(x["support_x"]))
    queries = learner.embed(x["query_x"]).numpy()
    found = context.of_queries(tf.constant(queries), support)
    kernel, recurrent, bias = (w.numpy() for w in context.cell.weights)

    def sigmoid(a):
        return 1 / (1 + np.exp(-a))

    for task in range(3):
        g = support[task].numpy()
        for i, query in enumerate(queries[task]):
            h, c, r = np.zeros([3, _SIZE])
            for _ in range(3):
                z = np.r_[query, r] @ kernel + h @ recurrent + bias
                gate, forget, new, out = np.split(z, 4)
                c = sigmoid(forget) * c + sigmoid(gate) * np.tanh(new)
                h = sigmoid(out) * np.tanh(c) + query
                r = _softmax(g @ h) @ g
            np.testing.assert_allclose(found[task, i], h, rtol=1e-9)


# What is refused.


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"ways": 1}, ValueError, "`ways` must be .* at least 2"),
        ({"encoder": "conv"}, TypeError, "`encoder` must be a keras.Model"),
        ({"batch_statistics": "support"}, ValueError, "`batch_statistics`"),
    ],
)
def test_bad_arguments_are_refused(options, error, message):
    with refuses(error, message):
        keras_meta.PrototypicalNetwork(
            **{"encoder": _encoder(), "ways": WAYS, **options}
        )


@pytest.mark.parametrize("name", ["strength", "scale"])
def test_ridge_heads_refuse_what_is_not_positive(name):
    with refuses(ValueError, f"`{name}` must be"):
        keras_meta.RidgeHead(_encoder(), WAYS, **{name: 0.0})


def test_an_encoder_must_be_built():
    encoder = keras.Sequential([keras.layers.Dense(3)])
    with refuses(ValueError, "`encoder` must be built"):
        keras_meta.PrototypicalNetwork(encoder, WAYS)


def test_labels_that_are_no_classes_are_refused():
    learner = compiled(LEARNERS["prototypical"][0](), loss=crossentropy())
    x, y = _tasks()
    with refuses(ValueError, "in 0..2.*Task 1 .*`support_y`.*label 3"):
        labels = x["support_y"].copy()
        labels[1, 0] = 3
        learner({**x, "support_y": labels})
    with refuses(ValueError, "in 0..2.*Task 2 .*`query_y`.*label -1"):
        y[2, 0] = -1
        learner.evaluate(x, y, verbose=0)
    with refuses(ValueError, "`support_y` must be class numbers"):
        learner({**x, "support_y": np.zeros([3, 6, 2])})
