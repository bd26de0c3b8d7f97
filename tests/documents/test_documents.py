"""What README, BUILD and RESULTS say is there, and the recipes run."""

import importlib.util
import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf

from tests import data_sets

ROOT = pathlib.Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
# What a newcomer does first. The other recipes are slow.
FIRST_RECIPES = (
    "Your own arrays",
    "Evaluate, with intervals",
    "Adapt to one task",
    "A folder of images",
    "Export and serve",
)


def section(title):
    return re.search(rf"^### {title}\n(.*?)(?=^##)", README, re.M | re.S)[1]


def blocks(language, text=README):
    found = re.finditer(rf"^```{language}\n(.*?)^```", text, re.M | re.S)
    return [block[1] for block in found]


def run_recipes(kinds, text=README):
    namespace = {"__name__": "recipes"}
    for i, code in enumerate(blocks(kinds, text)):
        exec(compile(code, f"<README {i}>", "exec"), namespace)
    return namespace


@pytest.mark.parametrize(
    "name", ["README.md", "BUILD.md", "experiments/RESULTS.md"]
)
def test_documents_name_what_exists(name):
    path = ROOT / name
    text = path.read_text("utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert [x for x in links if not (path.parent / x).exists()] == []
    modules = re.findall(r"-m (experiments\.[\w.]*\w)", text)
    assert modules
    assert [x for x in modules if importlib.util.find_spec(x) is None] == []


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """A folder to work in, with pictures of birds."""
    rng = np.random.default_rng(0)
    for species in range(9):
        pictures = tmp_path / "birds" / f"species{species}"
        pictures.mkdir(parents=True)
        for i in range(6):
            picture = rng.integers(0, 256, (32, 30, 3), "uint8")
            png = tf.io.encode_png(picture).numpy()
            (pictures / f"{i}.png").write_bytes(png)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_the_first_recipes_run(folder):
    recipes = "".join(map(section, FIRST_RECIPES))
    # The same code with less training.
    assert "epochs=3" in recipes
    run_recipes("python", recipes.replace("epochs=3", "epochs=1"))
    assert (folder / "served" / "saved_model.pb").exists()


@pytest.mark.slow
def test_the_recipes_of_training_run():
    names = (
        "Tune a model by gradient",
        "Which labels are wrong",
        "Choose the operations of a network",
    )
    run = run_recipes("python", "".join(map(section, names)))
    assert sorted(run["tuner"].hyperparameters) == ["decay_0", "decay_1"]
    # One in four labels is wrong.
    assert np.isin(run["suspects"], run["wrong"]).mean() >= 0.8
    (chosen,) = run["search"].architecture.values()
    names = [layer.name for layer in run["derived"].layers]
    assert f"choice_{chosen}" in names


@pytest.mark.slow
def test_the_recipe_of_baselines_runs():
    names = ("Your own arrays", "Was meta-learning worth it\\?")
    run = run_recipes("python", "".join(map(section, names)))
    accuracies = {k: x.mean for k, x in run["accuracies"].items()}
    # Some pixels are noisier than others, which a trained network knows.
    assert accuracies["logistic"] > accuracies["pixels"] > 0.25


@pytest.mark.slow
def test_recipes_run(folder):
    missing = data_sets.missing("cifar100", "fashion_mnist", "omniglot")
    run = run_recipes("python" if missing else "python(?: tfds)?")
    assert (folder / "served" / "saved_model.pb").exists()
    if missing:
        pytest.skip(f"ran those without data; TFDS_DATA_DIR lacks {missing}")
    x, y = next(iter(run["cifar_train"]))
    assert x["support_x"].shape == (4, 5, 32, 32, 3)
    assert y.shape == (4, 75)
    assert run["classifier"].get_metrics_result()["accuracy"] > 0.7
