import keras
import pytest

from keras_meta.learners.adaptation.selection import select_adapted

layers = keras.layers


def net():
    return keras.Sequential(
        [
            keras.Input([6, 6, 2]),
            layers.Conv2D(3, 3, name="convolution"),
            layers.BatchNormalization(name="batch"),
            layers.GroupNormalization(3, name="group"),
            layers.LayerNormalization(name="layer"),
            layers.RMSNormalization(name="root"),
            layers.Flatten(name="flat"),
            layers.Dense(4, name="hidden"),
            layers.Dense(2, name="head"),
            layers.Softmax(name="softmax"),
        ]
    )


def names(variables):
    return ["/".join(v.path.split("/")[-2:]) for v in variables]


HEAD = ["head/kernel", "head/bias"]
NORMS = [
    "batch/gamma",
    "batch/beta",
    "group/gamma",
    "group/beta",
    "layer/gamma",
    "layer/beta",
    "root/scale",
]


def test_all_selects_every_trainable_weight():
    model = net()
    chosen = select_adapted(model, "all")
    assert [id(v) for v in chosen] == [id(v) for v in model.trainable_variables]


def test_head_selects_the_last_layer_with_weights():
    assert names(select_adapted(net(), "head")) == HEAD


def test_head_of_a_nested_model_is_its_last_layer():
    model = keras.Sequential([keras.Input([6, 6, 2]), net()])
    assert names(select_adapted(model, "head")) == HEAD


def test_head_skips_frozen_layers():
    model = net()
    model.get_layer("head").trainable = False
    chosen = names(select_adapted(model, "head"))
    assert chosen == ["hidden/kernel", "hidden/bias"]


def test_head_may_be_a_whole_recurrent_layer():
    model = keras.Sequential([keras.Input([3, 2]), layers.Dense(2)])
    model.add(layers.GRU(2))
    chosen = select_adapted(model, "head")
    assert [v.name for v in chosen] == ["kernel", "recurrent_kernel", "bias"]


def test_normalization_selects_the_weights_of_all_four_kinds():
    assert names(select_adapted(net(), "normalization")) == NORMS


def test_normalization_inside_of_a_nested_model_is_selected():
    model = keras.Sequential([keras.Input([6, 6, 2]), net(), layers.Dense(1)])
    assert names(select_adapted(model, "normalization")) == NORMS


def test_layers_and_names_may_be_mixed_and_keep_the_model_order():
    model = net()
    chosen = select_adapted(model, ["head", model.get_layer("batch")])
    assert names(chosen) == [*NORMS[:2], *HEAD]
    assert names(select_adapted(model, ("head",))) == HEAD


def test_a_nested_model_may_be_named():
    inner = keras.Sequential(
        [keras.Input([6]), layers.Dense(4, name="inside")], name="body"
    )
    model = keras.Sequential([keras.Input([6]), inner, layers.Dense(2)])
    for adapt in (["body"], [inner], ["inside"]):
        chosen = names(select_adapted(model, adapt))
        assert chosen == ["inside/kernel", "inside/bias"]


def test_a_predicate_selects_single_variables():
    chosen = select_adapted(net(), lambda v: v.name == "bias")
    assert names(chosen) == ["convolution/bias", "hidden/bias", "head/bias"]


def test_frozen_weights_are_never_selected():
    model = net()
    model.get_layer("batch").trainable = False
    assert names(select_adapted(model, "normalization")) == NORMS[2:]
    assert "batch/gamma" not in names(select_adapted(model, "all"))


@pytest.mark.parametrize("adapt", ["heads", "", 3, None, {"head"}])
def test_unknown_choices_are_refused(adapt):
    with pytest.raises(ValueError, match="`adapt` must be 'all', 'head'"):
        select_adapted(net(), adapt)


def test_unknown_layers_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'tail'.*'convolution'.*'softmax'"):
        select_adapted(net(), ["head", "tail"])
    stranger = layers.Dense(2, name="stranger")
    with pytest.raises(ValueError, match="does not have"):
        select_adapted(net(), [stranger])


@pytest.mark.parametrize("adapt", [["softmax"], [], lambda v: False])
def test_empty_selections_are_refused(adapt):
    with pytest.raises(ValueError, match="selects no trainable weight"):
        select_adapted(net(), adapt)


def test_models_without_trainable_weights_are_refused():
    model = net()
    model.trainable = False
    with pytest.raises(ValueError, match="Set `trainable = True`"):
        select_adapted(model, "all")
