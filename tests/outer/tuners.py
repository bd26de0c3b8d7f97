"""Small models whose training depends on hyperparameters."""

from __future__ import annotations

import keras
import numpy as np

import keras_meta


def linear_data(n=12, d=3, noise=0.5, seed=0):
    """Returns `(x, y)` of a linear regression."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=[n, d])
    y = x @ np.arange(1.0, d + 1)[:, None] + noise * rng.normal(size=[n, 1])
    return x, y


def linear_model(d=3, regularizer=None, weights=None):
    """Returns a linear model without bias."""
    dense = keras.layers.Dense(
        1, use_bias=False, kernel_regularizer=regularizer
    )
    model = keras.Sequential([keras.Input([d]), dense])
    if weights is not None:
        model.set_weights([weights])
    return model


def tuner_of(model, rule=0.05, steps=1, loss="mse", rate=1.0, **options):
    """Returns a learner whose outer step subtracts the gradient.

    Args:
        model: What it trains.
        rule: The update rule.
        steps: Inner steps.
        loss: The loss.
        rate: Times this.
        **options: Further arguments of the learner.
    """
    tuner = keras_meta.HyperparameterLearner(model, rule, steps, **options)
    tuner.compile(keras.optimizers.SGD(rate), loss, run_eagerly=True)
    return tuner


def fit(tuner, data, validation, batch_size=100, steps=1, **options):
    """Takes meta-steps, on all examples; returns the logs of the last.

    Only with `validation_freq=1` they hold what all validation data say.
    """
    options.setdefault("validation_freq", 1000)
    history = tuner.fit(
        *data,
        batch_size=batch_size,
        validation_data=validation,
        steps_per_epoch=steps,
        verbose=0,
        **options,
    )
    return {k: v[-1] for k, v in history.history.items()}


def gradients(tuner, data, validation, **options):
    """Returns the gradients by what is learned, of one meta-step."""
    before = [v.numpy() for v in tuner.trainable_variables]
    fit(tuner, data, validation, **options)
    after = [v.numpy() for v in tuner.trainable_variables]
    return [b - a for b, a in zip(before, after, strict=True)]
