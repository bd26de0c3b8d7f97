"""The hierarchical RNN, compared with plain loops over parameters."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_meta.update_rules.hierarchical_rnn import HierarchicalRNN

from .problems import assert_close
from .problems import attached
from .problems import gradients
from .problems import start


def rule(**options):
    options = {"seed": 1, "initial_rate": 0.05, "dtype": "float64", **options}
    made = attached(HierarchicalRNN([3, 4, 2], time_scales=3, **options))
    rng = np.random.default_rng(0)
    for weight in made.weights:
        weight.assign(weight + 0.2 * rng.normal(size=weight.shape))
    return made


def steps(made, params, count=4, grads=gradients):
    state = made.init_state(params)
    for _ in range(count):
        params, state = made.update(params, grads(params), state)
    return params


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class WrittenOut:
    """The rule with loops over parameters, for one task."""

    def __init__(self, made, params):
        self.w = {v.name: v.numpy() for v in made.weights}
        self.rate = made.initial_rate
        self.attention = made.attention
        self.params = params
        self.units = made.units
        self.states = [[self._new() for _ in range(p.size)] for p in params]
        self.tensors = [self.w["tensor_start"][:, 0] for _ in params]
        self.all = self.w["global_start"][:, 0]

    def _new(self):
        return {
            "h": self.w["parameter_start"][:, 0],
            "input_decay": 0.0,
            "scale_decay": 0.0,
            "averages": np.zeros(3),
            "squares": np.zeros(3),
            "log_rate": np.log(self.rate),
        }

    def gru(self, name, x, h, bias):
        w, n = self.w, len(h)
        gates = w[f"{name}_gates"] @ np.concatenate([x, h])
        gates = sigmoid(gates + w[f"{name}_gates_bias"][:, 0] + bias[: 2 * n])
        reset, keep = gates[:n], gates[n:]
        content = w[f"{name}_content"] @ np.concatenate([x, reset * h])
        content += w[f"{name}_content_bias"][:, 0] + bias[2 * n :]
        return keep * h + (1 - keep) * np.tanh(content)

    def affine(self, name, x):
        return self.w[name] @ x + self.w[f"{name}_bias"][:, 0]

    def update(self, grads):
        """Returns the points where the next gradients are taken."""
        everyone = [s for states in self.states for s in states]
        mean_log_rate = np.mean([s["log_rate"] for s in everyone])
        moved, attended, new_tensors = [], [], []
        for t, (param, grad) in enumerate(zip(self.params, grads, strict=True)):
            bias = self.affine("tensor_to_parameter", self.tensors[t])
            bias = bias + self.affine("global_to_parameter", self.all)
            seen, scaleds, rates = [], [], []
            for s, g in zip(self.states[t], grad.ravel(), strict=True):
                scaleds.append(self._average(s, g))
                x = self._features(s, scaleds[-1], mean_log_rate)
                s["h"] = self.gru("parameter", x, s["h"], bias)
                seen.append(np.concatenate([s["h"], x]))
                rates.append(self._rate(s))
            rates = np.array(rates)
            step = self._directions("direction", "shortcut", t, scaleds)
            step *= rates * np.exp(self.w["step_offset"])
            moved.append(param - step.reshape(param.shape))
            if self.attention:
                step = rates * self._directions(
                    "attention", "attention_shortcut", t, scaleds
                )
                attended.append(param - step.reshape(param.shape))
            new_tensors.append(
                self.gru(
                    "tensor",
                    np.mean(seen, axis=0),
                    self.tensors[t],
                    self.affine("global_to_tensor", self.all),
                )
            )
        self.tensors = new_tensors
        self.all = self.gru(
            "global",
            np.mean(new_tensors, axis=0),
            self.all,
            np.zeros(3 * len(self.all)),
        )
        self.params = moved
        return attended if self.attention else moved

    def _directions(self, name, shortcut, t, scaleds):
        directions = np.array(
            [
                (self.w[name] @ s["h"] + self.w[shortcut] @ scaled)[0]
                for s, scaled in zip(self.states[t], scaleds, strict=True)
            ]
        )
        return directions / np.sqrt(np.mean(directions**2))

    def _average(self, s, g):
        scaled = []
        for i in range(3):
            decay = s["input_decay"] ** (2.0**-i)
            s["averages"][i] = (1 - decay) * g + decay * s["averages"][i]
            keep = s["scale_decay"]
            s["squares"][i] = (1 - keep) * s["averages"][i] ** 2 + (
                keep * s["squares"][i]
            )
            scaled.append(
                np.arcsinh(s["averages"][i] / np.sqrt(s["squares"][i] + 1e-16))
            )
        return np.array(scaled)

    def _features(self, s, scaled, mean_log_rate):
        logs = np.log(s["squares"] + 1e-16)
        return np.concatenate(
            [
                scaled,
                scaled[:-1] * scaled[1:],
                logs - logs.mean(),
                [s["log_rate"] - mean_log_rate],
            ]
        )

    def _rate(self, s):
        changed = s["log_rate"] + self.affine("rate_change", s["h"])[0]
        momentum = sigmoid(self.w["rate_momentum_logit"])
        s["log_rate"] = momentum * s["log_rate"] + (1 - momentum) * changed
        for name in ("input_decay", "scale_decay"):
            s[name] = sigmoid(self.affine(name, s["h"])[0])
        return np.exp(changed)


@pytest.mark.parametrize("attention", [False, True])
def test_equals_plain_loops_over_parameters(attention):
    made = rule(attention=attention)
    points = start()
    twin = WrittenOut(made, [p.numpy() for p in points])
    state = made.init_state(points)
    expected = points
    for _ in range(4):
        points, state = made.update(points, gradients(points), state)
        grads = gradients([tf.constant(p) for p in expected])
        expected = twin.update([g.numpy() for g in grads])
        assert_close(points, expected, 1e-9)
        final, there = made.final(points, state)
        assert_close(final, twin.params, 1e-9)
        assert_close(made.final(final, there)[0], twin.params, 1e-9)
    if attention:
        assert np.abs(points[0] - final[0]).max() > 1e-3


@pytest.mark.slow
def test_tasks_do_not_affect_each_other():
    made = rule()
    together = steps(made, start(3))
    for task in range(3):
        alone = steps(made, [p[task] for p in start(3)])
        assert_close([p[task] for p in together], alone, 1e-11)


@pytest.mark.slow
def test_a_number_of_tasks_unknown_to_the_graph():
    made = rule()
    specs = [tf.TensorSpec([None, *p.shape[1:]], p.dtype) for p in start(2)]
    unknown = tf.function(
        lambda *params: steps(made, params), autograph=False
    ).get_concrete_function(*specs)
    assert_close(unknown(*start(2)), steps(made, start(2)), 1e-11)


@pytest.mark.slow
def test_the_global_network_sees_all_tensors():
    made = rule()
    # Rates are compared across tensors, too, so they are kept constant here.
    for name in ("rate_change", "rate_change_bias"):
        made._by_name[name].assign(tf.zeros_like(made._by_name[name]))

    def moved(changed):
        def grads(params):
            given = gradients(params)
            given[changed] = given[changed] + 0.7
            return given

        return steps(made, start(), 4, grads)

    plain = steps(made, start(), 4)
    for changed in range(3):
        for other in {0, 1, 2} - {changed}:
            difference = np.abs(moved(changed)[other] - plain[other]).max()
            assert difference > 1e-12


@pytest.mark.parametrize("scale", [1e-4, 1e6])
def test_steps_hardly_depend_on_the_scale_of_gradients(scale):
    made = rule()
    params = start()
    state = made.init_state(params)
    grads = [tf.sign(g) for g in gradients(params)]
    moved, _ = made.update(params, grads, state)
    scaled, _ = made.update(params, [scale * g for g in grads], state)
    difference = max(
        np.abs(a - b).max() for a, b in zip(moved, scaled, strict=True)
    )
    largest = max(
        np.abs(a - b).max() for a, b in zip(moved, params, strict=True)
    )
    assert difference < 1e-3 * largest


@pytest.mark.slow
def test_gradients_equal_finite_differences():
    made = rule()

    def loss():
        return tf.add_n(
            [tf.reduce_sum(tf.square(p)) for p in steps(made, start(2), 3)]
        )

    with tf.GradientTape() as tape:
        value = loss()
    derivatives = tape.gradient(value, made.trainable_variables)
    rng = np.random.default_rng(1)
    for variable, derivative in zip(
        made.trainable_variables, derivatives, strict=True
    ):
        direction = rng.normal(size=variable.shape)
        there = variable.numpy()
        ends = []
        for sign in (1, -1):
            variable.assign(there + sign * 1e-6 * direction)
            ends.append(float(loss()))
        variable.assign(there)
        np.testing.assert_allclose(
            float(tf.reduce_sum(derivative * direction)),
            (ends[0] - ends[1]) / 2e-6,
            rtol=1e-5,
            atol=1e-7,
        )


@pytest.mark.slow
def test_zero_gradients_give_finite_derivatives():
    made = rule()

    def none(params):
        return [tf.zeros_like(p) for p in params]

    with tf.GradientTape() as tape:
        loss = tf.add_n(
            [tf.reduce_sum(p) for p in steps(made, start(), 3, none)]
        )
    for derivative in tape.gradient(loss, made.trainable_variables):
        assert np.isfinite(derivative).all()


def test_config_round_trip():
    made = HierarchicalRNN([3, 2, 1], time_scales=2, initial_rate=0.1, seed=4)
    twin = HierarchicalRNN.from_config(made.get_config())
    assert twin.get_config() == made.get_config()
    for a, b in zip(made.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("units", [10, 20]),
        ("units", [10, 20, 0]),
        ("time_scales", 1),
        ("initial_rate", 0.0),
    ],
)
def test_arguments_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be .*{name}="):
        HierarchicalRNN(**{name: value})


def test_a_tensor_without_coordinates_changes_nothing():
    made = HierarchicalRNN([3, 2, 2], seed=1, dtype="float64")
    params = [tf.zeros([0], tf.float64), tf.ones([2], tf.float64)]
    made.attach([keras.Variable(p, dtype="float64") for p in params], 1)
    state = made.init_state(params)
    for _ in range(3):
        params, state = made.update(params, params, state)
    assert np.all(np.isfinite(params[1])) and params[0].shape == [0]
