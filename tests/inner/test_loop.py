import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_meta.inner import loop
from keras_meta.inner.checkpoint import checkpointed_unroll
from keras_meta.inner.loop import unroll
from tests.reference import assert_close
from tests.reference import derivatives
from tests.reference import normal

ROUTES = ["eager", "graph", "xla"]


def on_route(route, function):
    if route == "eager":
        return function
    return tf.function(function, autograph=False, jit_compile=route == "xla")


def descend(values, steps, route):
    """Gradient descent on a smooth function; differentiable itself."""
    point, target = values

    def step(i, carry):
        with tf.GradientTape() as tape:
            tape.watch(carry["x"])
            gap = tf.sin(carry["x"]) - target
            loss = tf.reduce_sum(gap**2 + 0.1 * carry["x"] ** 4)
        gradient = tape.gradient(loss, carry["x"])
        carry = {"x": carry["x"] - 0.1 * gradient, "n": carry["n"] + 1}
        return carry, (loss, {"x": carry["x"]})

    carry = {"x": point, "n": tf.zeros([], point.dtype)}
    return unroll(step, carry, steps, xla=route == "xla")


def by_hand(values, steps):
    """The same in a plain loop, with the gradient written out."""
    x, target = values
    losses, points = [], []
    for _ in range(steps):
        gap = tf.sin(x) - target
        losses.append(tf.reduce_sum(gap**2 + 0.1 * x**4))
        x = x - 0.1 * (2 * gap * tf.cos(x) + 0.4 * x**3)
        points.append(x)
    carry = {"x": x, "n": tf.constant(float(steps), x.dtype)}
    return carry, (tf.stack(losses), {"x": tf.stack(points)})


VALUES = [normal([3], 1), normal([3], 2)]


@pytest.mark.slow_variants(
    "10-graph", "10-xla", "11-eager", "11-graph", "11-xla"
)
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("steps", [1, 10, 11])
def test_unrolled_descent_equals_the_written_out_loop(route, steps):
    def run(values):
        return derivatives(lambda v: descend(v, steps, route), values)

    expected = derivatives(lambda v: by_hand(v, steps), VALUES)
    assert_close(on_route(route, run)(VALUES), expected)


@pytest.mark.slow_variants("2-graph", "2-xla")
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("steps", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_laid_out_and_looped_steps_are_the_same(route, steps, monkeypatch):
    def run(values):
        return derivatives(lambda v: descend(v, steps, route), values)

    laid_out = on_route(route, run)(VALUES)
    monkeypatch.setattr(loop, "_LAID_OUT_STEPS", 0)
    looped = on_route(route, lambda values: run(values))(VALUES)
    assert_close(laid_out, looped)


@pytest.mark.parametrize("steps", [2, 11])
def test_only_long_unrolls_become_a_while_loop(steps):
    traced = tf.function(
        lambda *values: descend(values, steps, "xla"), autograph=False
    ).get_concrete_function(*VALUES)
    kinds = {operation.type for operation in traced.graph.get_operations()}
    assert bool(kinds & {"While", "StatelessWhile"}) == (steps == 11)


def test_steps_that_need_not_be_laid_out_are_a_loop():
    def run(x):
        return unroll(lambda i, c: (c + 1, c), x, 2, lay_out=False)

    traced = tf.function(run, autograph=False).get_concrete_function(
        tf.zeros([])
    )
    kinds = {operation.type for operation in traced.graph.get_operations()}
    assert kinds & {"While", "StatelessWhile"}


@pytest.mark.parametrize("steps", [2, 12])
@pytest.mark.parametrize("length", [None, 3])
def test_what_no_step_changes_stays_the_same_tensor(steps, length):
    same = []

    def step(i, carry, constants):
        return {"a": carry["a"] + carry["b"], "b": carry["b"]}, carry["b"]

    @tf.function(autograph=False)
    def run(carry):
        last, outputs = checkpointed_unroll(step, carry, (), steps, length)
        same[:] = [last["a"] is carry["a"], last["b"] is carry["b"]]
        return last["a"], outputs

    total, outputs = run({"a": tf.constant(1.0), "b": tf.constant(2.0)})
    assert same == [False, True]
    assert total.numpy() == 1 + 2 * steps
    assert outputs.numpy().tolist() == [2.0] * steps


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("length", [None, 3])
def test_gradients_reach_what_no_step_changes(route, length):
    def run(values):
        def last(values):
            return checkpointed_unroll(
                lambda i, c, _: ((c[0] * c[1], c[1]), ()),
                (values[0], values[1]),
                (),
                12,
                length,
            )[0][0]

        with tf.GradientTape() as tape:
            tape.watch(values)
            result = last(values)
        return tape.gradient(result, values)

    x, factor = tf.constant(2.0, tf.float64), tf.constant(1.1, tf.float64)
    assert_close(
        on_route(route, run)([x, factor]),
        [factor**12, 12 * x * factor**11],
    )


def test_no_steps_return_the_carry_and_no_outputs():
    def step(i, carry):
        raise AssertionError("called without steps")

    carry = {"x": tf.ones([2])}
    last, outputs = unroll(step, carry, 0)
    assert last is carry
    assert outputs is None


@pytest.mark.parametrize("steps", [1, 10, 11, 13])
def test_steps_are_numbered_and_outputs_stacked_in_order(steps):
    def step(i, n):
        number = tf.convert_to_tensor(i)
        return n + 1, {"step": number, "square": [tf.stack([n, n * n])]}

    last, outputs = unroll(step, tf.constant(0), steps)
    count = np.arange(steps)
    assert last.numpy() == steps
    assert outputs["step"].numpy().tolist() == count.tolist()
    squares = outputs["square"][0].numpy()
    assert squares.tolist() == np.stack([count, count**2], 1).tolist()


@pytest.mark.parametrize("route", ["graph", "xla"])
def test_the_state_of_random_seeds_is_carried(route):
    generator = keras.random.SeedGenerator(1)

    def step(i, seed):
        with keras.StatelessScope([(generator.state, seed)]) as scope:
            drawn = keras.random.normal([2], seed=generator)
        return scope.get_current_value(generator.state), drawn

    def run():
        return unroll(step, tf.identity(generator.state.value), 12)[1]

    drawn = on_route(route, run)().numpy()
    assert len(np.unique(drawn)) == 24
