"""Arguments of the wrong kind for every public entry point.

Each call either works or raises a documented error that names the argument
or says what was received. Nothing else escapes.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

import keras_meta
from keras_meta import addons
from keras_meta import callbacks
from keras_meta import episodes
from keras_meta import models
from keras_meta import optimizers
from keras_meta import problems
from keras_meta import reinforcement
from keras_meta import sequence

DOCUMENTED = (
    FileNotFoundError,
    FloatingPointError,
    NotImplementedError,
    TypeError,
    ValueError,
)
CASES_OF_AN_ENTRY_POINT = 30

# Made anew for each call, as a call may change them.
NASTY = {
    "None": lambda: None,
    "True": lambda: True,
    "'False'": lambda: "False",
    "''": lambda: "",
    "'nonsense'": lambda: "nonsense",
    "'a/b'": lambda: "a/b",
    "b'bytes'": lambda: b"bytes",
    "0": lambda: 0,
    "-1": lambda: -1,
    "2.9": lambda: 2.9,
    "1e300": lambda: 1e300,
    "-0.5": lambda: -0.5,
    "nan": lambda: math.nan,
    "inf": lambda: math.inf,
    "-inf": lambda: -math.inf,
    "2**31": lambda: 2**31,
    "2**63": lambda: 2**63,
    "10**400": lambda: 10**400,
    "10**5000": lambda: 10**5000,
    "1j": lambda: 1j,
    "[]": lambda: [],
    "()": lambda: (),
    "{}": lambda: {},
    "[None]": lambda: [None],
    "[1, 'a', None]": lambda: [1, "a", None],
    "[0.5, nan]": lambda: [0.5, math.nan],
    "[[1], [2, 3]]": lambda: [[1], [2, 3]],
    "{'a': 1}": lambda: {"a": 1},
    "{1, 2}": lambda: {1, 2},
    "slice": lambda: slice("a", None),
    "range": lambda: range(3),
    "function": lambda: lambda: 0.1,
    "function of one": lambda: lambda x: x,
    "class": lambda: keras.layers.Dense,
    "object": lambda: object(),
    "np.float16(nan)": lambda: np.float16(math.nan),
    "np.int8(-3)": lambda: np.int8(-3),
    "np.bool_": lambda: np.bool_(True),
    "np.str_": lambda: np.str_("nonsense"),
    "array()": lambda: np.array(2),
    "array of no items": lambda: np.zeros([0, 3]),
    "array of objects": lambda: np.array([None, "a"], object),
    "array of strings": lambda: np.array(["a", "b"]),
    "array of NaN": lambda: np.full([4, 2], math.nan, "float32"),
    "array of complex": lambda: np.ones([4, 2], complex),
    "array of bools": lambda: np.ones([4, 2], bool),
    "array of rank 6": lambda: np.ones([1, 2, 1, 2, 1, 2]),
    "array of uint64": lambda: np.full([4], 2**64 - 1, "uint64"),
    "datetime": lambda: np.array(["2020-01-01"], "datetime64[D]"),
    "tensor": lambda: tf.ones([4, 2]),
    "scalar tensor": lambda: tf.constant(2.9),
    "tensor of strings": lambda: tf.constant(["a", "b"]),
    "ragged": lambda: tf.ragged.constant([[1.0], [2.0, 3.0]]),
    "sparse": lambda: tf.sparse.from_dense([[1.0, 0.0], [0.0, 2.0]]),
    "data set": lambda: tf.data.Dataset.range(3),
    "variable": lambda: tf.Variable([1.0, 2.0]),
    "layer": lambda: keras.layers.Dense(1),
    "Keras tensor": lambda: keras.Input([2]),
}

LARGE = ("2**31", "2**63", "10**400", "10**5000")


needs_addons = pytest.mark.skipif(
    not addons.is_available(), reason="TensorFlow Addons is not installed"
)


@dataclasses.dataclass(frozen=True)
class EntryPoint:
    """A public function, with arguments that work.

    Attributes:
        call: The function.
        valid: Makes the arguments, so that no call sees what another left.
        fuzzed: Names of those to replace; all by default.
        lengths: Names of those of which a large number is no mistake, but
            takes as long as it says.
    """

    call: Callable[..., Any]
    valid: Callable[[], dict[str, Any]]
    fuzzed: tuple[str, ...] = ()
    lengths: tuple[str, ...] = ()

    @property
    def is_absent(self) -> bool:
        """Whether it reads files, none of which are there."""
        return "nowhere" in (self.valid().get(n) for n in ("path", "data_dir"))

    @property
    def names(self) -> tuple[str, ...]:
        return self.fuzzed or tuple(self.valid())


def given_arguments(**arguments):
    """Arguments that no call can change."""
    return lambda: dict(arguments)


def network():
    return keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])


def memory_cell():
    return sequence.MemoryCell(units=2, slots=3, slot_size=2, heads=1)


def built(cell):
    cell.build((None, 2))
    return cell


@functools.cache
def learner():
    """A compiled learner, for all calls."""
    made = keras_meta.MAML(network(), 0.1)
    made.compile("sgd", "mse", run_eagerly=True)
    return made


@functools.cache
def metric_learner():
    """A learner that compares embedded examples, for all calls."""
    return keras_meta.PrototypicalNetwork(network(), 2)


@functools.cache
def policy_learner():
    """A compiled learner of policies, for all calls."""
    policy = models.gaussian_mlp(2, 2, [3])
    environment = reinforcement.PointNavigation(horizon=2)
    made = keras_meta.PolicyLearner(policy, environment, rollouts=2)
    made.compile("sgd", run_eagerly=True)
    return made


def classes():
    items = np.arange(24, dtype="uint8").reshape(6, 2, 2, 1)
    return episodes.Classes(items, [2, 2, 2], ["a", "b", "c"])


def sequences(sampler=None):
    if sampler is None:
        sampler = classes().sampler(ways=2, shots=1, queries=1)
    return episodes.LabelledSequences(sampler)


def arrays():
    return np.arange(12.0).reshape(6, 2), np.array([0, 0, 1, 1, 2, 2])


def tasks():
    return {
        "support_x": np.ones([2, 3, 2], "float32"),
        "support_y": np.ones([2, 3, 1], "float32"),
        "query_x": np.ones([2, 4, 2], "float32"),
    }


def of_batch():
    """Arguments of `fit` and the like."""
    labels, weights = np.ones([2, 4, 1], "float32"), np.ones([2, 4], "float32")
    return {**tasks(), "y": labels, "sample_weight": weights}


def data_of_tasks():
    labels = np.ones([2, 4, 1], "float32")
    return tf.data.Dataset.from_tensors((tasks(), labels))


def of_model(**arguments):
    """Arguments of a learner's constructor."""
    return lambda: {"model": network(), **arguments}


SIZES = {"ways": 2, "shots": 1, "queries": 1, "tasks": 2}
OPTIONS = {
    "seed": 0,
    "start": 0,
    "num_batches": 1,
    "dtype": "float32",
    "rotate": None,
    "augment": None,
    "shuffle": False,
}
IMAGES = {
    "image_size": 4,
    "channels": 1,
    "invert": False,
    "interpolation": "area",
}
LEARNER = {
    "evaluation_steps": 1,
    "adapt": "all",
    "inner_loss": "mse",
    "meta_gradient": "unrolled",
    "proximal": 0.5,
    "batch_statistics": "batch",
}

ENTRY_POINTS = {
    # Episodes.
    "load_arrays": EntryPoint(
        lambda **x: episodes.load_arrays(x.pop("images"), x.pop("labels"), **x),
        lambda: dict(
            zip(("images", "labels"), arrays(), strict=True), names=list("abc")
        ),
    ),
    "from_arrays": EntryPoint(
        lambda **x: episodes.from_arrays(*arrays(), **x),
        given_arguments(
            **SIZES, **OPTIONS, names=None, classes=[0, 1], rotations=()
        ),
    ),
    "Classes": EntryPoint(
        episodes.Classes,
        given_arguments(
            items=np.zeros([3, 2]), counts=[1, 2], names="ab", ids=[3, 4]
        ),
    ),
    "Classes.items_of": EntryPoint(
        lambda label: classes().items_of(label), given_arguments(label="a")
    ),
    "Classes.select": EntryPoint(
        lambda **x: classes().select(**x), given_arguments(classes=["a"])
    ),
    "Classes.split": EntryPoint(
        lambda **x: classes().split(**x),
        given_arguments(train=0.4, validation=0.3, test=0.3, seed=0),
    ),
    "Classes.split_by": EntryPoint(
        lambda parts: classes().split_by(parts),
        given_arguments(parts={"train": ["a"]}),
    ),
    "Classes.split_by, lists": EntryPoint(
        lambda part: classes().split_by({"parts": part}),
        given_arguments(part=["a"]),
    ),
    "Classes.rotations": EntryPoint(
        lambda degrees: classes().rotations(degrees),
        given_arguments(degrees=90),
    ),
    "Classes.episodes": EntryPoint(
        lambda **x: classes().episodes(**x), given_arguments(**SIZES, **OPTIONS)
    ),
    "EpisodeSampler": EntryPoint(
        episodes.EpisodeSampler,
        lambda: {
            "items": np.zeros([6, 2]),
            "starts": [0, 3],
            "counts": [3, 3],
            "ways": 2,
            "shots": 1,
            "queries": 1,
            "seed": 0,
            "dtype": "float32",
            "versions": 1,
            "shuffle": False,
            "augment": None,
        },
    ),
    "EpisodeSampler.draw": EntryPoint(
        lambda **x: classes().sampler(ways=2, shots=1, queries=1).draw(**x),
        given_arguments(index=0, tasks=1),
    ),
    "EpisodeSampler.choose": EntryPoint(
        lambda **x: classes().sampler(ways=2, shots=1, queries=1).choose(**x),
        given_arguments(index=0, tasks=1),
    ),
    "augment": EntryPoint(
        lambda x: (
            classes()
            .sampler(ways=2, shots=1, queries=1, augment=lambda *_: x)
            .draw(0)
        ),
        lambda: {"x": dict(support_x=0, support_y=0, query_x=0)},
    ),
    "Augment": EntryPoint(
        episodes.Augment,
        given_arguments(
            rotate=1,
            translate=0.1,
            elastic=0.1,
            elastic_smoothness=0.1,
            cutout=0.1,
            hue=0.1,
            saturation=0.1,
            fill="wrap",
            on="both",
        ),
    ),
    "Augment()": EntryPoint(
        lambda **x: episodes.Augment(cutout=0.5)(**x),
        lambda: {
            "seed": 0,
            "index": 0,
            "x": {"support_x": tf.ones([1, 1, 4, 4, 1])},
        },
    ),
    "Augment(), images": EntryPoint(
        lambda images: episodes.Augment(cutout=0.5)(
            0, 0, {"support_x": images}
        ),
        lambda: {"images": tf.ones([1, 1, 4, 4, 1])},
    ),
    "offset_labels": EntryPoint(
        episodes.offset_labels, lambda: {"labels": [[0, 1, 1]], "ways": 2}
    ),
    "LabelledSequences": EntryPoint(
        lambda **x: sequences(**x).draw(0),
        lambda: {"sampler": classes().sampler(ways=2, shots=1, queries=1)},
    ),
    "LabelledSequences.draw": EntryPoint(
        lambda **x: sequences().draw(**x),
        given_arguments(index=0, tasks=1),
        lengths=("tasks",),
    ),
    "LabelledSequences.dataset": EntryPoint(
        lambda **x: sequences().dataset(**x),
        given_arguments(tasks=2, start=0, num_batches=1),
    ),
    "load_directory": EntryPoint(
        lambda **x: episodes.load_directory(x.pop("path"), **x),
        given_arguments(path="nowhere", **IMAGES),
    ),
    "from_directory": EntryPoint(
        lambda **x: episodes.from_directory(x.pop("path"), **x),
        given_arguments(path="nowhere", **SIZES, **IMAGES),
    ),
    "load_tfds": EntryPoint(
        lambda **x: episodes.load_tfds(x.pop("name"), x.pop("split"), **x),
        given_arguments(
            name="nonsense",
            split="train",
            data_dir="nowhere",
            image_key="image",
            label_key="label",
            cache=False,
            cache_dir="nowhere",
            **IMAGES,
        ),
    ),
    "from_tfds": EntryPoint(
        lambda **x: episodes.from_tfds("nonsense", **x),
        given_arguments(
            split="train", data_dir="nowhere", cache=False, **SIZES, **IMAGES
        ),
    ),
    "omniglot": EntryPoint(
        lambda **x: episodes.omniglot(x.pop("split"), **x),
        given_arguments(
            split="train",
            protocol="vinyals",
            rotations=(),
            invert=True,
            data_dir="nowhere",
            cache=False,
            cache_dir="nowhere",
            # Refused after all others, so that nothing is downloaded.
            image_size=0,
        ),
        ("split", "protocol", "rotations", "invert", "cache"),
    ),
    "class_split": EntryPoint(
        episodes.class_split, given_arguments(name="vinyals/train")
    ),
    "ClassGroups": EntryPoint(
        lambda groups, names: episodes.ClassGroups(groups, names),
        lambda: {"groups": [classes(), classes()], "names": ["a", "b"]},
    ),
    "ClassGroups.episodes": EntryPoint(
        lambda **x: episodes.ClassGroups([classes(), classes()]).episodes(**x),
        given_arguments(**SIZES, **OPTIONS),
    ),
    "ClassGroups.having": EntryPoint(
        lambda **x: episodes.ClassGroups([classes()]).having(**x),
        given_arguments(items=1, ways=2),
    ),
    "SineOrLine": EntryPoint(
        episodes.SineOrLine,
        given_arguments(
            amplitude=(0.1, 5.0),
            phase=(0.0, 1.0),
            slope=(-1.0, 1.0),
            intercept=(-1.0, 1.0),
            x=(-5.0, 5.0),
            noise=0.3,
        ),
    ),
    "SineOrLine.draw": EntryPoint(
        lambda **x: episodes.SineOrLine().draw(**x),
        given_arguments(seed=0, index=0, tasks=1, shots=1, queries=1),
    ),
    "SineOrLine.episodes": EntryPoint(
        lambda **x: episodes.SineOrLine().episodes(**x),
        given_arguments(shots=1, queries=1, tasks=1, seed=0, start=0),
    ),
    "SinusoidFamily": EntryPoint(
        episodes.SinusoidFamily,
        given_arguments(
            amplitude=(0, 1), frequency=(0, 1), phase=(0, 1), x=(0, 1)
        ),
    ),
    "SinusoidFamily.draw": EntryPoint(
        lambda **x: episodes.SinusoidFamily().draw(**x),
        given_arguments(seed=0, index=0, tasks=1, shots=1, queries=1),
    ),
    "SinusoidFamily.parameters": EntryPoint(
        lambda **x: episodes.SinusoidFamily().parameters(**x),
        given_arguments(seed=0, index=0, tasks=1),
    ),
    "SinusoidFamily.evaluate": EntryPoint(
        lambda **x: episodes.SinusoidFamily().evaluate(**x),
        lambda: {"parameters": tf.ones([2, 3]), "x": tf.ones([4, 1])},
    ),
    "sinusoids": EntryPoint(
        episodes.sinusoids,
        given_arguments(
            shots=1,
            queries=1,
            tasks=2,
            family="maml",
            seed=0,
            start=0,
            num_batches=1,
        ),
    ),
    # Problems.
    "batches": EntryPoint(
        problems.batches,
        given_arguments(instances=1, seed=0, start=0, num_batches=1),
    ),
    "Quadratic": EntryPoint(
        problems.Quadratic,
        given_arguments(dimensions=2, rows=2, entries="normal", start=0.1),
    ),
    "Quadratic.draw": EntryPoint(
        lambda **x: problems.Quadratic(2).draw(**x),
        given_arguments(seed=0, index=0, instances=1),
    ),
    "RandomScaling": EntryPoint(
        problems.RandomScaling,
        lambda: {
            "problem": problems.Quadratic(2),
            "low": -1.0,
            "high": 1.0,
            "per": "tensor",
        },
    ),
    "ModelProblem": EntryPoint(
        problems.ModelProblem,
        lambda: {
            "model": network(),
            "data": (np.ones([4, 2], "float32"), np.ones([4, 1], "float32")),
            "loss": "mse",
            "batch_size": 2,
            "initializer": None,
        },
    ),
    "ModelProblem, inputs": EntryPoint(
        lambda data: problems.ModelProblem(
            network(), (data, np.ones([4, 1])), "mse"
        ),
        lambda: {"data": np.ones([4, 2])},
    ),
    "ModelProblem, labels": EntryPoint(
        lambda data: problems.ModelProblem(
            models.omniglot_mlp(2, [2], image_size=2),
            (np.ones([4, 2, 2, 1]), data),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        ),
        lambda: {"data": np.zeros([4], int)},
    ),
    # Reinforcement.
    "PointNavigation": EntryPoint(
        reinforcement.PointNavigation,
        given_arguments(horizon=3, extent=0.5, step_size=0.1, tolerance=0.01),
    ),
    "TabularMDP": EntryPoint(
        reinforcement.TabularMDP,
        given_arguments(transitions=[[[1.0]]], rewards=[[[0.5]]], horizon=3),
    ),
    "Environment.batches": EntryPoint(
        lambda **x: reinforcement.PointNavigation().batches(**x),
        given_arguments(tasks=2, seed=0, start=0, num_batches=1),
    ),
    "Advantages": EntryPoint(
        reinforcement.Advantages,
        given_arguments(
            discount=0.9, gae_lambda=1.0, baseline=None, normalize=False
        ),
    ),
    "LinearFeatureBaseline": EntryPoint(
        reinforcement.LinearFeatureBaseline,
        given_arguments(regularization=1e-5),
    ),
    "LoadedDiCE": EntryPoint(
        reinforcement.LoadedDiCE, given_arguments(decay=0.5)
    ),
    "AppendLogStd": EntryPoint(
        reinforcement.AppendLogStd, given_arguments(initial_std=1.0)
    ),
    "PolicyLearner": EntryPoint(
        keras_meta.PolicyLearner,
        lambda: {
            "policy": models.gaussian_mlp(2, 2, [3]),
            "environment": reinforcement.PointNavigation(),
            "update_rule": 0.1,
            "steps": 1,
            "evaluation_steps": 1,
            "rollouts": 2,
            "objective": "dice",
            "distribution": "gaussian",
            "advantages": reinforcement.Advantages(),
            "adapt": "all",
            "meta_gradient": "unrolled",
            "seed": 0,
        },
    ),
    "PolicyLearner.call": EntryPoint(
        lambda tasks: policy_learner().call(tasks),
        given_arguments(tasks=np.ones([2, 2], "float32")),
    ),
    "PolicyLearner.adapt": EntryPoint(
        lambda **x: policy_learner().adapt(**x),
        given_arguments(task=[0.1, 0.2], steps=1, seed=0),
        lengths=("steps",),
    ),
    # Learners.
    "MAML": EntryPoint(
        keras_meta.MAML,
        of_model(update_rule=0.1, steps=1, step_weights=None, **LEARNER),
    ),
    "ANIL": EntryPoint(
        keras_meta.ANIL, of_model(update_rule=0.1, steps=1, adapt="head")
    ),
    "ProbabilisticMAML": EntryPoint(
        keras_meta.ProbabilisticMAML,
        of_model(
            update_rule=0.1,
            steps=1,
            samples=2,
            training_samples=1,
            scale=0.1,
            kl_weight=1.0,
            prior_rule=0.1,
            posterior_rule=0.1,
            seed=0,
        ),
        lengths=("samples", "training_samples"),
    ),
    "MAMLEnsemble": EntryPoint(
        keras_meta.MAMLEnsemble,
        of_model(update_rule=0.1, steps=1, particles=2, seed=0),
        lengths=("particles",),
    ),
    "BayesianMAML": EntryPoint(
        keras_meta.BayesianMAML,
        of_model(
            update_rule=0.1,
            steps=1,
            particles=2,
            leader_steps=1,
            temperature=0.1,
            bandwidth=1.0,
            seed=0,
        ),
        lengths=("particles",),
    ),
    "GaussianNLL": EntryPoint(
        keras_meta.GaussianNLL, given_arguments(scale=0.3)
    ),
    "PredictiveNLL": EntryPoint(
        keras_meta.PredictiveNLL, given_arguments(loss="mse")
    ),
    "Coverage": EntryPoint(
        keras_meta.Coverage, given_arguments(scale=0.3, deviations=2.0)
    ),
    "MetaSGD": EntryPoint(
        keras_meta.MetaSGD, of_model(learning_rate=0.1, steps=1, seed=0)
    ),
    "Reptile": EntryPoint(
        keras_meta.Reptile,
        of_model(update_rule=0.1, steps=1, batch_size=1, seed=0),
    ),
    "SNAIL": EntryPoint(
        lambda **x: keras_meta.SNAIL(x.pop("encoder"), **x),
        lambda: {
            "encoder": network(),
            "ways": 2,
            "shots": 1,
            "filters": 2,
            "attention": [(2, 2)],
            "seed": 0,
            "batch_statistics": "running",
        },
        lengths=("ways", "shots", "filters"),
    ),
    "MANN": EntryPoint(
        keras_meta.MANN,
        lambda: {"encoder": network(), "ways": 2, "cell": memory_cell()},
        lengths=("ways",),
    ),
    "MemoryCell": EntryPoint(
        lambda **x: built(sequence.MemoryCell(**x)),
        given_arguments(
            units=2,
            slots=3,
            slot_size=2,
            heads=1,
            controller="dense",
            decay=0.5,
            strength=1.0,
        ),
        lengths=("units", "slots", "slot_size", "heads"),
    ),
    "SequenceClassifier": EntryPoint(
        sequence.SequenceClassifier,
        lambda: {"encoder": network(), "cell": memory_cell(), "ways": 2},
        lengths=("ways",),
    ),
    "CausalAttention": EntryPoint(
        sequence.CausalAttention, given_arguments(key_size=2, value_size=2)
    ),
    "GatedConvolution": EntryPoint(
        sequence.GatedConvolution, given_arguments(filters=2, dilation=1)
    ),
    "TemporalConvolution": EntryPoint(
        sequence.TemporalConvolution,
        given_arguments(filters=2, length=2),
        lengths=("length",),
    ),
    "InstanceAccuracy": EntryPoint(
        lambda **x: sequence.InstanceAccuracy(**x) and None,
        given_arguments(instance=1),
    ),
    "Kept": EntryPoint(keras_meta.Kept, given_arguments(instances=4, groups=2)),
    "OptimizerLearner": EntryPoint(
        keras_meta.OptimizerLearner,
        lambda: {
            "rule": keras_meta.CoordinatewiseLSTM([2]),
            "problem": problems.Quadratic(2),
            "steps": 2,
            "meta_gradient": "first_order",
            "start": "drawn",
            "evaluation_steps": 2,
            "step_weights": [1, 1],
            "objective": "loss",
            "tolerated_divergences": 0,
        },
    ),
    "Learner.adapt": EntryPoint(
        lambda **x: learner().adapt(**x),
        given_arguments(
            support_x=np.ones([3, 2], "float32"),
            support_y=np.ones([3, 1], "float32"),
            steps=1,
            sample_weight=np.ones([3]),
        ),
        lengths=("steps",),
    ),
    "MetricLearner.adapt": EntryPoint(
        lambda **x: metric_learner().adapt(**x),
        given_arguments(
            support_x=np.ones([3, 2], "float32"),
            support_y=np.array([0, 1, 1]),
            sample_weight=np.ones([3]),
        ),
    ),
    "Learner()": EntryPoint(
        lambda inputs: learner()(inputs), lambda: {"inputs": tasks()}
    ),
    "Learner(), parts": EntryPoint(lambda **x: learner()(x), tasks),
    "Learner(), weights": EntryPoint(
        lambda weights: learner()(
            {**tasks(), "support_sample_weight": weights}
        ),
        lambda: {"weights": np.ones([2, 3])},
    ),
    "Learner.fit": EntryPoint(
        lambda y, sample_weight, **x: learner().fit(
            x, y, sample_weight=sample_weight, verbose=0
        ),
        of_batch,
    ),
    "Learner.train_on_batch": EntryPoint(
        lambda y, sample_weight, **x: learner().train_on_batch(
            x, y, sample_weight=sample_weight
        ),
        of_batch,
    ),
    "Learner.evaluate": EntryPoint(
        lambda y, sample_weight, **x: learner().evaluate(
            x, y, sample_weight=sample_weight, verbose=0
        ),
        of_batch,
    ),
    "Learner.predict": EntryPoint(
        lambda **x: learner().predict(x, verbose=0), tasks
    ),
    "Learner.trajectory": EntryPoint(
        lambda **x: learner().trajectory(tasks(), **x),
        given_arguments(steps=1),
        lengths=("steps",),
    ),
    "evaluate_tasks": EntryPoint(
        keras_meta.evaluate_tasks,
        lambda: {
            "learner": learner(),
            "episodes": data_of_tasks(),
            "tasks": 2,
            "steps": 1,
        },
        lengths=("steps",),
    ),
    "adaptation_curve": EntryPoint(
        keras_meta.adaptation_curve,
        lambda: {
            "learner": learner(),
            "episodes": data_of_tasks(),
            "tasks": 2,
            "steps": 1,
        },
        lengths=("steps",),
    ),
    # Update rules.
    "GradientDescent": EntryPoint(
        keras_meta.GradientDescent,
        given_arguments(
            learning_rate=0.1, learn=None, clip_norm=1.0, clip_value=None
        ),
    ),
    "SteinGradient": EntryPoint(
        keras_meta.SteinGradient,
        lambda: {
            "rule": keras_meta.GradientDescent(0.1),
            "particles": 2,
            "temperature": 1.0,
            "bandwidth": 1.0,
        },
    ),
    "Momentum": EntryPoint(
        keras_meta.Momentum,
        given_arguments(learning_rate=0.1, momentum=0.9, nesterov=False),
    ),
    "RMSprop": EntryPoint(
        keras_meta.RMSprop,
        given_arguments(learning_rate=0.1, rho=0.9, epsilon=1e-7),
    ),
    "Adam": EntryPoint(
        keras_meta.Adam,
        given_arguments(
            learning_rate=0.1, beta_1=0.9, beta_2=0.9, epsilon=1e-7
        ),
    ),
    "CoordinatewiseLSTM": EntryPoint(
        keras_meta.CoordinatewiseLSTM,
        given_arguments(
            units=[2], preprocessing=10.0, output_scale=0.1, seed=0
        ),
    ),
    "HierarchicalRNN": EntryPoint(
        keras_meta.HierarchicalRNN,
        given_arguments(
            units=[2, 2, 2],
            time_scales=2,
            initial_rate=0.1,
            attention=False,
            seed=0,
        ),
    ),
    "LearnedHyperparameters": EntryPoint(
        keras_meta.LearnedHyperparameters,
        given_arguments(learning_rate=0.1, momentum=0.5, weight_decay=0.1),
    ),
    "MetaLearnerLSTM": EntryPoint(
        keras_meta.MetaLearnerLSTM,
        given_arguments(units=2, preprocessing=10.0, seed=0),
    ),
    # Optimizers.
    "LearnedOptimizer": EntryPoint(
        optimizers.LearnedOptimizer,
        lambda: {"rule": keras_meta.Momentum(0.1), "learning_rate": 1.0},
    ),
    "LSTMOptimizer": EntryPoint(
        optimizers.LSTMOptimizer,
        given_arguments(
            units=[2], preprocessing=10.0, output_scale=0.1, seed=0
        ),
    ),
    "HierarchicalRNNOptimizer": EntryPoint(
        optimizers.HierarchicalRNNOptimizer,
        given_arguments(
            units=[2, 2, 2],
            time_scales=2,
            initial_rate=0.1,
            attention=False,
            seed=0,
        ),
    ),
    "from_preset": EntryPoint(
        optimizers.LearnedOptimizer.from_preset,
        given_arguments(preset="lstm_mnist"),
    ),
    # Callbacks.
    "AnnealStepWeights": EntryPoint(
        callbacks.AnnealStepWeights, given_arguments(epochs=1, rest=0.1)
    ),
    "CollapseAlarm": EntryPoint(
        callbacks.CollapseAlarm,
        given_arguments(max_skips=0.5, max_entropy=0.9, stop=False),
    ),
    "LengthenUnroll": EntryPoint(
        callbacks.LengthenUnroll, given_arguments(steps={0: 1})
    ),
    "LengthenUnroll, steps": EntryPoint(
        lambda steps: callbacks.LengthenUnroll({0: steps}),
        given_arguments(steps=1),
    ),
    "SwitchMetaGradient": EntryPoint(
        callbacks.SwitchMetaGradient,
        given_arguments(meta_gradients={0: "first_order"}),
    ),
    "TaskEvaluation": EntryPoint(
        callbacks.TaskEvaluation,
        lambda: {
            "episodes": data_of_tasks(),
            "tasks": 2,
            "prefix": "val_",
            "every": 1,
        },
    ),
    # Models.
    "omniglot_conv": EntryPoint(
        models.omniglot_conv,
        given_arguments(
            ways=2,
            filters=1,
            pool=False,
            image_size=16,
            head_initializer="zeros",
        ),
    ),
    "omniglot_mlp": EntryPoint(
        models.omniglot_mlp,
        given_arguments(ways=2, hidden=[2], image_size=2, stddev=0.1),
    ),
    "mini_imagenet_conv": EntryPoint(
        models.mini_imagenet_conv,
        given_arguments(ways=2, filters=1, image_size=16),
    ),
    "gaussian_mlp": EntryPoint(
        models.gaussian_mlp,
        given_arguments(
            observation_size=2,
            action_size=2,
            hidden=[3],
            activation="relu",
            initial_std=1.0,
        ),
    ),
    "sinusoid_mlp": EntryPoint(
        models.sinusoid_mlp,
        given_arguments(hidden=[2], initializer="zeros"),
    ),
}


def call_with(entry_point: EntryPoint, nasty: dict[str, str]) -> None:
    """Calls with some arguments replaced, and checks what comes of it.

    Args:
        entry_point: What to call.
        nasty: Names of values of `NASTY` by the name of the argument.
    """
    arguments = entry_point.valid()
    for name, value in nasty.items():
        arguments[name] = NASTY[value]()
    try:
        result = entry_point.call(**arguments)
    except DOCUMENTED as error:
        said = str(error)
        assert "Received" in said or any(name in said for name in nasty), said
    else:
        check_usable(result)


def check_usable(result: Any) -> None:
    """Requires that what was accepted holds finite numbers alone."""
    if isinstance(result, tf.data.Dataset):
        spec = keras.tree.flatten(result.element_spec)
        # A batch may be larger than the memory, as was asked for.
        if sum(math.prod(s.shape) for s in spec) > 1e6:
            return
        result = next(iter(result))
    if isinstance(result, keras.Layer):
        result = result.get_weights()
    for leaf in keras.tree.flatten(result):
        if isinstance(leaf, (tf.Tensor, np.ndarray)):
            values = np.asarray(leaf)
            assert values.dtype.kind != "f" or np.isfinite(values).all()


def values_by_argument(entry_point: EntryPoint) -> dict[str, list[str]]:
    """Names of the values that are tried, by the name of the argument."""
    lengths = entry_point.lengths
    return {
        name: [v for v in NASTY if name not in lengths or v not in LARGE]
        for name in entry_point.names
    }


@st.composite
def replacements(draw, values: dict[str, list[str]]):
    """Some arguments, and what replaces them.

    Args:
        draw: Draws from a strategy.
        values: Names of values by the name of the argument.
    """
    names = st.sampled_from(list(values))
    chosen = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    return {name: draw(st.sampled_from(values[name])) for name in chosen}


each_entry_point = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[needs_addons] * name.startswith("Augment"))
        for name in ENTRY_POINTS
    ],
)


@pytest.mark.slow
@each_entry_point
def test_an_argument_of_the_wrong_kind_is_refused_or_works(name):
    entry_point = ENTRY_POINTS[name]
    for argument, values in values_by_argument(entry_point).items():
        for value in values:
            call_with(entry_point, {argument: value})


@pytest.mark.slow
@each_entry_point
def test_arguments_of_the_wrong_kind_together(name):
    entry_point = ENTRY_POINTS[name]

    @settings(
        max_examples=CASES_OF_AN_ENTRY_POINT,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(replacements(values_by_argument(entry_point)))
    def fuzz(nasty):
        call_with(entry_point, nasty)

    fuzz()


@pytest.mark.slow
@each_entry_point
def test_the_arguments_that_are_not_replaced_are_valid(name):
    entry_point = ENTRY_POINTS[name]
    if entry_point.is_absent:
        pytest.skip("reads files that are not there")
    check_usable(entry_point.call(**entry_point.valid()))


def test_there_are_enough_cases():
    assert len(ENTRY_POINTS) * CASES_OF_AN_ENTRY_POINT >= 500
