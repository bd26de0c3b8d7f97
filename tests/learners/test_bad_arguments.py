"""Bad models and arguments: the error names the argument."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta

from .helpers import maml
from .helpers import mlp
from .helpers import refuses
from .helpers import regression


def test_a_model_without_trainable_weights():
    model = mlp()
    model.trainable = False
    with refuses(
        ValueError, f"'{model.name}' has no trainable weights.*trainable = Tru"
    ):
        keras_meta.MAML(model)


@pytest.mark.parametrize("adapt", ["normalization", [], lambda v: False])
def test_adapting_nothing(adapt):
    with refuses(
        ValueError, "`adapt` selects no trainable weight.*adapt=.*kernel"
    ):
        keras_meta.MAML(mlp(), adapt=adapt)


def test_an_unknown_layer():
    with refuses(ValueError, "`adapt` names a layer .*'tail'.*'body', 'head'"):
        keras_meta.MAML(mlp(), adapt=["tail"])


def test_a_layer_of_another_model():
    other = keras.layers.Dense(1, name="other")
    with refuses(ValueError, "`adapt` names a layer .*name=other"):
        keras_meta.MAML(mlp(), adapt=[other])


@pytest.mark.parametrize("adapt", [lambda: True, lambda variable: variable])
def test_a_predicate_that_gives_no_answer(adapt):
    with refuses(
        TypeError, "`adapt`, as a predicate, must take a var.*body/kernel'"
    ):
        keras_meta.ANIL(mlp(), adapt=adapt)


def test_a_layer_alone():
    model = mlp()
    with refuses(ValueError, "`adapt` must be .* a list of layers.*name=head"):
        keras_meta.MAML(model, adapt=model.layers[-1])


_WINDOWS_OF_3 = pytest.mark.parametrize(
    ("meta_gradient", "way_out"),
    [
        (keras_meta.Truncated(3), "longer windows, fewer steps, or .*Unroll"),
        (keras_meta.Truncated(3, keras_meta.FirstOrder()), "longer windows"),
        (keras_meta.EvolutionStrategies(length=3), "length=None"),
        (keras_meta.PersistentES(length=3), "length=None"),
        (keras_meta.NoiseReuseES(length=3), "length=None"),
    ],
    ids=str,
)


@_WINDOWS_OF_3
def test_windows_shorter_than_the_inner_loop(meta_gradient, way_out):
    match = f"`length`.*least `steps`.*steps=9.*length=3.*Use {way_out}"
    with refuses(ValueError, match):
        keras_meta.MAML(mlp(), 0.1, steps=9, meta_gradient=meta_gradient)
    learner = keras_meta.MAML(mlp(), 0.1, steps=9)
    with refuses(ValueError, match):
        learner.meta_gradient = meta_gradient
    assert learner.meta_gradient == keras_meta.Unrolled()
    keras_meta.MAML(mlp(), 0.1, steps=3, meta_gradient=meta_gradient)


@pytest.mark.parametrize("argument", ["adapt", "meta_gradient"])
@pytest.mark.parametrize("value", [np.array(["all", "all"]), tf.ones([2])])
def test_an_array_is_no_name(argument, value):
    with refuses(
        (TypeError, ValueError), rf"`{argument}` must be .*shape \(2,\)"
    ):
        keras_meta.MAML(mlp(), **{argument: value})


@pytest.mark.parametrize(
    "loss", ["nonsense", 5, lambda y_pred: 0.5, keras.layers.Dense]
)
def test_what_is_no_inner_loss(loss):
    with refuses(
        ValueError, r"The loss must be .*\(y_true, y_pred\). Received"
    ):
        keras_meta.MAML(mlp(), inner_loss=loss)


def test_rates_beyond_float32():
    for make in (keras_meta.GradientDescent, keras_meta.RMSprop):
        with refuses(ValueError, "`learning_rate` must be .*float32.*1e.300"):
            make(1e300)
    with refuses(ValueError, "`update_rule` must be .*a finite number"):
        keras_meta.MAML(mlp(), 1e300)


@pytest.mark.parametrize("adapt", ["tail", 3, None])
def test_a_selection_that_is_none(adapt):
    with refuses(ValueError, f"`adapt` must be 'all'.*adapt={adapt!r}"):
        keras_meta.MAML(mlp(), adapt=adapt)


def test_an_unbuilt_model():
    model = keras.Sequential([keras.layers.Dense(1, name="lazy")])
    with refuses(
        ValueError, "`model` must be built.*'lazy'.*Call the model once"
    ):
        keras_meta.MAML(model)


@pytest.mark.parametrize("model", [None, lambda x: x, keras.layers.Dense(1)])
def test_what_is_no_model(model):
    with refuses(TypeError, "`model` must be a keras.Model.*model=(<|None)"):
        keras_meta.MAML(model)


@pytest.mark.parametrize("steps", [0, -1, 1.5, True, "2"])
def test_bad_steps(steps):
    with refuses(
        ValueError, f"`steps` must be an integer of at least 1.*{steps!r}"
    ):
        keras_meta.MAML(mlp(), steps=steps)


def test_bad_steps_elsewhere():
    with refuses(ValueError, "`evaluation_steps` must be .* least 0.*=-1"):
        keras_meta.MAML(mlp(), evaluation_steps=-1)
    x, _ = regression()
    for call in (
        lambda: maml().trajectory(x, -1),
        lambda: maml().adapt(x["support_x"][0], x["support_y"][0], -1),
    ):
        with refuses(ValueError, "`steps` must be an integer of at least 0"):
            call()


def test_bad_batch_statistics():
    with refuses(
        ValueError, "`batch_statistics` must be one of.*'running'.*='query'"
    ):
        keras_meta.MAML(mlp(), batch_statistics="query")


def test_an_unknown_sharing_of_rates():
    with refuses(ValueError, "`learn` must be one of.*'layer'.*='layers'"):
        keras_meta.GradientDescent(learn="layers")


@pytest.mark.parametrize("rate", [None, "0.1", True])
def test_a_fixed_rate_that_is_no_number(rate):
    with refuses(ValueError, f"`learning_rate` must be a number.*{rate!r}"):
        keras_meta.GradientDescent(rate)


def test_an_update_rule_that_is_none():
    with refuses((TypeError, ValueError), "`update_rule`.*'sgd'"):
        keras_meta.MAML(mlp(), "sgd")


def test_an_optimizer_as_an_update_rule():
    with refuses((TypeError, ValueError), "`update_rule`.*GradientDescent"):
        keras_meta.MAML(mlp(), keras.optimizers.SGD(0.1))


@pytest.mark.parametrize("name", ["clip_norm", "clip_value"])
def test_a_clip_that_is_not_positive(name):
    with refuses(ValueError, f"`{name}` must be a positive number.*{name}=0"):
        keras_meta.GradientDescent(**{name: 0})


@pytest.mark.parametrize(
    "make",
    [
        lambda: keras_meta.Momentum(momentum=1.0),
        lambda: keras_meta.Adam(beta_1=1.0),
        lambda: keras_meta.Adam(beta_2=-0.1),
    ],
)
def test_a_decay_out_of_range(make):
    with refuses(ValueError, r"must be a number in \[0, 1\). Received: \w+=-?"):
        make()


@pytest.mark.parametrize(
    "step_weights",
    [
        [1.0],
        "linear",
        [],
        [[1.0], [2.0]],
        [1.0, float("nan")],
        [1, -1],
        ["1", "2"],
        [True, False],
    ],
)
def test_bad_step_weights(step_weights):
    with refuses(ValueError, "`step_weights` must be 2 finite.*Received: step"):
        keras_meta.MAML(mlp(), steps=2, step_weights=step_weights)


def test_a_number_as_step_weights():
    with refuses(ValueError, "`step_weights` must be .*step_weights=0.5"):
        keras_meta.MAML(mlp(), steps=1, step_weights=0.5)


@pytest.mark.parametrize("value", [None, 3, True, keras_meta.Unrolled])
def test_a_meta_gradient_of_another_type(value):
    with refuses(TypeError, "`meta_gradient` must be .*Use one of"):
        keras_meta.MAML(mlp(), meta_gradient=value)


def test_an_unknown_meta_gradient():
    with refuses(ValueError, "`meta_gradient` .*'second_order'.*unrolled"):
        keras_meta.MAML(mlp(), meta_gradient="second_order")


def test_a_meta_gradient_stays_as_it_was_when_another_is_refused():
    learner = keras_meta.MAML(mlp(), meta_gradient="first_order")
    with refuses(ValueError, "`meta_gradient`"):
        learner.meta_gradient = "exact"
    assert learner.meta_gradient == keras_meta.FirstOrder()


def test_a_derivative_for_reptile():
    learner = keras_meta.Reptile(mlp())
    with refuses(ValueError, "displacement.*Unrolled.*keras_meta.MAML"):
        learner.meta_gradient = "unrolled"


def test_reptile_with_learned_rates():
    rule = keras_meta.GradientDescent(0.1, learn="scalar")
    with refuses(
        ValueError, "learned rates.*GradientDescent, which learns.*learn=None"
    ):
        keras_meta.Reptile(mlp(), rule)


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, "4"])
def test_a_bad_batch_size(batch_size):
    with refuses(
        ValueError, f"`batch_size` must be .*at least 1.*{batch_size}"
    ):
        keras_meta.Reptile(mlp(), batch_size=batch_size)


def test_an_unknown_argument():
    with pytest.raises((TypeError, ValueError), match="inner_steps"):
        keras_meta.MAML(mlp(), inner_steps=3)


def test_seeds_of_numpy():
    rates = [
        keras_meta.MetaSGD(mlp(), seed=seed).update_rule.rates[0].numpy()
        for seed in (3, np.int64(3))
    ]
    np.testing.assert_array_equal(*rates)


def test_attention_needs_second_derivatives():
    rule = keras_meta.HierarchicalRNN([3, 2, 2], attention=True)
    with refuses(ValueError, "attention=True, and .*FirstOrder.*Use"):
        keras_meta.MAML(mlp(), rule, meta_gradient="first_order")


def test_known_losses_compare_one_output():
    inputs = keras.Input([2])
    heads = [keras.layers.Dense(1, name=name)(inputs) for name in "ab"]
    learner = keras_meta.MAML(
        keras.Model(inputs, dict(zip("ab", heads, strict=True))),
        inner_loss="mse",
    )
    with refuses(ValueError, "one output.*of type dict.*Pass `inner_loss=`"):
        learner(regression()[0])


def test_one_tensor_of_labels():
    x, _ = regression()
    x["support_y"] = {"a": x["support_y"]}
    with refuses(ValueError, "`support_y` must be one tensor.*type dict"):
        maml()(x)


@pytest.mark.parametrize("tasks", [1, 0, 2.5, None])
def test_evaluation_of_less_than_two_tasks(tasks):
    with refuses(ValueError, f"`tasks` must be .* at least 2.*tasks={tasks}"):
        keras_meta.callbacks.TaskEvaluation(None, tasks=tasks)


@pytest.mark.parametrize("value", ["False", 0, None, 1.0])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (keras_meta.Momentum, "nesterov"),
        (keras_meta.HierarchicalRNN, "attention"),
        (keras_meta.optimizers.HierarchicalRNNOptimizer, "attention"),
        (lambda **flag: keras_meta.models.omniglot_conv(5, **flag), "pool"),
        (
            lambda **flag: _classes().sampler(
                ways=2, shots=1, queries=1, **flag
            ),
            "shuffle",
        ),
        (
            lambda **flag: keras_meta.episodes.load_directory(".", **flag),
            "invert",
        ),
        (
            lambda **flag: keras_meta.episodes.load_tfds("mnist", "a", **flag),
            "cache",
        ),
    ],
)
def test_what_is_no_truth_value(make, name, value):
    with refuses(ValueError, f"`{name}` must be True or False.*{value!r}"):
        make(**{name: value})


def _classes():
    return keras_meta.episodes.Classes(np.zeros([4, 2]), [2, 2], "ab")


def test_truth_values_of_numpy():
    rule = keras_meta.Momentum(0.1, nesterov=np.bool_(True))
    assert rule.nesterov is True


_INFINITIES = [float("nan"), float("inf"), np.float32("nan")]


@pytest.mark.parametrize("value", _INFINITIES)
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (keras_meta.GradientDescent, "learning_rate"),
        (keras_meta.GradientDescent, "clip_norm"),
        (keras_meta.GradientDescent, "clip_value"),
        (keras_meta.Momentum, "momentum"),
        (keras_meta.RMSprop, "learning_rate"),
        (keras_meta.RMSprop, "rho"),
        (keras_meta.RMSprop, "epsilon"),
        (keras_meta.Adam, "beta_1"),
        (keras_meta.Adam, "epsilon"),
        (keras_meta.LearnedHyperparameters, "learning_rate"),
        (keras_meta.LearnedHyperparameters, "momentum"),
        (keras_meta.LearnedHyperparameters, "weight_decay"),
        (keras_meta.CoordinatewiseLSTM, "output_scale"),
        (keras_meta.CoordinatewiseLSTM, "preprocessing"),
        (keras_meta.MetaLearnerLSTM, "preprocessing"),
        (keras_meta.HierarchicalRNN, "initial_rate"),
        (lambda **rate: keras_meta.MetaSGD(mlp(), **rate), "learning_rate"),
        (lambda **rate: keras_meta.MAML(mlp(), **rate), "update_rule"),
        (lambda **rate: keras_meta.Reptile(mlp(), **rate), "update_rule"),
    ],
)
def test_what_is_not_finite(make, name, value):
    with refuses(ValueError, f"`{name}` must be.*Received: {name}="):
        make(**{name: value})


@pytest.mark.parametrize("rate", [lambda: 0.1, "rate", [0.1]])
def test_a_learned_rate_from_what_is_no_initializer(rate):
    with refuses(ValueError, "`learning_rate` must be a number or a Keras ini"):
        keras_meta.MetaSGD(mlp(), rate)


def test_a_learned_rate_that_begins_at_nan():
    rate = keras.initializers.Constant(float("nan"))
    with refuses(ValueError, "`learning_rate` must be finite. Received: nan"):
        keras_meta.MetaSGD(mlp(), rate)
