"""Architecture search on Fashion-MNIST, against random architectures."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
import tensorflow_datasets as tfds

import keras_meta
from experiments import cell_networks
from experiments import run_folder
from keras_meta import durable_files

ORDERS = ("second", "first")
_IMAGE = 28


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that a run depends on.

    Attributes:
        size: Height and width that images are shrunk to, a divisor of 28.
        channels: Channels of a node.
        nodes: Nodes of a cell besides its input.
        cells: Number of cells.
        examples: Examples that the weights of the search learn from, as many
            for the architecture, and as many to choose among trained
            networks.
        batch_size: Examples of a step.
        search_epochs: Epochs of a search.
        search_rate: Rate of the weights in a search.
        architecture_rate: Rate of Adam for the architecture.
        epochs: Epochs of the training of a derived or random network.
        rate: The first rate of such a training, which decays to 0.
        random: Random architectures of a seed.
        seeds: Repetitions, each with other examples, searches and weights.
    """

    size: int
    channels: int
    nodes: int
    cells: int
    examples: int
    batch_size: int
    search_epochs: int
    search_rate: float
    architecture_rate: float
    epochs: int
    rate: float
    random: int
    seeds: int


class Data(NamedTuple):
    """Images, `[n, size, size, 1]` of floats in [0, 1], and their classes.

    Attributes:
        training: What the weights of a search learn from.
        validation: What its architecture learns from.
        selection: What chooses among trained networks.
        test: What nothing learns from.
    """

    training: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]
    selection: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


def load(settings: Settings, seed: int, data_dir: str | None) -> Data:
    """Reads Fashion-MNIST and draws examples from its training images.

    Args:
        settings: The settings.
        seed: Number of the repetition.
        data_dir: Folder of the prepared data sets.
    """
    (x, y), (test_x, test_y) = (
        tfds.as_numpy(
            tfds.load(
                "fashion_mnist",
                split=split,
                data_dir=data_dir,
                batch_size=-1,
                as_supervised=True,
            )
        )
        for split in ("train", "test")
    )
    parts = drawn_parts(len(x), settings.examples, seed)
    return Data(
        *((shrunk(x[part], settings.size), y[part]) for part in parts),
        (shrunk(test_x, settings.size), test_y),
    )


def drawn_parts(images: int, examples: int, seed: int) -> list[np.ndarray]:
    """Returns the numbers of the examples of three parts.

    Args:
        images: Number of training images.
        examples: Examples of a part.
        seed: Seed of the draw.

    Raises:
        ValueError: If there are not enough images.
    """
    if 3 * examples > images:
        raise ValueError(
            f"The search needs 3 x {examples} training images: for weights, "
            "for the architecture, and to choose among networks. Received: "
            f"{images} images. Pass --search_examples={images // 3} or less."
        )
    chosen = np.random.default_rng(seed).permutation(images)
    return np.split(chosen[: 3 * examples], 3)


def shrunk(images: np.ndarray, size: int) -> np.ndarray:
    """Averages over squares of pixels.

    Args:
        images: `[n, 28, 28, 1]` of bytes.
        size: Height and width of the result.
    """
    factor = _IMAGE // size
    squares = images.reshape([-1, size, factor, size, factor, 1])
    return squares.mean(axis=(2, 4)).astype("float32") / 255


def run(
    settings: Settings,
    folder: pathlib.Path,
    load_data: Callable[[int], Data],
    report: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Searches, and trains what is derived and random architectures.

    What was finished before is read from files.

    Args:
        settings: The settings.
        folder: Folder of the files.
        load_data: Returns the examples of a repetition.
        report: Called with a line about each part.

    Returns:
        What each repetition measured.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _repetition(
            settings,
            load_data(seed),
            seed,
            _Parts(settings, folder, seed, report),
        )
        for seed in range(settings.seeds)
    ]


def _repetition(
    settings: Settings, data: Data, seed: int, part: _Parts
) -> dict[str, Any]:
    searches = {
        order: part(
            f"search_{order}",
            functools.partial(search, data, settings, seed, order),
        )
        for order in ORDERS
    }
    rng = np.random.default_rng([seed, 1])
    architectures = {
        **{order: searches[order]["architecture"] for order in ORDERS},
        **{
            f"random_{i}": cell_networks.random(settings.nodes, rng)
            for i in range(settings.random)
        },
    }
    networks = {
        name: part(
            f"network_{name}",
            functools.partial(train, data, settings, seed, chosen),
        )
        for name, chosen in architectures.items()
    }
    return {"searches": searches, "networks": networks}


@dataclasses.dataclass(frozen=True)
class _Parts:
    """Computes the parts of a repetition, or reads what is finished."""

    settings: Settings
    folder: pathlib.Path
    seed: int
    report: Callable[[str], None]

    def __call__(
        self, name: str, compute: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        path = self.folder / f"seed_{self.seed}_{name}.json"
        found = run_folder.read_json(path, "this part is computed again")
        if found is not None:
            run_folder.check_settings(
                path,
                found["settings"],
                self.settings,
                run_folder.start_afresh(self.folder.parent),
            )
            return found["measured"]
        start = time.process_time()
        measured = compute()
        measured["cpu_seconds"] = round(time.process_time() - start, 1)
        durable_files.write_json(
            path,
            {
                "settings": run_folder.as_json(self.settings),
                "measured": measured,
            },
        )
        self.report(
            f"Seed {self.seed}, {name}: {measured['cpu_seconds']:.0f} s of "
            f"CPU. {measured['summary']}"
        )
        return measured


def search(
    data: Data, settings: Settings, seed: int, order: str
) -> dict[str, Any]:
    """Searches an architecture.

    Args:
        data: The examples.
        settings: The settings.
        seed: Number of the repetition.
        order: One of `ORDERS`, that of the derivative.
    """
    keras.utils.set_random_seed(seed)
    model = _network(settings)
    learner = keras_meta.ArchitectureSearch(
        model,
        keras_meta.Momentum(settings.search_rate, momentum=0.9, clip_norm=5.0),
        virtual_rate=None if order == "second" else 0.0,
        seed=seed,
    )
    learner.compile(
        keras.optimizers.Adam(
            settings.architecture_rate, 0.5, 0.999, weight_decay=1e-3
        ),
        _loss(),
        metrics=["accuracy"],
    )
    shares = [cell_networks.shares_of(model, settings.nodes)]
    history = learner.fit(
        *data.training,
        batch_size=settings.batch_size,
        epochs=settings.search_epochs,
        validation_data=data.validation,
        callbacks=[
            keras.callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs: shares.append(
                    cell_networks.shares_of(model, settings.nodes)
                )
            )
        ],
        verbose=0,
    ).history
    chosen = cell_networks.strongest(shares[-1], settings.nodes)
    history = {k: [*map(float, values)] for k, values in history.items()}
    return {
        "architecture": chosen,
        "shares": shares,
        "history": history,
        "summary": f"Entropy {history['entropy'][-1]:.2f}, "
        f"{history['skips'][-1]:.0f} skips: {describe(chosen)}.",
    }


def train(
    data: Data, settings: Settings, seed: int, chosen: Mapping[str, str]
) -> dict[str, Any]:
    """Trains a network on the examples of the search and tests it.

    Args:
        data: The examples.
        settings: The settings.
        seed: Number of the repetition.
        chosen: The operation on each edge.
    """
    keras.utils.set_random_seed(seed)
    model = cell_networks.derive(_network(settings), chosen, settings.cells)
    x, y = (
        np.concatenate(pair)
        for pair in zip(data.training, data.validation, strict=True)
    )
    steps = -(-len(x) // settings.batch_size) * settings.epochs
    model.compile(
        keras.optimizers.SGD(
            keras.optimizers.schedules.CosineDecay(settings.rate, steps),
            momentum=0.9,
        ),
        _loss(),
        metrics=["accuracy"],
    )
    model.fit(
        x, y, batch_size=settings.batch_size, epochs=settings.epochs, verbose=0
    )

    def accuracy(examples):
        return 100 * model.evaluate(*examples, batch_size=1000, verbose=0)[1]

    selection, test = accuracy(data.selection), accuracy(data.test)
    return {
        "architecture": dict(chosen),
        "weights": model.count_params(),
        "selection_accuracy": selection,
        "test_accuracy": test,
        "summary": f"{test:.2f} % in the test: {describe(chosen)}.",
    }


def table(measured: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Returns the test accuracies of the rows to compare, one a repetition.

    Args:
        measured: What `run` returns.
    """
    rows: dict[str, list[float]] = {}
    for repetition in measured:
        networks = repetition["networks"]
        found = {
            f"derived, {order} order": networks[order]["test_accuracy"]
            for order in ORDERS
        }
        others = random_networks(networks)
        found["best random"] = best(others)["test_accuracy"]
        found["mean random"] = float(
            np.mean([n["test_accuracy"] for n in others])
        )
        for name, value in found.items():
            rows.setdefault(name, []).append(value)
    return rows


def random_networks(
    networks: Mapping[str, Mapping[str, Any]],
) -> list[Mapping[str, Any]]:
    """Returns what was measured of the random networks of a repetition."""
    return [v for k, v in networks.items() if k not in ORDERS]


def best(networks: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Returns what was measured of the network to choose without a test."""
    return max(networks, key=lambda n: n["selection_accuracy"])


def describe(chosen: Mapping[str, str]) -> str:
    """Returns an architecture in words.

    Args:
        chosen: The operation on each edge.
    """
    return ", ".join(
        f"{edge.removeprefix('edge_')} {operation}"
        for edge, operation in chosen.items()
        if operation != cell_networks.NONE
    )


def _network(settings: Settings) -> keras.Model:
    return cell_networks.network(
        settings.size, settings.channels, settings.nodes, settings.cells
    )


def _loss() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
