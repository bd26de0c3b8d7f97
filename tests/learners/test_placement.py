import keras
import pytest
import tensorflow as tf

import keras_meta
from keras_meta import problems
from tests.learners import helpers
from tests.learners.optimizer_helpers import Valley
from tests.learners.optimizer_helpers import small_rule


def train_maml():
    learner = keras_meta.MAML(helpers.normalized_mlp(), 0.1)
    learner.compile("adam", "mse", run_eagerly=True)
    x, y = helpers.regression()
    learner.train_on_batch(x, y)


def train_reptile():
    learner = keras_meta.Reptile(helpers.mlp(), 0.1, batch_size=2)
    learner.compile("sgd", "mse", run_eagerly=True)
    x, y = helpers.regression()
    learner.train_on_batch(x, y)


def train_optimizer():
    learner = keras_meta.OptimizerLearner(small_rule(), Valley(), steps=2)
    learner.compile("adam", run_eagerly=True)
    learner.fit(problems.batches(2), steps_per_epoch=1, verbose=0)


def train_on_kept_runs():
    learner = keras_meta.OptimizerLearner(
        small_rule(),
        Valley(),
        steps=2,
        meta_gradient=keras_meta.PersistentES(1, length=1),
        start=keras_meta.Kept(2, groups=2),
    )
    learner.compile("adam", run_eagerly=True)
    learner.fit(problems.batches(2), steps_per_epoch=1, verbose=0)


def train_with_a_rule():
    model = helpers.mlp()
    rule = keras_meta.CoordinatewiseLSTM([3])
    optimizer = keras_meta.optimizers.LearnedOptimizer(rule)
    model.compile(optimizer, "mse", run_eagerly=True)
    model.train_on_batch(tf.ones([2, 2]), tf.ones([2, 1]))


@pytest.mark.slow_variants("train_optimizer", "train_on_kept_runs")
@pytest.mark.parametrize(
    "train",
    [
        train_maml,
        train_reptile,
        train_optimizer,
        train_on_kept_runs,
        train_with_a_rule,
    ],
)
def test_all_variables_of_training_can_be_on_a_gpu(train):
    # TensorFlow keeps int32 variables in the host's memory, out of reach of
    # a step that XLA compiles for a GPU.
    made = []

    def record(next_creator, **kwargs):
        variable = next_creator(**kwargs)
        made.append((variable.name, variable.dtype))
        return variable

    keras.utils.set_random_seed(0)
    with tf.variable_creator_scope(record):
        train()
    assert made
    assert [name for name, dtype in made if dtype == tf.int32] == []
