"""An exported learner adapts where Keras is not installed."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta

from .helpers import WAYS
from .helpers import classification
from .helpers import compiled
from .helpers import convolutional_net
from .helpers import crossentropy
from .helpers import mlp
from .helpers import regression
from .helpers import run_python

# The interpreter below finds TensorFlow and no Keras.
_SERVE = """
    import json
    import pathlib
    import sys

    class NoKeras:
        def __init__(self, finder):
            self.finder = finder

        def __getattr__(self, name):
            return getattr(self.finder, name)

        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in ("keras", "tf_keras", "keras_meta"):
                return None
            return self.finder.find_spec(name, path, target)

    sys.meta_path[:] = map(NoKeras, sys.meta_path)

    import numpy as np
    import tensorflow as tf

    folder = pathlib.Path({folder!r})
    for served in sorted(folder.glob("*/model")):
        model = tf.saved_model.load(str(served))
        for path in sorted(served.parent.glob("*.npz")):
            values = dict(np.load(path))
            inputs = {{}}
            for key, value in values.items():
                *parents, last = key.split(".")
                nest = inputs
                for parent in parents:
                    nest = nest.setdefault(parent, {{}})
                nest[last] = tf.constant(value)
            outputs = model.serve(inputs)
            np.save(path.with_suffix(".npy"), outputs.numpy())
    names = {{name.partition(".")[0] for name in sys.modules}}
    print(json.dumps(sorted(names & {{"keras", "tf_keras", "keras_meta"}})))
"""


def _two_inputs():
    left, right = keras.Input([2], name="left"), keras.Input([1], name="right")
    joint = keras.layers.Concatenate()([left, right])
    return keras.Model(
        {"left": left, "right": right}, keras.layers.Dense(1)(joint)
    )


def _halves(x):
    return {
        key: (
            {"left": value[..., :2], "right": value[..., 2:]}
            if key.endswith("_x")
            else value
        )
        for key, value in x.items()
    }


def _regression(tasks, shots, queries):
    return regression(tasks=tasks, shots=shots, queries=queries)[0]


def _images(tasks, shots, queries):
    x = classification(tasks=tasks, shots=shots, shape=(6, 6, 1))[0]
    return {**x, "query_x": x["query_x"][:, :queries]}


def _parts(tasks, shots, queries):
    x = regression(tasks=tasks, shots=shots, queries=queries, inputs=3)[0]
    return _halves(x)


_LEARNERS = {
    "regression": (
        lambda: compiled(
            keras_meta.MetaSGD(mlp(), steps=2, evaluation_steps=3)
        ),
        _regression,
    ),
    "many_steps": (
        lambda: compiled(keras_meta.MAML(mlp(), 0.05, evaluation_steps=12)),
        _regression,
    ),
    "reptile": (
        lambda: compiled(keras_meta.Reptile(mlp(), steps=3, batch_size=2)),
        _regression,
    ),
    "classification": (
        lambda: compiled(
            keras_meta.MAML(convolutional_net(pool="max"), 0.1, 2),
            loss=crossentropy(),
        ),
        _images,
    ),
    "two_inputs": (
        lambda: compiled(keras_meta.MAML(_two_inputs(), 0.1)),
        _parts,
    ),
}
_SIZES = [(1, 1, 1), (4, 3, 6)]


def _flat(nested, prefix=""):
    for key, value in nested.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Predictions of all learners here and without Keras."""
    folder = tmp_path_factory.mktemp("served")
    expected = {}
    for name, (make, data) in _LEARNERS.items():
        keras.utils.set_random_seed(0)
        learner = make()
        (folder / name).mkdir()
        learner.export(folder / name / "model", verbose=False)
        for i, sizes in enumerate(_SIZES):
            x = data(*sizes)
            np.savez(folder / name / f"{i}.npz", **dict(_flat(x)))
            expected[name, i] = learner(x).numpy()
    result = run_python(_SERVE.format(folder=str(folder)))
    assert result.returncode == 0, result.stderr[-3000:]
    assert json.loads(result.stdout.splitlines()[-1]) == []
    outputs = {
        key: np.load(folder / key[0] / f"{key[1]}.npy") for key in expected
    }
    return expected, outputs


@pytest.mark.slow
@pytest.mark.parametrize("name", _LEARNERS)
@pytest.mark.parametrize("sizes", _SIZES)
def test_it_predicts_the_same_without_keras(name, sizes, served):
    key = name, _SIZES.index(sizes)
    expected, outputs = (results[key] for results in served)
    outputs_size = WAYS if name == "classification" else 1
    assert outputs.shape[-1] == outputs_size
    assert outputs.shape[0] == sizes[0]
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_an_exported_learner_still_trains(tmp_path):
    learner = compiled(keras_meta.MAML(mlp(), 0.1))
    learner.export(tmp_path / "model", verbose=False)
    x, y = regression()
    loss = learner.train_on_batch(x, y)
    x["support_x"][1, 0] = np.nan
    assert np.isfinite(loss)
    with pytest.raises(FloatingPointError, match="task 1"):
        learner.train_on_batch(x, y)


@pytest.mark.slow
def test_signatures_name_the_inputs(tmp_path):
    learner = compiled(keras_meta.MAML(mlp(), 0.1))
    learner.export(tmp_path / "model", verbose=False)
    model = tf.saved_model.load(str(tmp_path / "model"))
    _, inputs = model.signatures["serve"].structured_input_signature
    assert set(inputs) == {"support_x", "support_y", "query_x"}
    x, _ = regression()
    outputs = model.signatures["serve"](
        **{key: tf.constant(value) for key, value in x.items()}
    )
    (prediction,) = outputs.values()
    np.testing.assert_allclose(prediction, learner(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("format", ["litert", "onnx"])
def test_other_formats_are_refused(format, tmp_path):
    learner = compiled(keras_meta.MAML(mlp(), 0.1))
    with pytest.raises(
        ValueError, match=f"format='{format}'; use format='tf_saved_model'"
    ):
        learner.export(tmp_path / "model", format=format)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.layer = keras.layers.Dense(1)

    def call(self, x):
        return self.layer(x)


@pytest.mark.slow
def test_an_unknown_input_shape_needs_a_signature(tmp_path):
    model = Subclassed()
    model(np.zeros([1, 2]))
    learner = compiled(keras_meta.MAML(model, 0.1))
    with pytest.raises(
        ValueError, match="input shape .* is unknown.*needs `input_signature`"
    ):
        learner.export(tmp_path / "model", verbose=False)
    spec = tf.TensorSpec([None, None, 2], tf.float32)
    signature = {
        "support_x": spec,
        "support_y": tf.TensorSpec([None, None, 1], tf.float32),
        "query_x": spec,
    }
    learner.export(tmp_path / "model", verbose=False, input_signature=signature)
    x, _ = regression(tasks=4)
    served = tf.saved_model.load(str(tmp_path / "model"))
    x = keras.tree.map_structure(tf.constant, x)
    np.testing.assert_allclose(
        served.serve(x), learner(x), rtol=1e-5, atol=1e-6
    )


@pytest.mark.slow
def test_class_numbers_of_sequences(tmp_path):
    model = keras.Sequential(
        [keras.Input([4, 2]), keras.layers.Dense(WAYS, name="tags")]
    )
    learner = compiled(keras_meta.MAML(model, 0.1), loss=crossentropy())
    learner.export(tmp_path / "model", verbose=False)
    rng = np.random.default_rng(0)
    inputs = {
        "support_x": rng.normal(size=[2, 5, 4, 2]).astype("float32"),
        "support_y": rng.integers(WAYS, size=[2, 5, 4]).astype("int32"),
        "query_x": rng.normal(size=[2, 3, 4, 2]).astype("float32"),
    }
    served = tf.saved_model.load(tmp_path / "model")
    np.testing.assert_allclose(
        served.serve(inputs), learner(inputs), rtol=1e-5, atol=1e-6
    )


@pytest.mark.slow
def test_labels_of_half_precision_models_are_float32(tmp_path):
    layer = keras.layers.Dense(1, dtype="mixed_bfloat16")
    model = keras.Sequential([keras.Input([2]), layer])
    learner = compiled(keras_meta.MAML(model, 0.1))
    learner.export(tmp_path / "model", verbose=False)
    served = tf.saved_model.load(tmp_path / "model")
    inputs, _ = regression()
    np.testing.assert_array_equal(
        tf.cast(served.serve(inputs), tf.float32),
        tf.cast(learner(inputs), tf.float32),
    )


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A served learner of three classes."""
    learner = compiled(keras_meta.MAML(mlp(WAYS), 0.1), loss=crossentropy())
    folder = tmp_path_factory.mktemp("classifier")
    learner.export(folder, verbose=False)
    return tf.saved_model.load(folder)


def _label(value):
    def change(x):
        x["support_y"][1, 2] = value

    return change


def _entry(key, value):
    def change(x):
        x[key][1, 2, 0] = value

    return change


def _cut(keys, *index):
    def change(x):
        x.update({key: x[key][index] for key in keys})

    return change


_SUPPORT = ("support_x", "support_y")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_label(9), r"in 0..2: .*`support_y`: label\] \[9\].*task\] \[1\]"),
        (
            _label(-7),
            r"in 0..2: .*`support_y`: label\] \[-7\].*in task\] \[1\]",
        ),
        (
            _cut(["query_x"], slice(1)),
            "`query_x`.*same number of tasks.*query_x.shape =",
        ),
        (
            _cut(_SUPPORT, slice(None), slice(0)),
            "at least one of the support examples",
        ),
        (
            _cut(["support_y"], slice(None), slice(4)),
            "`support_y`.*same number of support examples",
        ),
        (
            _cut([*_SUPPORT, "query_x"], slice(0)),
            "at least one of the tasks",
        ),
        (
            _entry("support_x", np.nan),
            r"loss must be finite.*task\] \[1\]",
        ),
        (_entry("support_x", np.inf), r"weights must be finite.*task\] \[1\]"),
        (
            _entry("query_x", np.nan),
            r"predictions must be .*task\] \[1\]",
        ),
    ],
)
def test_a_served_learner_refuses_what_python_refuses(
    change, message, classifier
):
    x, _ = classification()
    change(x)
    x = {key: tf.constant(value) for key, value in x.items()}
    for serve in (classifier.serve, classifier.signatures["serve"]):
        arguments = {} if serve is classifier.serve else x
        positional = [x] if serve is classifier.serve else []
        with pytest.raises(
            tf.errors.InvalidArgumentError, match=f"(?s){message}"
        ):
            serve(*positional, **arguments)


def test_a_served_learner_goes_on_after_an_error(classifier):
    wrong, _ = classification()
    wrong["support_y"][0, 0] = WAYS
    with pytest.raises(tf.errors.InvalidArgumentError):
        classifier.serve(keras.tree.map_structure(tf.constant, wrong))
    x, _ = classification()
    outputs = classifier.serve(keras.tree.map_structure(tf.constant, x))
    assert np.isfinite(outputs).all()
