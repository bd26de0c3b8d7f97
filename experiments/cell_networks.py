"""Convolutional networks of cells, whose operations are chosen."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import keras
import numpy as np

import keras_meta

NONE = "none"
OPERATIONS = (NONE, "skip", "avg_pool_3", "conv_3", "sep_conv_3")
_CLASSES = 10
_KEPT_EDGES = 2


def network(size: int, channels: int, nodes: int, cells: int) -> keras.Model:
    """Returns a network whose cells have mixed operations.

    A node of a cell is the sum of operations on all nodes before it, the
    cell's input included. The output of a cell is the concatenation of its
    nodes, and average pooling halves the images before each cell and before
    the last layer. All cells share their choices.

    Args:
        size: Height and width of the images.
        channels: Channels of each node.
        nodes: Nodes of a cell besides its input.
        cells: Number of cells.
    """
    logits = {
        edge: keras_meta.Hyperparameter(
            np.zeros([len(OPERATIONS)]), name=_name(edge)
        )
        for edge in edges(nodes)
    }
    inputs = x = keras.Input([size, size, 1])
    x = _normalized(_convolution(3, channels)(x))
    for cell in range(cells):
        x = keras.layers.ReLU()(keras.layers.AveragePooling2D(2)(x))
        found = [_normalized(_convolution(1, channels)(x))]
        for node in range(nodes):
            arriving = [
                keras_meta.MixedOperation(
                    _candidates(channels),
                    logits[before, node],
                    name=f"cell_{cell}_{_name((before, node))}",
                )(found[before])
                for before in range(node + 1)
            ]
            found.append(keras.layers.Add()(arriving) if node else arriving[0])
        x = keras.layers.Concatenate()(found[1:]) if nodes > 1 else found[1]
    x = keras.layers.AveragePooling2D(2)(keras.layers.ReLU()(x))
    x = keras.layers.Dense(_CLASSES)(keras.layers.Flatten()(x))
    return keras.Model(inputs, x)


def edges(nodes: int) -> list[tuple[int, int]]:
    """Returns the edges of a cell, from node `i` (0 is the input) to `j + 1`.

    Args:
        nodes: Nodes of a cell besides its input.
    """
    return [(i, j) for j in range(nodes) for i in range(j + 1)]


def shares_of(model: keras.Model, nodes: int) -> dict[str, dict[str, float]]:
    """Returns the shares of the operations on each edge."""
    return {
        _name(edge): model.get_layer(f"cell_0_{_name(edge)}").shares
        for edge in edges(nodes)
    }


def strongest(
    shares: Mapping[str, Mapping[str, float]], nodes: int
) -> dict[str, str]:
    """Returns the architecture that the authors of DARTS derive.

    Each node keeps the two edges whose strongest operation, other than none,
    has the largest share.

    Args:
        shares: See `shares_of`.
        nodes: Nodes of a cell besides its input.

    Returns:
        The operation on each edge.
    """
    chosen = {name: NONE for name in map(_name, edges(nodes))}
    for node in range(nodes):
        best = {}
        for edge in _arriving(node):
            found = {k: v for k, v in shares[edge].items() if k != NONE}
            best[edge] = max(found, key=found.get)
        kept = sorted(best, key=lambda edge: -shares[edge][best[edge]])
        chosen |= {edge: best[edge] for edge in kept[:_KEPT_EDGES]}
    return chosen


def random(nodes: int, rng: np.random.Generator) -> dict[str, str]:
    """Returns a random architecture of those that `strongest` may return.

    Args:
        nodes: Nodes of a cell besides its input.
        rng: Draws it.
    """
    chosen = {name: NONE for name in map(_name, edges(nodes))}
    for node in range(nodes):
        arriving = rng.permutation(_arriving(node))[:_KEPT_EDGES]
        for edge in arriving.tolist():
            chosen[edge] = str(rng.choice(OPERATIONS[1:]))
    return chosen


def derive(
    model: keras.Model, chosen: Mapping[str, str], cells: int
) -> keras.Model:
    """Returns a network of an architecture, with new weights.

    Args:
        model: What `network` returns.
        chosen: The operation on each edge.
        cells: Number of its cells.
    """
    return keras_meta.derive(
        model,
        {
            f"cell_{cell}_{edge}": operation
            for cell, (edge, operation) in itertools.product(
                range(cells), chosen.items()
            )
        },
    )


def _arriving(node: int) -> list[str]:
    return [_name((before, node)) for before in range(node + 1)]


def _name(edge: tuple[int, int]) -> str:
    return f"edge_{edge[0]}_{edge[1] + 1}"


def _candidates(channels: int) -> list[keras.Layer]:
    layers = keras.layers
    return [
        keras_meta.Zero(name=NONE),
        layers.Identity(name="skip"),
        keras.Sequential(
            [layers.AveragePooling2D(3, 1, "same"), _normalization()],
            name="avg_pool_3",
        ),
        keras.Sequential(
            [layers.ReLU(), _convolution(3, channels), _normalization()],
            name="conv_3",
        ),
        keras.Sequential(
            [
                layers.ReLU(),
                layers.SeparableConv2D(
                    channels,
                    3,
                    padding="same",
                    use_bias=False,
                    depthwise_regularizer=_decay(),
                    pointwise_regularizer=_decay(),
                ),
                _normalization(),
            ],
            name="sep_conv_3",
        ),
    ]


def _convolution(width: int, channels: int) -> keras.Layer:
    return keras.layers.Conv2D(
        channels,
        width,
        padding="same",
        use_bias=False,
        kernel_regularizer=_decay(),
    )


def _normalized(x: keras.KerasTensor) -> keras.KerasTensor:
    return _normalization()(x)


def _normalization() -> keras.Layer:
    # Without scale, no operation can make up for a small share of its own.
    return keras.layers.BatchNormalization(
        momentum=0.9, scale=False, center=False
    )


def _decay() -> keras.regularizers.Regularizer:
    # Half of the authors' weight decay: the derivative of a square has a 2.
    return keras.regularizers.L2(1.5e-4)
