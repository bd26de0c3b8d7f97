"""What is kept of the inner loop does not change a training step."""

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
from .helpers import normalized_mlp
from .helpers import refuses
from .helpers import regression

STEPS = 6


def logs_and_moves(learner, data, loss, **options):
    """Returns the logs of a step and how far it moved each weight."""
    learner = compiled(learner, keras.optimizers.SGD(1.0), loss, **options)
    before = [w.numpy() for w in learner.weights]
    logs = learner.train_on_batch(*data, return_dict=True)
    after = learner.weights[: len(before)]
    return logs, [a.numpy() - b for a, b in zip(after, before, strict=True)]


def with_dropout(outputs):
    return keras.Sequential(
        [
            keras.Input([2]),
            keras.layers.Dense(8, "tanh"),
            keras.layers.Dropout(0.5, seed=1),
            keras.layers.Dense(outputs),
        ]
    )


def makes(
    learner,
    model=mlp,
    rule=lambda: 0.1,
    meta_gradient=keras_meta.Unrolled,
    **options,
):
    """Returns a function from `checkpoint` to a new learner."""
    return lambda checkpoint: learner(
        model(WAYS),
        rule(),
        steps=STEPS,
        meta_gradient=meta_gradient(checkpoint),
        **options,
    )


MAML = keras_meta.MAML
MAKERS = {
    "maml": makes(MAML),
    "meta_sgd": makes(keras_meta.MetaSGD),
    "momentum": makes(MAML, rule=lambda: keras_meta.Momentum(0.1)),
    "shared_layer": makes(MAML, adapt=["head"]),
    "running_statistics": makes(
        MAML, normalized_mlp, batch_statistics="running"
    ),
    "every_step_counts": makes(MAML, step_weights="uniform"),
    "dropout": makes(MAML, with_dropout),
    "first_order": makes(MAML, meta_gradient=keras_meta.FirstOrder),
}


def compare(make, data, loss, checkpoint, **options):
    results = []
    for value in ("off", checkpoint):
        keras.utils.set_random_seed(0)
        learner = make(value)
        results.append(logs_and_moves(learner, data, loss, **options))
    (logs, moves), (other_logs, other_moves) = results
    assert any(np.abs(move).max() > 1e-6 for move in moves)
    np.testing.assert_allclose(other_logs["loss"], logs["loss"], rtol=1e-12)
    for move, other in zip(moves, other_moves, strict=True):
        np.testing.assert_allclose(other, move, rtol=1e-8, atol=1e-11)


@pytest.mark.slow_variants(
    "maml-sqrt",
    "dropout-sqrt",
    "every_step_counts-sqrt",
    "first_order-sqrt",
    "meta_sgd-sqrt",
    "momentum-sqrt",
    "running_statistics-sqrt",
    "shared_layer-sqrt",
)
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "checkpoint", [pytest.param("step", marks=pytest.mark.slow), "sqrt"]
)
@pytest.mark.parametrize("name", MAKERS)
def test_a_step_is_the_same(name, checkpoint):
    data = classification()
    compare(MAKERS[name], data, crossentropy(), checkpoint)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("checkpoint", "route"),
    [
        ("step", {"run_eagerly": True}),
        ("step", {}),
        ("sqrt", {"jit_compile": True}),
    ],
)
def test_a_step_is_the_same_on_all_routes(checkpoint, route):
    data = classification()
    compare(MAKERS["meta_sgd"], data, crossentropy(), checkpoint, **route)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_a_step_of_a_convolutional_net_is_the_same():
    make = makes(MAML, lambda _: convolutional_net())
    data = classification(shape=(6, 6, 1))
    compare(make, data, crossentropy(), "sqrt")


@pytest.mark.slow
def test_long_loops_are_checkpointed_by_default(monkeypatch):
    seen = []

    def segment_length(checkpoint, steps):
        seen.append((checkpoint, steps))

    monkeypatch.setattr(
        "keras_meta.meta_gradients.unrolled.segment_length", segment_length
    )
    learner = compiled(keras_meta.MAML(mlp(), 0.1, 40))
    x, y = regression()
    learner.train_on_batch(x, y)
    assert seen == [("auto", 40)]
    learner.predict_on_batch(x)
    assert len(seen) == 1


def test_configuration_holds_the_setting():
    learner = keras_meta.MAML(mlp(), meta_gradient=keras_meta.Unrolled("step"))
    copy = keras_meta.MAML.from_config(learner.get_config())
    assert copy.meta_gradient == keras_meta.Unrolled("step")


@pytest.mark.parametrize("value", ["always", None, True, 3])
def test_an_unknown_setting(value):
    with refuses(
        ValueError, f"`checkpoint` must be one of .*'sqrt'.*={value!r}"
    ):
        keras_meta.Unrolled(checkpoint=value)


@pytest.mark.slow
def test_a_variable_that_a_loss_closes_over_gets_its_gradient():
    scale = keras.Variable(0.7, name="scale")

    def loss(y_true, y_pred):
        return keras.ops.mean(keras.ops.square(scale * y_true - y_pred), -1)

    x, y = regression(tasks=2)
    model = mlp()

    def gradients(checkpoint):
        learner = MAML(
            model,
            0.1,
            steps=2,
            inner_loss=loss,
            meta_gradient=keras_meta.Unrolled(checkpoint),
        )
        learner.compile("sgd", "mse", run_eagerly=True)
        with tf.GradientTape() as tape:
            total, _ = learner.outer_loss(x, y)
        return tape.gradient(total, [*learner.trainable_variables, scale.value])

    found = gradients("step")
    assert found[-1] != 0
    for a, b in zip(found, gradients("off"), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
