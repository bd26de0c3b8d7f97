"""Learners of pairs, against formulas and TensorFlow Addons."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta
from keras_meta import addons
from keras_meta.learners import siamese_network
from keras_meta.learners.embedded import pair_losses
from tests.reference import normal

from .helpers import WAYS
from .helpers import classification
from .helpers import compiled
from .helpers import crossentropy
from .helpers import refuses

pytestmark = pytest.mark.usefixtures("float64")
needs_addons = pytest.mark.skipif(
    not addons.is_available(), reason="TensorFlow Addons is not installed"
)
_SIZE = 4


def _learner(**options):
    keras.utils.set_random_seed(0)
    layers = [keras.Input([2]), keras.layers.Dense(_SIZE, "tanh")]
    encoder = keras.Sequential(layers)
    learner = keras_meta.SiameseNetwork(encoder, WAYS, **options)
    if learner.weighs_gaps:
        learner.gap_weights.assign(normal([_SIZE], 3))
        learner.bias.assign(0.4)
    return compiled(learner, keras.optimizers.SGD(1.0), crossentropy())


def _tasks():
    return classification(tasks=3)


def _parts(learner, x, task):
    return (
        learner.encoder(x[name][task]).numpy()
        for name in ("query_x", "support_x")
    )


def _pairs(learner, queries, support):
    """Returns the score of each pair, as the formulas are written."""
    gaps = queries[:, None] - support
    if not learner.weighs_gaps:
        return -np.linalg.norm(gaps, axis=-1)
    return np.abs(gaps) @ learner.gap_weights.numpy() + learner.bias.numpy()


OPTIONS = {
    "binary_crossentropy": {},
    "contrastive": {"pair_loss": "contrastive"},
    "triplet": {"embedding_loss": "triplet"},
}
each_loss = pytest.mark.parametrize("name", OPTIONS)


def test_a_score_does_not_depend_on_which_comes_first():
    learner = _learner()
    a, b = normal([2, 5, _SIZE], 1), normal([2, 3, _SIZE], 2)
    one, other = learner.score(a, b), learner.score(b, a)
    np.testing.assert_array_equal(one, tf.transpose(other, [0, 2, 1]))


def test_an_example_and_itself_have_the_probability_of_the_bias():
    learner = _learner()
    x = normal([2, 5, _SIZE])
    same = tf.linalg.diag_part(tf.sigmoid(learner.score(x, x)))
    np.testing.assert_array_equal(same - tf.sigmoid(learner.bias), 0.0)


@pytest.mark.slow_variants("triplet")
@each_loss
def test_the_logit_of_a_class_is_the_mean_of_its_pairs(name):
    learner = _learner(**OPTIONS[name])
    x, _ = _tasks()
    for task, logits in enumerate(learner(x).numpy()):
        scores = _pairs(learner, *_parts(learner, x, task))
        labels = x["support_y"][task]
        expected = [scores[:, labels == k].mean(1) for k in range(WAYS)]
        np.testing.assert_allclose(logits.T, expected, rtol=1e-9)


# What is minimized.


def test_pairs_of_both_kinds_have_the_same_weight():
    y = tf.one_hot([[0, 1, 2, 2], [0, 0, 0, 1]], 3, dtype=tf.float64)
    classes = tf.one_hot([[0, 1, 1, 2, 2], [0, 1, 1, 1, 1]], 3)
    same, different = siamese_network.balanced_pairs(
        y, tf.cast(classes, tf.float64)
    )
    is_same = np.argmax(y, -1)[..., None] == np.argmax(classes, -1)[:, None]
    for kind, weights in ((is_same, same), (~is_same, different)):
        number = kind.sum((1, 2), keepdims=True)
        np.testing.assert_allclose(weights, kind / (2 * number), rtol=1e-9)


def _crossentropies(same, logits):
    p = 1 / (1 + np.exp(-logits))
    return -np.log(np.where(same, p, 1 - p))


def _contrasts(same, scores):
    return np.where(same, scores**2, np.maximum(1 + scores, 0) ** 2)


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("binary_crossentropy", _crossentropies),
        ("contrastive", _contrasts),
    ],
)
def test_the_loss_is_that_of_balanced_pairs(name, formula):
    learner = _learner(**OPTIONS[name])
    x, y = _tasks()
    losses = []
    for task in range(3):
        scores = _pairs(learner, *_parts(learner, x, task))
        same = y[task][:, None] == x["support_y"][task]
        values = formula(same, scores)
        losses.append((values[same].mean() + values[~same].mean()) / 2)
    loss, logits = learner.outer_loss(x, y)
    assert float(loss) == pytest.approx(np.mean(losses), rel=1e-9)
    np.testing.assert_allclose(logits, learner(x), rtol=1e-9)


def test_the_loss_of_embeddings_is_that_of_each_task():
    learner = _learner(**OPTIONS["triplet"])
    x, y = _tasks()
    losses = [
        pair_losses.triplet_loss(
            np.r_[x["support_y"][task], y[task]],
            np.r_[tuple(_parts(learner, x, task))[::-1]],
        )
        for task in range(3)
    ]
    loss, _ = learner.outer_loss(x, y)
    assert float(loss) == pytest.approx(np.mean(losses), rel=1e-9)


def test_a_weight_counts_copies_of_an_example():
    learner = _learner()
    x, y = _tasks()
    weights = np.tile([2.0, 1.0, 1.0, 0.0, 1.0, 1.0], [3, 1])
    index = [0, 0, 1, 2, 4, 5]
    weighted = {**x, "support_sample_weight": weights}
    copied = {
        key: value[:, index] if key.startswith("support") else value
        for key, value in x.items()
    }
    loss, logits = learner.outer_loss(weighted, y, weights)
    copied["query_x"] = x["query_x"][:, index]
    expected, copies = learner.outer_loss(copied, y[:, index])
    assert float(loss) == pytest.approx(expected.numpy(), rel=1e-9)
    np.testing.assert_allclose(logits.numpy()[:, index], copies, rtol=1e-9)


@pytest.mark.slow_variants("contrastive", "triplet")
@each_loss
def test_gradients_are_central_differences(name):
    learner = _learner(**OPTIONS[name])
    x, y = _tasks()
    before = learner.get_weights()
    learner.train_on_batch(x, y)
    moves = [b - a for b, a in zip(before, learner.get_weights(), strict=True)]
    ways = [normal(np.shape(w), i).numpy() for i, w in enumerate(before)]

    def loss(size):
        moved = [w + size * v for w, v in zip(before, ways, strict=True)]
        learner.set_weights(moved)
        return learner.outer_loss(x, y)[0].numpy()

    slope = sum(np.sum(m * v) for m, v in zip(moves, ways, strict=True))
    difference = (loss(1e-5) - loss(-1e-5)) / 2e-5
    assert abs(slope) > 1e-3
    assert difference == pytest.approx(slope, rel=1e-6)


# Losses that can be chosen.


def test_the_contrastive_loss_of_a_few_pairs():
    losses = pair_losses.contrastive_loss(
        tf.constant([1, 1, 0, 0]), tf.constant([0.0, 3.0, 0.5, 3.0]), margin=2.0
    )
    np.testing.assert_allclose(losses, [0.0, 9.0, 2.25, 0.0])


def test_the_triplet_loss_of_points_on_a_line():
    points = tf.constant([[0.0], [1.0], [1.5], [9.0]], tf.float64)
    # Both positives are 1 apart. For the first, the negative is the nearest
    # that is farther, at 1.5; for the second, the one at 8, as 0.5 is nearer.
    loss = pair_losses.triplet_loss(tf.constant([0, 0, 1, 2]), points, 4.0)
    assert float(loss) == pytest.approx((1 - 1.5 + 4 + 0) / 2)
    # Behind the fourth point there is none, so the farthest counts.
    loss = pair_losses.triplet_loss(tf.constant([0, 1, 1, 0]), points, 1.0)
    losses = [9 - 1.5 + 1, 9 - 8 + 1, 0.5 - 1 + 1, 0.5 - 1.5 + 1]
    assert float(loss) == pytest.approx(np.mean(losses))


@needs_addons
@pytest.mark.slow
def test_losses_are_those_of_addons():
    labels = tf.constant([0, 1, 2, 0, 1, 2, 0])
    points = normal([7, 3]).numpy().astype("float32")
    same, gaps = tf.constant([1, 0, 1, 0]), tf.constant([0.3, 0.2, 2.0, 5.0])
    for margin in (0.5, 2.0):
        np.testing.assert_allclose(
            pair_losses.triplet_loss(labels, points, margin),
            addons.losses.triplet_semihard_loss(labels, points, margin),
            rtol=1e-5,
        )
        np.testing.assert_allclose(
            pair_losses.contrastive_loss(same, gaps, margin),
            addons.losses.contrastive_loss(same, gaps, margin),
            rtol=1e-5,
        )


@needs_addons
@pytest.mark.slow
@pytest.mark.parametrize("name", ["contrastive", "triplet"])
def test_losses_of_addons_may_be_given(name, tmp_path, float32):
    given = {
        "contrastive": lambda: {"pair_loss": addons.losses.ContrastiveLoss()},
        "triplet": lambda: {
            "embedding_loss": addons.losses.TripletSemiHardLoss()
        },
    }
    x, y = _tasks()
    learner = _learner(**given[name]())
    expected, _ = _learner(**OPTIONS[name]).outer_loss(x, y)
    loss, _ = learner.outer_loss(x, y)
    assert float(loss) == pytest.approx(expected.numpy(), rel=1e-5)
    learner.save(tmp_path / "learner.keras")
    loaded = keras.saving.load_model(tmp_path / "learner.keras")
    again, _ = loaded.outer_loss(x, y)
    assert float(again) == pytest.approx(float(loss))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pair_loss": "hinge"}, "`pair_loss` must be one of"),
        ({"embedding_loss": "npairs"}, "`embedding_loss` must be one of"),
        (
            {"pair_loss": "contrastive", "embedding_loss": "triplet"},
            "takes the place of `pair_loss`",
        ),
    ],
)
def test_bad_losses_of_pairs_are_refused(options, message):
    with refuses(ValueError, message):
        _learner(**options)


def test_an_embedding_loss_refuses_weights():
    learner = _learner(embedding_loss="triplet")
    x, y = _tasks()
    with refuses(ValueError, "takes no weights of examples"):
        learner.outer_loss(x, y, np.ones(y.shape))
