"""Inner problems whose minimum and gradients are known in closed form."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from keras_meta.meta_gradients import Derivatives
from keras_meta.meta_gradients import InnerProblem


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bowls(InnerProblem):
    """`(p - a)^T A (p - a) / 2 + proximal / 2 * |p - theta|^2` for each task.

    Its data are `A`, `[tasks, d, d]`, and `a`, `[tasks, d]`. All tasks start
    at `theta`, `[d]`.
    """

    proximal: float = 0.0

    def start(self, theta, data):
        tasks = data["a"].shape[0]
        return [tf.broadcast_to(theta[0], [tasks, *theta[0].shape])], []

    def loss(
        self,
        theta,
        data,
        params,
        state,
        step,
        derivatives=Derivatives.NONE,
    ):
        gap = params[0] - data["a"]
        bowl = tf.reduce_sum(gap * tf.linalg.matvec(data["A"], gap), -1)
        losses = bowl / 2
        if self.proximal:
            pull = tf.reduce_sum(tf.square(params[0] - theta[0]), -1)
            losses += self.proximal / 2 * pull
        return losses, state


def bowls(eigenvalues, proximal=1.0, seed=0):
    """Returns a problem of two tasks, its data and a start.

    Args:
        eigenvalues: Of the matrix of each task, `[2, d]`.
        proximal: Strength of the proximal term.
        seed: Seed of the eigenvectors, the minima and the start.
    """
    rng = np.random.default_rng(seed)
    eigenvalues = np.asarray(eigenvalues, float)
    tasks, d = eigenvalues.shape
    vectors, _ = np.linalg.qr(rng.normal(size=[tasks, d, d]))
    matrices = (vectors * eigenvalues[:, None]) @ vectors.swapaxes(1, 2)
    data = {
        "A": tf.constant(matrices),
        "a": tf.constant(rng.normal(size=[tasks, d])),
    }
    theta = [tf.constant(rng.normal(size=[d]))]
    variables = [keras.Variable(tf.zeros([d], tf.float64))]
    return Bowls(variables=variables, proximal=proximal), data, theta


def minimum(problem, data, theta):
    """Returns where the inner loss of each task is least, `[tasks, d]`."""
    d = theta[0].shape[0]
    matrix = data["A"] + problem.proximal * tf.eye(d, dtype=tf.float64)
    right = tf.linalg.matvec(data["A"], data["a"])
    right += problem.proximal * theta[0]
    return tf.linalg.solve(matrix, right[..., tf.newaxis])[..., 0]
