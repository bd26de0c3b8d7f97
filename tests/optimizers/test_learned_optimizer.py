"""Rules as optimizers equal Keras's optimizers, or the rules unrolled."""

import json
import pathlib
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta
from keras_meta.optimizers import HierarchicalRNNOptimizer
from keras_meta.optimizers import LearnedOptimizer
from keras_meta.optimizers import LSTMOptimizer

ROOT = pathlib.Path(__file__).resolve().parents[2]


def network(seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input([3]),
            keras.layers.Dense(5, "tanh"),
            keras.layers.Dense(2),
        ]
    )


def data(seed=0, examples=40):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=[examples, 3]).astype("float32")
    return x, np.tanh(x[:, :2] - x[:, 1:])


def fitted(optimizer, epochs=3, **options):
    model = network()
    model.compile(optimizer, "mse", **options)
    model.fit(*data(), batch_size=8, epochs=epochs, shuffle=False, verbose=0)
    return model


def assert_same(model, other, tolerance=1e-6):
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def momentum(rate=0.1, **options):
    return LearnedOptimizer(
        keras_meta.Momentum(1.0, momentum=0.75), rate, **options
    )


OPTIONS = {
    "alone": {},
    "clipnorm, weight_decay": {"clipnorm": 0.01, "weight_decay": 0.1},
    "global_clipnorm, ema": {
        "global_clipnorm": 0.02,
        "use_ema": True,
        "ema_momentum": 0.5,
    },
    "clipvalue, ema_overwrite": {
        "clipvalue": 0.003,
        "use_ema": True,
        "ema_overwrite_frequency": 4,
    },
    "accumulation, loss_scale": {
        "gradient_accumulation_steps": 3,
        "loss_scale_factor": 128.0,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_momentum_equals_that_of_keras(options, jit_compile):
    expected = fitted(
        keras.optimizers.SGD(0.1, momentum=0.75, **options),
        jit_compile=jit_compile,
    )
    actual = fitted(momentum(**options), jit_compile=jit_compile)
    assert_same(actual, expected)
    assert np.abs(actual.get_weights()[0] - network().get_weights()[0]).max()


RULES = {
    "rates": lambda: keras_meta.GradientDescent(0.1, "layer_step"),
    "momentum": lambda: keras_meta.Momentum(0.1),
    "rmsprop": lambda: keras_meta.RMSprop(0.01),
    "adam": lambda: keras_meta.Adam(0.01),
    "hyperparameters": lambda: keras_meta.LearnedHyperparameters(0.1),
    "lstm": lambda: keras_meta.CoordinatewiseLSTM([4], seed=0),
    "hierarchical": lambda: keras_meta.HierarchicalRNN([3, 2, 2], seed=0),
    "attention": lambda: keras_meta.HierarchicalRNN(
        [3, 2, 2], attention=True, seed=0
    ),
}


@pytest.mark.slow_variants(
    "momentum", "adam", "rmsprop", "hyperparameters", "rates"
)
@pytest.mark.parametrize("make", RULES.values(), ids=RULES)
def test_the_state_can_be_created_while_xla_traces_a_step(make):
    # TensorFlow copies tensors of up to 128 elements into a graph.
    variables = [keras.Variable(np.ones([40, 30])), keras.Variable([1.0, 2.0])]
    rule = make()
    optimizer = LearnedOptimizer(rule, use_ema=not rule.attends)

    @tf.function(jit_compile=True)
    def build():
        optimizer.build(variables)
        return optimizer.iterations + 1

    assert build() == 1
    expected = rule.init_state([tf.zeros_like(v.value) for v in variables])
    for a, b in zip(
        keras.tree.flatten(optimizer._state),
        keras.tree.flatten(expected),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow_variants("built")
@pytest.mark.parametrize(
    ("rule", "inputs", "steps"),
    [("momentum", [keras.Input([64])], 1), ("lstm", [], 3)],
    ids=["built", "built in the step, several steps"],
)
def test_xla_trains_a_wide_layer_like_a_plain_graph(rule, inputs, steps):
    x = np.random.default_rng(0).normal(size=[24, 64]).astype("float32")
    weights = []
    for jit_compile in (False, True):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([*inputs, keras.layers.Dense(10)])
        model.compile(
            LearnedOptimizer(RULES[rule]()),
            "mse",
            jit_compile=jit_compile,
            steps_per_execution=steps,
        )
        model.fit(x, x[:, :10], batch_size=8, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    # Biases start at zero.
    assert np.abs(weights[0][1]).min() > 1e-5


@pytest.mark.slow
def test_a_schedule_scales_the_moves():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.3, 5, 0.5)
    # Zero momentum, as Keras's velocity contains the rates of past steps.
    rule = keras_meta.GradientDescent(1.0)
    expected = fitted(keras.optimizers.SGD(schedule))
    assert_same(fitted(LearnedOptimizer(rule, schedule)), expected)


@pytest.mark.slow
def test_sparse_gradients_and_variables_without_one():
    def make(optimizer):
        keras.utils.set_random_seed(0)
        inputs = keras.Input([4], dtype="int32")
        x = keras.layers.Embedding(7, 3)(inputs)
        idle = keras.layers.Dense(2, name="idle")
        idle.build([None, 3])
        outputs = keras.layers.Dense(1)(keras.layers.Flatten()(x))
        model = keras.Model(inputs, outputs)
        model.idle = idle
        model.compile(optimizer, "mse")
        ids = np.random.default_rng(0).integers(0, 7, [16, 4])
        with pytest.warns(UserWarning, match="Gradients do not exist"):
            model.fit(ids, np.ones([16, 1]), batch_size=4, verbose=0)
        return model

    assert_same(make(momentum()), make(keras.optimizers.SGD(0.1, 0.75)))


def lstm(**options):
    return LSTMOptimizer([4, 3], seed=1, output_scale=0.3, **options)


def hierarchical(**options):
    return HierarchicalRNNOptimizer(
        [4, 3, 3], seed=1, initial_rate=0.01, **options
    )


@pytest.mark.slow_variants("hierarchical")
@pytest.mark.parametrize("make", [lstm, hierarchical])
def test_steps_in_keras_equal_the_unrolled_rule(make):
    x, y = data()
    optimizer = make()
    rule = optimizer.rule
    model = network()
    params = [tf.identity(v.value) for v in model.trainable_variables]
    rule.attach(model.trainable_variables, steps=1)
    state = rule.init_state(params)
    model.compile(optimizer, "mse")

    @tf.function(jit_compile=True)
    def step(params, state):
        with tf.GradientTape() as tape:
            tape.watch(params)
            hidden = tf.tanh(x @ params[0] + params[1])
            loss = tf.reduce_mean((hidden @ params[2] + params[3] - y) ** 2)
        return rule.update(params, tape.gradient(loss, params), state)

    for _ in range(6):
        params, state = step(params, state)
        model.train_on_batch(x, y)
        for a, b in zip(model.get_weights(), params, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def attending(rate=1.0, **options):
    return hierarchical(attention=True, learning_rate=rate, **options)


def attended_and_parameters(model):
    optimizer = model.optimizer
    state = keras.tree.map_structure(tf.convert_to_tensor, optimizer._state)
    values = [tf.convert_to_tensor(v) for v in model.trainable_variables]
    parameters, _ = optimizer.rule.final(values, state)
    return values, parameters


@pytest.mark.slow
def test_fit_ends_at_the_parameters_and_not_at_the_attended_points():
    model = network()
    x, y = data()
    start = model.get_weights()
    model.compile(attending(), "mse")
    model.train_on_batch(x, y)
    attended, parameters = attended_and_parameters(model)
    assert np.abs(attended[0] - parameters[0]).max() > 1e-4
    # The first step starts at the model's weights.
    assert 1e-4 < np.abs(parameters[0] - start[0]).max() < 0.1
    model.optimizer.finalize_variable_values(model.trainable_variables)
    for variable, parameter in zip(
        model.trainable_variables, parameters, strict=True
    ):
        np.testing.assert_array_equal(variable, parameter)
    attended, parameters = attended_and_parameters(model)
    np.testing.assert_array_equal(attended[0], parameters[0])


@pytest.mark.slow
def test_the_rate_scales_the_moves_of_the_parameters():
    moves = []
    for rate in (1.0, 0.25):
        model = network()
        start = model.get_weights()
        model.compile(attending(rate), "mse")
        model.train_on_batch(*data())
        _, parameters = attended_and_parameters(model)
        moves.append(np.subtract(parameters[0], start[0]))
    np.testing.assert_allclose(moves[1], 0.25 * moves[0], rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_training_continues_from_weights_set_between_two_fits():
    model = fitted(attending())
    model.set_weights([w + 5.0 for w in model.get_weights()])
    model.train_on_batch(*data())
    _, parameters = attended_and_parameters(model)
    assert np.min(parameters[0]) > 2.0


def test_averages_of_attended_points_are_refused():
    with pytest.raises(ValueError, match="use_ema=True"):
        attending(use_ema=True)


@pytest.mark.slow
def test_a_rule_attached_to_another_model_is_refused():
    rule = keras_meta.LearnedHyperparameters(0.1)
    fitted(LearnedOptimizer(rule))
    other = keras.Sequential([keras.Input([3]), keras.layers.Dense(2)])
    other.compile(LearnedOptimizer(rule), "mse")
    with pytest.raises(ValueError, match="belongs to variables of shapes"):
        other.fit(*data(), verbose=0)


@pytest.mark.slow
def test_fit_does_not_train_the_network():
    optimizer = lstm()
    before = optimizer.rule.get_weights()
    fitted(optimizer)
    for a, b in zip(before, optimizer.rule.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("make", [lstm, hierarchical, momentum])
def test_interrupted_training_resumes_exactly(make, tmp_path):
    whole = fitted(make(), epochs=4)
    half = fitted(make(), epochs=2)
    half.save(tmp_path / "half.keras")
    loaded = keras.saving.load_model(tmp_path / "half.keras")
    loaded.fit(*data(), batch_size=8, epochs=2, shuffle=False, verbose=0)
    assert_same(loaded, whole, 0)
    for a, b in zip(
        loaded.optimizer.variables, whole.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.slow
def test_weights_of_the_network_are_saved(tmp_path):
    optimizer = lstm()
    optimizer.rule.readout.bias.assign([0.25])
    fitted(optimizer, epochs=1).save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras").optimizer
    for a, b in zip(
        loaded.rule.get_weights(), optimizer.rule.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("make", [lstm, hierarchical])
def test_mixed_precision(make):
    x, y = data()
    losses = {}
    for policy in ("float32", "mixed_bfloat16", "mixed_float16"):
        keras.config.set_dtype_policy(policy)
        try:
            model = network()
            model.compile(make(), "mse")
            history = model.fit(x, y, epochs=4, batch_size=len(x), verbose=0)
            losses[policy] = history.history["loss"]
        finally:
            keras.config.set_dtype_policy("float32")
    for policy in ("mixed_bfloat16", "mixed_float16"):
        np.testing.assert_allclose(losses[policy], losses["float32"], rtol=0.05)


_PROGRAM = """
    import json
    import keras
    import numpy as np
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * 2
    )
    import keras_meta

    x = np.random.default_rng(0).normal(size=[32, 3]).astype("float32")
    options = {"seed": 1, "weight_decay": 0.01, "clipvalue": 9.0}
    makers = [
        lambda: keras_meta.optimizers.LSTMOptimizer(
            [4], output_scale=0.3, **options
        ),
        lambda: keras_meta.optimizers.HierarchicalRNNOptimizer(
            [4, 3, 3], initial_rate=0.01, **options
        ),
    ]
    # A second mirrored strategy would reuse the numbers of its reductions.
    two = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
    for make in makers:
        weights = []
        for strategy in (
            tf.distribute.OneDeviceStrategy("/cpu:0"),
            two,
        ):
            with strategy.scope():
                keras.utils.set_random_seed(0)
                model = keras.Sequential(
                    [keras.Input([3]), keras.layers.Dense(4, "tanh"),
                     keras.layers.Dense(1)]
                )
                model.compile(make(), "mse")
            start = model.get_weights()
            model.fit(
                x, x[:, :1], batch_size=8, epochs=3, shuffle=False, verbose=0
            )
            weights.append(model.get_weights())
        pairs = [*zip(*weights, strict=True)]
        print("report", json.dumps({
            "difference": max(float(np.abs(a - b).max()) for a, b in pairs),
            "moved": max(
                float(np.abs(a - b).max())
                for a, b in zip(start, weights[1], strict=True)
            ),
        }))

    # A custom loop builds the optimizer on each of two devices.
    with two.scope():
        variable = keras.Variable(np.ones([40, 30], "float32"))
        optimizer = keras_meta.optimizers.LearnedOptimizer(
            keras_meta.Momentum(0.25, momentum=0.5)
        )

    def step():
        optimizer.apply([tf.ones([40, 30])], [variable])

    run = tf.function(lambda: two.run(step))
    for expected in (0.5, -0.25):
        run()
        np.testing.assert_array_equal(variable, np.full([40, 30], expected))
"""


@pytest.mark.slow
def test_two_devices_equal_one():
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_PROGRAM)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    reports = [
        json.loads(line.removeprefix("report "))
        for line in result.stdout.splitlines()
        if line.startswith("report ")
    ]
    assert len(reports) == 2
    for report in reports:
        assert report["moved"] > 0.01
        assert report["difference"] < 1e-5


def test_refuses_values_that_are_not_rules():
    with pytest.raises(TypeError, match="`rule` must be an update rule"):
        LearnedOptimizer(keras.optimizers.Adam())


@pytest.mark.slow
@pytest.mark.parametrize(
    "rule",
    [
        keras_meta.GradientDescent(0.1, clip_norm=1.0),
        keras_meta.HierarchicalRNN([3, 2, 2], seed=0),
    ],
)
def test_one_rule_in_several_optimizers(rule):
    x, y = data()
    models = [
        keras.Sequential([keras.Input([3]), *layers, keras.layers.Dense(2)])
        for layers in ([], [keras.layers.Dense(4)])
    ]
    for model in models:
        model.compile(LearnedOptimizer(rule), "mse", jit_compile=False)
    for examples in (8, 7):  # Each number of examples is traced again.
        for model in models:
            model.fit(x[:examples], y[:examples], batch_size=8, verbose=0)
    assert all(np.all(np.isfinite(m.get_weights()[0])) for m in models)


@pytest.mark.parametrize("attention", [False, True])
def test_a_frozen_model_compiles_and_saves(attention, tmp_path):
    model = network()
    model.trainable = False
    model.compile(hierarchical(attention=attention), "mse")
    model.optimizer.build(model.trainable_variables)
    model.optimizer.finalize_variable_values(model.trainable_variables)
    model.save(tmp_path / "frozen.keras")
    keras.models.load_model(tmp_path / "frozen.keras")


def test_an_optimizer_that_refused_its_variables_is_not_built():
    rule = keras_meta.LearnedHyperparameters()
    rule.attach([keras.Variable([0.0])], 1)
    optimizer = LearnedOptimizer(rule)
    for _ in range(2):
        with pytest.raises(ValueError, match="belongs to variables of"):
            fitted(optimizer)


@pytest.mark.slow
def test_attention_needs_a_gradient_for_each_variable():
    model = network()
    optimizer = attending()
    model.compile(optimizer, "mse", jit_compile=False)
    model.fit(*data(), verbose=0)
    model.layers[0].trainable = False
    model.compile(optimizer, "mse", jit_compile=False)
    with pytest.raises(ValueError, match="none for .*kernel.*Make a new"):
        model.fit(*data(), verbose=0)
