"""Training on several devices equals training on one."""

import json

import pytest

from .helpers import run_python

_PROGRAM = """
    import json
    import sys

    sys.path.insert(0, "tests")

    import keras
    import numpy as np
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * 2
    )

    import keras_meta
    from learners.helpers import batch
    from learners.helpers import classification
    from learners.helpers import crossentropy
    from learners.helpers import dataset
    from learners.helpers import mlp
    from learners.helpers import normalized_mlp
    from learners.helpers import regression

    one = tf.distribute.OneDeviceStrategy("/cpu:0")
    two = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
    assert two.num_replicas_in_sync == 2
    makers = {
        "maml": lambda: keras_meta.MAML(
            normalized_mlp(), keras_meta.Momentum(0.1, "layer"), 2
        ),
        "reptile": lambda: keras_meta.Reptile(
            normalized_mlp(), 0.1, 3, batch_size=2, batch_statistics="running"
        ),
    }
    data = regression(4, tasks=4)
    report = {}
    for name, make in makers.items():
        losses, weights = [], []
        for strategy in one, two:
            with strategy.scope():
                keras.utils.set_random_seed(0)
                learner = make()
                learner.compile(
                    keras.optimizers.SGD(0.1), "mse", metrics=["mae"]
                )
            start = learner.get_weights()
            history = learner.fit(dataset(data), epochs=2, verbose=0)
            losses.append(history.history["loss"])
            losses[-1] += history.history["mae"]
            losses[-1].append(learner.evaluate(dataset(data), verbose=0)[0])
            weights.append(learner.get_weights())
        report[name] = {
            "losses": losses,
            "difference": max(
                float(np.max(np.abs(a - b)))
                for a, b in zip(*weights, strict=True)
            ),
            "moved": max(
                float(np.max(np.abs(a - b)))
                for a, b in zip(start, weights[0], strict=True)
            ),
        }
    def state():
        variables = learner.weights + learner.optimizer.variables
        return [v.numpy() for v in variables]

    x, y = batch(data, 0)
    with two.scope():
        y_pred = learner(x, training=True)
    report["called in a scope"] = y_pred.shape.as_list()
    x["support_x"][3, 1, 0] = np.nan
    before = state()
    try:
        learner.fit(dataset((x, y)).batch(4), verbose=0)
    except FloatingPointError as error:
        report["error"] = str(error)
    report["moved by a failure"] = max(
        float(np.max(np.abs(a - b)))
        for a, b in zip(before, state(), strict=True)
    )
    with two.scope():
        learner = keras_meta.MAML(mlp(3), 0.1)
        learner.compile("sgd", crossentropy())
    x, y = classification(tasks=4)
    x["support_y"][2, 1] = 7
    x["support_x"][3, 1] = np.nan
    try:
        learner.evaluate(dataset((x, y)).batch(4), verbose=0)
    except ValueError as error:
        report["label"] = str(error)
    print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def report():
    result = run_python(_PROGRAM)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["maml", "reptile"])
def test_two_devices_train_as_one(name, report):
    results = report[name]
    assert results["moved"] > 0.05
    assert results["difference"] < 1e-5
    one, two = results["losses"]
    assert one == pytest.approx(two, rel=1e-5)


@pytest.mark.slow
def test_a_call_in_a_scope_is_not_one_of_a_replica(report):
    assert report["called in a scope"] == [4, 4, 1]


@pytest.mark.slow
def test_a_failure_on_one_of_two_devices_stops_training(report):
    assert " of task 3 in the batch" in report["error"]
    assert report["moved by a failure"] == 0


@pytest.mark.slow
def test_a_failure_is_that_of_the_whole_batch(report):
    """Neither a sum over devices nor numbered by one of them."""
    assert "Task 2 of the batch" in report["label"]
    assert "Received: label 7" in report["label"]
