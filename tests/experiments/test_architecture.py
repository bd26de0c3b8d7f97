"""The experiment on architecture search."""

import json

import keras
import numpy as np
import pytest

import keras_meta
from experiments import architecture_run
from experiments import cell_networks
from tests import data_sets


def shares(**of_operations):
    """Shares of an edge, those not named being small."""
    return {
        name: of_operations.get(name, 0.01) for name in cell_networks.OPERATIONS
    }


def test_two_edges_of_a_node_are_kept():
    found = {
        "edge_0_1": shares(none=0.9, skip=0.05),
        "edge_0_2": shares(conv_3=0.3),
        "edge_1_2": shares(sep_conv_3=0.2),
        "edge_0_3": shares(none=0.9, conv_3=0.1),
        "edge_1_3": shares(avg_pool_3=0.4, conv_3=0.3),
        "edge_2_3": shares(skip=0.2),
    }
    assert cell_networks.strongest(found, 3) == {
        "edge_0_1": "skip",
        "edge_0_2": "conv_3",
        "edge_1_2": "sep_conv_3",
        "edge_0_3": "none",
        "edge_1_3": "avg_pool_3",
        "edge_2_3": "skip",
    }


def test_random_architectures_are_of_the_same_kind():
    rng = np.random.default_rng(0)
    drawn = [cell_networks.random(3, rng) for _ in range(20)]
    for chosen in drawn:
        for node, kept in ((1, 1), (2, 2), (3, 2)):
            arriving = [v for k, v in chosen.items() if k.endswith(f"_{node}")]
            assert len(arriving) == node
            assert sum(v != "none" for v in arriving) == kept
    operations = {v for chosen in drawn for v in chosen.values()}
    assert operations == {*cell_networks.OPERATIONS}


def test_networks_are_of_their_architecture():
    network = cell_networks.network(8, 2, nodes=2, cells=2)
    search = keras_meta.ArchitectureSearch(network, 0.1)
    assert len(search.choices) == 3
    chosen = {"edge_0_1": "conv_3", "edge_0_2": "skip", "edge_1_2": "none"}
    derived = cell_networks.derive(network, chosen, 2)
    names = {layer.name for layer in derived.layers if "edge" in layer.name}
    assert names == {
        f"cell_{cell}_{edge}_{operation}"
        for cell in range(2)
        for edge, operation in chosen.items()
    }


def test_pixels_are_averaged():
    images = np.random.default_rng(0).integers(0, 256, [3, 28, 28, 1])
    small = architecture_run.shrunk(images.astype("uint8"), 14)
    expected = keras.layers.AveragePooling2D(2)(images.astype("float32") / 255)
    np.testing.assert_allclose(small, expected, rtol=1e-5)


def test_parts_share_no_example():
    parts = architecture_run.drawn_parts(12, 4, seed=0)
    assert sorted(np.concatenate(parts)) == [*range(12)]
    with pytest.raises(ValueError, match="12 images. Pass --search_examples=4"):
        architecture_run.drawn_parts(12, 5, seed=0)


def test_the_best_random_network_is_not_chosen_by_the_test():
    networks = {
        name: {"selection_accuracy": selection, "test_accuracy": test}
        for name, selection, test in (
            ("second", 50.0, 80.0),
            ("first", 50.0, 81.0),
            ("random_0", 70.0, 60.0),
            ("random_1", 60.0, 90.0),
        )
    }
    assert architecture_run.table([{"networks": networks}] * 2) == {
        "derived, second order": [80.0, 80.0],
        "derived, first order": [81.0, 81.0],
        "best random": [60.0, 60.0],
        "mean random": [75.0, 75.0],
    }


@pytest.mark.slow
@pytest.mark.skipif(
    bool(data_sets.missing("fashion_mnist")),
    reason="TFDS_DATA_DIR lacks fashion_mnist",
)
def test_a_search_is_continued(run_binary, tmp_path):
    command = (
        "bilevel",
        "--task=architecture",
        "--search_examples=640",
        "--search_epochs=1",
        "--network_epochs=1",
        "--channels=2",
        "--nodes=1",
        "--random=1",
        "--seeds=1",
        f"--output={tmp_path}",
    )
    first = run_binary(*command)
    assert "Seed 0, search_second" in first
    record = (tmp_path / "results.json").read_bytes()
    measured = json.loads(record)["measurements"]
    assert len(measured["test_accuracy"]) == 4
    assert (tmp_path / "architecture.png").stat().st_size > 1000
    lost = tmp_path / "parts" / "seed_0_network_random_0.json"
    lost.unlink()
    again = run_binary(*command)
    assert again.count("Seed 0") == 1
    assert lost.exists()
    tables = [text[text.index("\narchitecture ") :] for text in (first, again)]
    assert tables[0] == tables[1]
