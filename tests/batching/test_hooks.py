"""A task-batched call leaves the model and its layers unchanged."""

import concurrent.futures
import copy
import pathlib
import pickle
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import keras_meta
from keras_meta.batching.stand_in import stand_in
from keras_meta.batching.task_batched import TaskBatched
from keras_meta.batching.task_scope import active_scope
from tests.reference import assert_close
from tests.reference import assert_equals_loop
from tests.reference import call_in_loop
from tests.reference import normal
from tests.reference import stacked

layers = keras.layers
register = keras.saving.register_keras_serializable("keras_meta_tests")


@register
class Interrupted(layers.Layer):
    """Runs a function in the middle of a task-batched call."""

    meanwhile = staticmethod(lambda: None)

    def call(self, x):
        if active_scope() is not None:
            self.meanwhile()
        return x


class Residual(layers.Layer):
    """A layer without a rule that has weights and holds other layers."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def build(self, shape):
        self.inner.build(shape)
        self.scale = self.add_weight(shape=(), initializer="ones")

    def call(self, x, training=None):
        return self.inner(x, training=training) * self.scale


class Direct(layers.Layer):
    """Calls a layer's method instead of the layer."""

    def __init__(self):
        super().__init__()
        self.norm = layers.BatchNormalization(name="norm")

    def build(self, shape):
        self.norm.build(shape)

    def call(self, x, training=None):
        return self.norm.call(x, training=training)


class Tied(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3, activation="tanh")
        self.bare = self.add_weight(shape=[3], initializer="ones")

    def call(self, x):
        y = self.dense(x) * self.bare
        return ops.matmul(y, ops.transpose(self.dense.kernel))


def image_net():
    shared = layers.Dense(3, activation="tanh")
    with keras.RematScope(mode="full"):
        rematerialized = layers.Conv2D(3, 2, activation="tanh")
    inputs = keras.Input([5, 5, 2])
    x = layers.BatchNormalization()(rematerialized(inputs))
    x = layers.GroupNormalization(3)(layers.DepthwiseConv2D(2)(x))
    x = layers.AveragePooling2D(2)(layers.Dropout(0.0)(layers.PReLU()(x)))
    x = layers.MaxPooling2D(1)(x)
    x = shared(layers.Flatten()(x))
    x = keras.Sequential([shared, layers.LayerNormalization()])(x)
    return keras.Model(inputs, layers.Dense(2)(x))


def sequence_net():
    inputs = keras.Input([3], dtype="int64")
    x = layers.Embedding(5, 4)(inputs)
    x = layers.TimeDistributed(layers.Dense(4))(x)
    x = layers.MultiHeadAttention(1, 2)(x, x)
    x = layers.Bidirectional(layers.LSTM(2, return_sequences=True))(x)
    return keras.Model(inputs, layers.GRU(2)(x))


def custom_net():
    return keras.Sequential(
        [
            keras.Input([4]),
            Residual(layers.Dense(3)),
            layers.SpectralNormalization(layers.Dense(3)),
            layers.Lambda(lambda x: x + 1),
            Tied(),
        ]
    )


def ids():
    return tf.constant(np.random.default_rng(0).integers(0, 5, [2, 3, 3]))


ZOO = {
    "images": (image_net, lambda: normal([2, 3, 5, 5, 2])),
    "sequences": (sequence_net, ids),
    "custom layers": (custom_net, lambda: normal([2, 3, 4])),
}


def small_net(*middle):
    return keras.Sequential(
        [
            keras.Input([4]),
            layers.Dense(3, activation="tanh", name="body"),
            layers.BatchNormalization(),
            *middle,
            layers.Dense(2, name="head"),
        ]
    )


def _shallow(value):
    """Returns the items of a container, or the value alone."""
    if isinstance(value, dict):
        return [x for pair in value.items() for x in pair]
    if isinstance(value, (list, tuple, set)):
        return list(value)
    return [value]


def snapshot(model):
    """Returns the attributes of all layers and of their classes."""
    found = []
    for layer in model._flatten_layers():
        found.append({"layer": [layer], "class": [type(layer)]})
        for kind in type(layer).__mro__:
            found.append({k: [v] for k, v in vars(kind).items()})
        # Bound methods are made anew.
        for method in (layer.call, layer.rematerialized_call):
            found.append({"function": [getattr(method, "__func__", method)]})
        found.append({k: _shallow(v) for k, v in vars(layer).items()})
        # On a GPU, Keras passes a recurrent layer's cell by. We call it.
        found[-1].pop("_called")
    return found


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name, values in one.items():
            before = other[name]
            assert len(values) == len(before), name
            pairs = zip(values, before, strict=True)
            assert all(x is y or x == y for x, y in pairs), name


def call(model, x, adapted=None, **options):
    """Returns the outputs of a task-batched call."""
    adapted = model.trainable_variables if adapted is None else adapted
    batched = TaskBatched(model, adapted)
    weights = stacked(adapted, x.shape[0])
    state, options = batched.initial_state(), {"second_order": False} | options
    return batched(weights, state, x, **options).outputs


def assert_values_equal_loop(batched, x):
    """Checks the outputs in training, and no derivatives."""
    weights, state = stacked(batched.adapted, 2), batched.initial_state()
    actual = batched(weights, state, x, training=True, second_order=False)
    wanted, _ = call_in_loop(
        batched.model, batched.adapted, weights, state, x, True
    )
    assert_close(actual.outputs, wanted)


def in_another_thread(function):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result(timeout=120)


@pytest.mark.slow_variants("custom layers", "sequences")
@pytest.mark.parametrize("name", ZOO)
def test_a_model_is_unchanged_afterwards(name):
    make, inputs = ZOO[name]
    model, x = make(), inputs()
    model(x[0])
    before = snapshot(model)
    keras_meta.MAML(model, inner_loss="mse")
    assert_same(snapshot(model), before)
    call(model, x, training=True)
    assert_same(snapshot(model), before)


def copies(model, folder):
    """Returns copies of a model by all that Keras and Python offer."""
    yield copy.deepcopy(model)
    yield pickle.loads(pickle.dumps(model))
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    yield clone
    model.save(folder / "model.keras")
    yield keras.models.load_model(folder / "model.keras")


def test_other_threads_see_an_unchanged_model(monkeypatch, tmp_path):
    model, x = small_net(Interrupted()), normal([2, 3, 4])
    expected = model(x[0])
    looks = []

    def look():
        assert active_scope() is None
        assert_same(snapshot(model), before)
        assert_close(model(x[0]), expected, 0)
        for other in copies(model, tmp_path):
            assert_close(other(x[0]), expected, 0)
            for layer in other._flatten_layers():
                assert "call" not in vars(layer)
        looks.append(True)

    def meanwhile():
        # A probe and the call.
        if not looks:
            in_another_thread(look)

    monkeypatch.setattr(Interrupted, "meanwhile", staticmethod(meanwhile))
    before = snapshot(model)
    call(model, x)
    assert looks


def test_an_exception_leaves_nothing_behind(monkeypatch):
    model, x = small_net(Interrupted()), normal([2, 3, 4])
    plain, expected = model(x[0]), call(model, x)
    before = snapshot(model)

    def fail():
        raise RuntimeError("broken on purpose")

    with monkeypatch.context() as patch:
        patch.setattr(Interrupted, "meanwhile", staticmethod(fail))
        with pytest.raises(RuntimeError, match="broken on purpose"):
            call(model, x)
    assert active_scope() is None
    assert_same(snapshot(model), before)
    assert_close(model(x[0]), plain, 0)
    assert_close(call(model, x), expected, 0)


def test_threads_call_one_model_with_weights_of_their_own(monkeypatch):
    """Two task-batched calls and a plain one run at the same time."""
    model, x = small_net(Interrupted()), normal([2, 3, 4])
    head = model.layers[-1].trainable_variables
    functions = [
        lambda: call(model, x),
        lambda: call(model, x, head, training=True),
        lambda: model(x[0]),
    ]
    expected = [function() for function in functions]
    barrier = threading.Barrier(len(functions), timeout=120)
    met = threading.local()

    def meet():
        if not hasattr(met, "before"):
            met.before = True
            barrier.wait()
            barrier.wait()

    def plainly():
        barrier.wait()
        outputs = model(x[0])
        barrier.wait()
        return outputs

    monkeypatch.setattr(Interrupted, "meanwhile", staticmethod(meet))
    with concurrent.futures.ThreadPoolExecutor(len(functions)) as pool:
        running = [pool.submit(f) for f in (*functions[:2], plainly)]
        results = [future.result(timeout=240) for future in running]
    for actual, wanted in zip(results, expected, strict=True):
        assert_close(actual, wanted, 0)


def test_two_learners_of_one_model_are_independent():
    model, x = small_net(), normal([2, 3, 4])
    head = model.layers[-1].trainable_variables
    everything = TaskBatched(model, model.trainable_variables)
    last = TaskBatched(model, head)
    for batched in (everything, last, everything):
        assert_values_equal_loop(batched, x)


def replace_call(layer):
    plain = layer.call
    layer.call = lambda x, training: ops.sin(plain(x)) + 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_call_replaced_by_the_user_is_used(when):
    model, x = small_net(), normal([2, 3, 4])
    layer = model.get_layer("body")
    if when == "before":
        replace_call(layer)
    batched = TaskBatched(model, model.trainable_variables)
    if when == "after":
        replace_call(layer)
    replaced = layer.call
    assert_values_equal_loop(batched, x)
    assert batched.has_fallback
    assert layer.call is replaced
    # Once it is removed, the layer has a rule again.
    del layer.call
    assert not TaskBatched(model, batched.adapted).has_fallback


RECURRENT = {
    "LSTM": lambda: layers.LSTM(2),
    "GRU": lambda: layers.GRU(2),
    "bidirectional": lambda: layers.Bidirectional(layers.LSTM(2)),
    "within a fallback": lambda: Residual(layers.LSTM(2)),
}


@pytest.fixture
def cudnn(monkeypatch):
    """Names the threads that ask whether a GPU can compute a layer."""
    asked = []

    def refuse(*args, **kwargs):
        asked.append(threading.current_thread())
        raise NotImplementedError

    for name in ("lstm", "gru", "bidirectional_lstm", "bidirectional_gru"):
        monkeypatch.setattr(f"keras.src.backend.{name}", refuse)
    return asked


@pytest.mark.slow_variants(
    "GRU-1", "bidirectional-2", "GRU-2", "LSTM-2", "bidirectional-1"
)
@pytest.mark.parametrize("tasks", [1, 2])
@pytest.mark.parametrize("name", RECURRENT)
def test_cudnn_is_off_only_in_task_batched_calls(
    name, tasks, cudnn, monkeypatch
):
    model = keras.Sequential(
        [keras.Input([3, 2]), RECURRENT[name](), Interrupted()]
    )
    x = normal([tasks, 2, 3, 2])
    others = []

    def meanwhile():
        others.append(True)
        in_another_thread(lambda: model(x[0]))

    monkeypatch.setattr(Interrupted, "meanwhile", staticmethod(meanwhile))
    cudnn.clear()
    call(model, x)
    assert others
    assert cudnn
    assert threading.current_thread() not in cudnn
    model(x[0])
    assert threading.current_thread() in cudnn
    found = [
        layer.use_cudnn
        for layer in model._flatten_layers()
        if hasattr(layer, "use_cudnn")
    ]
    assert set(found) == {"auto"}


def test_a_frozen_recurrent_layer_may_use_cudnn(cudnn):
    model = keras.Sequential(
        [keras.Input([3, 2]), layers.LSTM(2), layers.Dense(2)]
    )
    x = normal([2, 2, 3, 2])
    cudnn.clear()
    call(model, x, model.layers[-1].trainable_variables)
    assert cudnn


def timed():
    return keras.Sequential(
        [
            layers.TimeDistributed(layers.Dense(3, activation="tanh")),
            layers.TimeDistributed(layers.BatchNormalization()),
        ]
    )


def test_layers_distributed_over_time_use_their_rules():
    model = keras.Sequential([keras.Input([2, 4]), timed(), layers.Dense(2)])
    batched = assert_equals_loop(model, normal([2, 3, 2, 4]), training=True)
    assert not batched.has_fallback


def test_layers_distributed_over_time_work_inside_a_fallback():
    model = keras.Sequential([keras.Input([2, 4]), Residual(timed())])
    batched = TaskBatched(model, model.trainable_variables)
    assert_values_equal_loop(batched, normal([2, 3, 2, 4]))


@pytest.mark.parametrize("fallback", [True, False])
@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_calling_the_method_of_a_normalization_layer_is_refused(
    statistics, fallback
):
    direct = Residual(Direct()) if fallback else Direct()
    model, x = small_net(direct), normal([2, 3, 4])
    head = model.layers[-1].trainable_variables
    adapted = None if fallback else head
    message = "calls the method `call` of layer 'norm' directly.*`layer\\(x\\)`"
    with pytest.raises(ValueError, match=message):
        call(model, x, adapted, training=True, statistics=statistics)


def test_calling_the_method_is_right_with_fixed_statistics():
    model, x = small_net(Direct()), normal([2, 3, 4])
    assert_equals_loop(
        model,
        x,
        adapted=model.layers[-1].trainable_variables,
        statistics="running",
    )


def test_only_a_quantized_layer_falls_back():
    model, x = small_net(), normal([2, 3, 4])
    model.get_layer("body").quantize("int8")
    batched = TaskBatched(model, model.trainable_variables)
    assert_values_equal_loop(batched, x)
    # The others keep their rules.
    assert len(batched._per_task) == 1


def test_a_failing_layer_is_named_with_its_arguments():
    model, x = small_net(), normal([2, 3, 4])
    model.get_layer("body").activation = lambda x: 1 / 0
    with pytest.raises(ZeroDivisionError) as error:
        call(model, x)
    assert "calling Dense.call()" in str(error.value)
    assert "inputs=tf.Tensor(shape=(None, 4)" in str(error.value)


def test_tracebacks_of_plain_calls_do_not_mention_the_library():
    layer = Interrupted()
    layer.call = lambda x: 1 / 0
    with pytest.raises(ZeroDivisionError) as error:
        layer(normal([2, 3]))
    package = pathlib.Path(keras_meta.__file__).parent
    files = [pathlib.Path(entry.path) for entry in error.traceback]
    assert not any(file.is_relative_to(package) for file in files)


class Counter:
    step = 1

    def __init__(self):
        self.count = 0

    def add(self):
        self.count += self.step
        return self.count


def test_a_stand_in_shares_all_but_some_attributes():
    counter = Counter()
    made = stand_in(counter, step=10)
    assert isinstance(made, Counter)
    assert [made.add(), counter.add(), made.add()] == [10, 11, 21]
    assert counter.step == 1
    assert counter.count == 21
