"""Meta-learners in folders; tests/optimizers has the checks of the files."""

import json
import pathlib

import keras
import numpy as np
import pytest

import keras_meta
from keras_meta import durable_files
from keras_meta.learners import presets

from .helpers import WAYS
from .helpers import classification
from .helpers import compiled
from .helpers import crossentropy
from .helpers import normalized_mlp

SHIPPED = pathlib.Path(presets.__file__).parent / "presets"
LEARNERS = {
    "meta_sgd": lambda: keras_meta.MetaSGD(
        normalized_mlp(WAYS), steps=2, seed=0
    ),
    "matching": lambda: keras_meta.MatchingNetwork(normalized_mlp(WAYS), WAYS),
}


def _trained(name):
    keras.utils.set_random_seed(0)
    learner = compiled(LEARNERS[name](), loss=crossentropy())
    rng = np.random.default_rng(0)
    learner.set_weights(
        [w + rng.uniform(0, 0.1, w.shape) for w in learner.get_weights()]
    )
    return learner


@pytest.mark.parametrize("name", LEARNERS)
def test_a_preset_predicts_like_the_learner_that_was_saved(name, tmp_path):
    learner = _trained(name)
    learner.save_to_preset(tmp_path)
    twin = type(learner).from_preset(str(tmp_path))
    assert twin.compiled
    x, _ = classification(tasks=2)
    np.testing.assert_array_equal(twin(x), learner(x))


def test_a_learner_of_another_class_is_refused(tmp_path):
    _trained("matching").save_to_preset(tmp_path)
    with pytest.raises(
        ValueError, match="must hold a MAML.*holds a keras_meta>MatchingNet"
    ):
        keras_meta.MAML.from_preset(tmp_path)
    assert keras_meta.MetaLearner.from_preset(tmp_path).ways == WAYS


def test_a_class_that_keras_does_not_know_is_refused(tmp_path):
    class Unknown(keras_meta.MatchingNetwork):
        pass

    learner = Unknown(normalized_mlp(WAYS), WAYS)
    with pytest.raises(ValueError, match="registered with Keras.*Unknown"):
        learner.save_to_preset(tmp_path)
    assert not list(tmp_path.iterdir())


def _rewrite(folder, change):
    record = durable_files.read_json(folder / "learner.json", "")
    change(record)
    durable_files.write_json(folder / "learner.json", record)


def test_weights_of_another_learner_are_refused(tmp_path):
    _trained("matching").save_to_preset(tmp_path)
    other = tmp_path / "other"
    keras_meta.MatchingNetwork(
        normalized_mlp(WAYS), WAYS, context_steps=1
    ).save_to_preset(other)
    record = json.loads((other / "learner.json").read_text())
    _rewrite(tmp_path, lambda x: x.update(config=record["config"]))
    with pytest.raises(ValueError, match="holds weights of shapes"):
        keras_meta.MatchingNetwork.from_preset(tmp_path)


def test_a_description_that_makes_no_learner_is_refused(tmp_path):
    _trained("matching").save_to_preset(tmp_path)
    _rewrite(tmp_path, lambda x: x["config"].update(ways=1))
    with pytest.raises(ValueError, match=r"learner\.json does not describe"):
        keras_meta.MatchingNetwork.from_preset(tmp_path)


@pytest.mark.parametrize("name", ["learner.json", "weights.npz"])
def test_damage_is_noticed(name, tmp_path):
    _trained("matching").save_to_preset(tmp_path)
    path = tmp_path / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        durable_files.DamagedFile,
        match=f"{path} is damaged.*Save the learner again",
    ):
        keras_meta.MatchingNetwork.from_preset(tmp_path)


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    learner = _trained("matching")
    learner.save_to_preset(tmp_path)
    learner.set_weights([w * np.nan for w in learner.get_weights()])
    with pytest.raises(ValueError, match="must be finite"):
        learner.save_to_preset(tmp_path)
    keras_meta.MatchingNetwork.from_preset(tmp_path)


def test_an_unknown_preset_is_refused_with_a_list_of_presets():
    with pytest.raises(ValueError, match="`preset` must be one of .*'none'"):
        keras_meta.MAML.from_preset("none")


@pytest.mark.parametrize("name", keras_meta.MetaLearner.preset_names())
def test_a_shipped_preset_has_a_card_and_adapts(name):
    card = (SHIPPED / name / "card.md").read_text()
    for heading in ("Trained on", "Command", "Accuracy", "Limits", "Licence"):
        assert f"## {heading}" in card
    size = sum(f.stat().st_size for f in (SHIPPED / name).iterdir())
    assert size < 500_000
    learner = keras_meta.MetaLearner.from_preset(name)
    is_maml = isinstance(learner, keras_meta.MAML)
    reader = learner.model if is_maml else learner.encoder
    rng = np.random.default_rng(0)
    # Five crosses.
    images = np.zeros([5, *reader.input_shape[1:]])
    for label, (row, column) in enumerate(rng.integers(3, 24, [5, 2])):
        images[label, row : row + 3] = images[label, :, column : column + 3] = 1
    labels = np.arange(5)
    adapted = learner.adapt(images, labels)
    np.testing.assert_array_equal(adapted(images).numpy().argmax(-1), labels)


def test_presets_are_part_of_the_package():
    assert keras_meta.MetaLearner.preset_names() == [
        "land_cover",
        "omniglot_5way",
    ]
    assert keras_meta.PrototypicalNetwork.preset_names() == ["land_cover"]
    assert keras_meta.MAML.preset_names() == ["omniglot_5way"]
