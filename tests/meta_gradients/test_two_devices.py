"""Evolution strategies on two devices."""

import json

import pytest

from tests.learners.helpers import run_python

_PROGRAM = """
    import json

    import keras
    import numpy as np
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * 2
    )
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")

    import keras_meta
    from tests.learners.helpers import dataset
    from tests.learners.helpers import regression
    from tests.meta_gradients.test_few_shot_evolution import given
    from tests.meta_gradients.test_few_shot_evolution import linear_net
    from tests.meta_gradients.test_few_shot_evolution import objective

    one = tf.distribute.OneDeviceStrategy("/cpu:0")
    two = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
    data = dataset(regression(3, tasks=4))

    def trained(strategy, meta_gradient):
        with strategy.scope():
            keras.utils.set_random_seed(0)
            model = linear_net()
            kernel = model.get_layer("body").kernel
            kernel.regularizer = keras.regularizers.L2(0.1)
            learner = keras_meta.MAML(model, 0.1, meta_gradient=meta_gradient)
            learner.compile(keras.optimizers.SGD(0.1), "mse")
        start = learner.get_weights()
        learner.fit(data, verbose=0)
        moved = [
            end - old
            for end, old in zip(learner.get_weights(), start, strict=True)
        ]
        return learner, np.concatenate([np.ravel(m) for m in moved]).tolist()

    noise = given(np.eye(4), 0.5)
    report = {
        "one": trained(one, noise)[1],
        "two": trained(two, noise)[1],
    }
    learner, report["drawn"] = trained(two, "evolution_strategies")
    x, y = regression(tasks=2)

    @tf.function
    def seeds():
        return two.run(lambda: objective(learner, x, y).seed(0))

    report["seeds"] = [
        seed.numpy().tolist()
        for seed in two.experimental_local_results(seeds())
    ]
    print(json.dumps(report))
"""


@pytest.mark.slow
def test_two_devices_share_the_mean_and_draw_noise_of_their_own():
    result = run_python(_PROGRAM)
    assert result.returncode == 0, result.stderr[-3000:]
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["two"] == pytest.approx(report["one"], rel=1e-9)
    assert min(map(abs, report["drawn"])) > 0
    assert report["seeds"][0] != report["seeds"][1]
