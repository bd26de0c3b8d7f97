"""Few-shot learning from raw strings."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta
from keras_meta.batching.task_batched import TaskBatched

from .helpers import assert_same_weights
from .helpers import compiled
from .helpers import crossentropy
from .helpers import dataset
from .helpers import run_python
from .helpers import with_slow

layers = keras.layers
WORDS = ["red", "green", "blue", "cat", "dog", "cow"]
LEARNERS = [
    keras_meta.MAML,
    keras_meta.ANIL,
    keras_meta.Reptile,
    keras_meta.MetaSGD,
]


def _texts(*shape, seed=0):
    """Texts of one to three words."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 4, size=shape)
    texts = [" ".join(rng.choice(WORDS, size=n)) for n in lengths.ravel()]
    return np.reshape(texts, shape)


def _tasks(tasks=3, shots=4, queries=2, axes=(1,), batches=()):
    lead = (*batches, tasks)
    inputs = {
        "support_x": _texts(*lead, shots, *axes),
        "support_y": np.arange(shots) % 2 + np.zeros([*lead, 1], "int32"),
        "query_x": _texts(*lead, queries, *axes, seed=1),
    }
    y = np.arange(queries) % 2 + np.zeros([*lead, 1], "int32")
    inputs["support_y"] = inputs["support_y"].astype("int32")
    return keras.tree.map_structure(tf.constant, (inputs, y.astype("int32")))


def _vectors(**kwargs):
    layer = layers.TextVectorization(**kwargs)
    layer.adapt(np.array(WORDS))
    return layer


def _embedding(**kwargs):
    return [
        layers.Embedding(9, 3, **kwargs),
        layers.GlobalAveragePooling1D(),
    ]


def _model(*parts, shape=(1,)):
    return keras.Sequential(
        [keras.Input(shape, dtype="string"), *parts, layers.Dense(2)]
    )


def _network():
    return _model(_vectors(), *_embedding(mask_zero=True))


def _learner(model, algorithm=keras_meta.MAML, steps=2, **kwargs):
    learner = algorithm(model, 0.5, steps, **kwargs)
    return compiled(learner, loss=crossentropy(), jit_compile="auto")


def _hash(texts):
    words = tf.strings.split(texts[:, 0]).to_tensor("")
    return tf.strings.to_hash_bucket_fast(words, 9)


def _of_numbers(model):
    """The model behind its first layer, and that layer."""
    first, *others = model.layers
    return first, keras.Sequential(others)


FIRST = {
    "text": _vectors,
    "text of one length": lambda: _vectors(output_sequence_length=4),
    "a function": lambda: layers.Lambda(_hash, output_shape=(None,)),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", with_slow(FIRST, slow=[*FIRST][1:2]))
@pytest.mark.parametrize(
    "algorithm", with_slow(LEARNERS[:2], slow=LEARNERS[1:2])
)
def test_texts_train_as_the_numbers_they_become(kind, algorithm):
    model = _model(FIRST[kind](), *_embedding())
    vectors, numbers = _of_numbers(model)
    x, y = _tasks()
    words = {
        k: v if k == "support_y" else _each_task(vectors, v)
        for k, v in x.items()
    }
    numbers(words["support_x"][0])
    start = model.get_weights()
    learner = _learner(model, algorithm)
    learner.train_on_batch(x, y)
    assert not learner._task_batched.has_fallback
    trained = model.get_weights()
    model.set_weights(start)
    other = compiled(algorithm(numbers, 0.5, 2), loss=crossentropy())
    other.train_on_batch(words, y)
    assert_same_weights(trained, numbers.get_weights(), atol=1e-6)
    assert np.any(trained[0] != start[0])


def _each_task(layer, texts):
    flat = layer(tf.reshape(texts, [-1, 1]))
    return tf.reshape(flat, [*texts.shape[:2], flat.shape[-1]])


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", LEARNERS)
def test_a_learner_of_texts_does_all_that_others_do(algorithm, tmp_path):
    learner = _learner(_network(), algorithm)
    assert not learner.jit_compile
    data = dataset(_tasks(batches=(2,)))
    learner.fit(data, verbose=0)
    losses = learner.evaluate(data, verbose=0)
    assert np.all(np.isfinite(losses))
    x, _ = _tasks()
    expected = learner.predict(x, verbose=0)
    np.testing.assert_allclose(learner(x), expected, atol=1e-6)
    adapted = learner.adapt(x["support_x"][1], x["support_y"][1])
    np.testing.assert_allclose(adapted(x["query_x"][1]), expected[1], atol=1e-6)
    learner.save(tmp_path / "learner.keras")
    loaded = keras.saving.load_model(tmp_path / "learner.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected)


@pytest.mark.slow
def test_a_bag_of_words_has_labels_without_a_last_axis(tmp_path):
    """Keras infers outputs `[n, 1, 2]`, which are `[n, 2]`."""
    model = _model(_vectors(output_mode="multi_hot"))
    learner = _learner(model)
    x, y = _tasks()
    learner.fit(x, y, batch_size=3, verbose=0)
    learner.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    np.testing.assert_allclose(
        served.serve(x), learner.predict(x, verbose=0), atol=1e-6
    )


@pytest.mark.slow
def test_texts_may_have_no_last_axis():
    model = _model(_vectors(output_mode="tf_idf"), shape=())
    learner = _learner(model)
    x, y = _tasks(axes=())
    learner.train_on_batch(x, y)
    assert learner.predict(x, verbose=0).shape == (3, 2, 2)


@pytest.mark.slow
def test_checkpointing_changes_nothing():
    trained = []
    model = _network()
    start = model.get_weights()
    for checkpoint in ("off", "step"):
        model.set_weights(start)
        learner = _learner(
            model, steps=3, meta_gradient=keras_meta.Unrolled(checkpoint)
        )
        learner.train_on_batch(*_tasks())
        trained.append(learner.model.get_weights())
    assert_same_weights(*trained, atol=1e-6)


@pytest.mark.slow
def test_later_steps_trace_nothing():
    calls = []

    def count(x):
        calls.append(x)
        return x

    model = _model(_vectors(), *_embedding(), layers.Lambda(count))
    learner = _learner(model, steps=1)
    data = dataset(_tasks(batches=(1,)))
    learner.fit(data, validation_data=data, verbose=0)
    traced = len(calls)
    learner.fit(data, validation_data=data, verbose=0)
    assert len(calls) == traced


def test_xla_is_off_for_texts_though_asked_for():
    learner = keras_meta.MAML(_network(), 0.5)
    with pytest.warns(UserWarning, match="doesn't support `jit_compile=True`"):
        learner.compile("sgd", crossentropy(), jit_compile=True)
    assert not learner.jit_compile


class Opaque(keras.Model):
    """Takes texts, of which nothing tells before it is called."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embedding = layers.Embedding(9, 3)
        self.head = layers.Dense(2)

    def call(self, x):
        return self.head(tf.reduce_mean(self.embedding(_hash(x)), axis=1))


@pytest.mark.slow
def test_xla_is_left_out_where_texts_come_unexpectedly():
    model = Opaque()
    model(tf.constant([["red"]]))
    learner = _learner(model, steps=1)
    data = dataset(_tasks(batches=(1,)))
    learner.fit(data, verbose=0)
    assert np.all(np.isfinite(learner.evaluate(data, verbose=0)))


class Table(layers.Layer):
    """Looks words up and has a weight without a rule."""

    def build(self, shape):
        self.table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(WORDS, np.arange(6)), 7
        )
        self.vectors = self.add_weight(shape=[9, 3], name="vectors")

    def call(self, x):
        return tf.gather(self.vectors, self.table.lookup(x[:, 0]))

    def compute_output_shape(self, shape):
        return shape[0], 3


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", LEARNERS[:1])
def test_a_layer_that_is_called_per_task_may_have_a_table(algorithm):
    model = _model(Table(), layers.Dense(2))
    data = dataset(_tasks(batches=(1,)))
    learner = _learner(model, algorithm)
    learner.fit(data, verbose=0)
    assert learner._task_batched.has_fallback


def test_a_layer_that_packs_rows_is_still_called_per_task(float64):
    """Its rows have an open size too, and are not those of the batch."""

    class Packed(layers.Layer):
        def build(self, shape):
            self.inner = layers.Dense(2)
            self.inner.build((None, shape[-1]))

        def call(self, x):
            kept = x[:, 0] > 0
            rows = self.inner(tf.boolean_mask(x, kept))
            shape = tf.cast([tf.shape(x)[0], 2], tf.int64)
            return tf.scatter_nd(tf.where(kept), rows, shape)

    model = keras.Sequential([keras.Input([2]), Packed()])
    batched = TaskBatched(model, model.trainable_variables)
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=[2, 5, 2]))
    weights = [
        tf.constant(rng.normal(size=[2, *v.shape]))
        for v in model.trainable_variables
    ]
    call = tf.function(
        lambda w, x: batched(w, batched.initial_state(), x).outputs,
        autograph=False,
    )
    actual = call(weights, x)
    for task in range(2):
        pairs = zip(
            model.trainable_variables, [w[task] for w in weights], strict=True
        )
        with keras.StatelessScope(list(pairs)):
            expected = model(x[task])
        np.testing.assert_allclose(actual[task], expected, rtol=1e-9)


def test_stateful_layers_are_named():
    model = keras.Sequential(
        [keras.Input([4, 2], batch_size=3), layers.LSTM(2, stateful=True)]
    )
    with pytest.warns(UserWarning, match="stateful=True, which a meta-learner"):
        keras_meta.MAML(model, 0.1)


def test_saving_low_rank_weights_warns(tmp_path):
    model = keras.Sequential([keras.Input([2]), layers.Dense(2, lora_rank=1)])
    learner = compiled(keras_meta.MAML(model, 0.1))
    with pytest.warns(UserWarning, match="LoRA weights merged"):
        learner.save(tmp_path / "learner.keras")


@pytest.mark.slow
def test_files_of_texts_are_read_by_others(tmp_path):
    learner = _learner(_network(), steps=1)
    x, _ = _tasks()
    expected = learner.predict(x, verbose=0)
    learner.save(tmp_path / "learner.keras")
    learner.export(tmp_path / "served", verbose=False)
    # NumPy would pickle an array of Python's strings.
    arrays = {k: np.asarray(v) for k, v in x.items()}
    arrays["support_x"] = arrays["support_x"].astype("U")
    arrays["query_x"] = arrays["query_x"].astype("U")
    np.savez(tmp_path / "task.npz", expected=expected, **arrays)
    load = f"""
        import numpy as np
        import tensorflow as tf
        data = dict(np.load({str(tmp_path / "task.npz")!r}))
        expected = data.pop("expected")
        x = dict((k, tf.constant(v)) for k, v in data.items())
    """
    for code in (
        f"""
        served = tf.saved_model.load({str(tmp_path / "served")!r})
        y = served.serve(x)
        import sys
        assert "keras_meta" not in sys.modules
        """,
        f"""
        import keras
        import keras_meta
        path = {str(tmp_path / "learner.keras")!r}
        y = keras.saving.load_model(path).predict(x, verbose=0)
        """,
    ):
        check = "\n        np.testing.assert_allclose(y, expected, atol=1e-6)\n"
        run = run_python(load + code + check)
        assert run.returncode == 0, run.stderr
