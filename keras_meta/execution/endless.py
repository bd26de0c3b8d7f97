"""What `fit`, `evaluate` and `predict` of Keras do with what they are given."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from collections.abc import Mapping

import tensorflow as tf

from keras_meta.learners.tensors import check_arrays

# What says how much to read of an argument, by its name.
_STEPS_OF_TRAINING = {
    "x": "steps_per_epoch",
    "validation_data": "validation_steps",
}
_STEPS_OF_EVALUATION = {"x": "steps"}


def refuses_endless(method: Callable) -> Callable:
    """Makes `fit`, `evaluate` or `predict` of Keras refuse endless data.

    Episodes have no end by default, and Keras would read them until stopped.
    `fit` does not warn that it leaves a data set in its order either, unless
    somebody asked for `shuffle`. Arrays that nothing can be learned from are
    refused by their name.

    Args:
        method: The method of `keras.Model`.

    Returns:
        The method, which raises a `ValueError` if a `tf.data.Dataset` is
        known to be infinite and nothing says how many batches to take.
    """
    signature = inspect.signature(method)
    is_fit = "validation_data" in signature.parameters
    limits = _STEPS_OF_TRAINING if is_fit else _STEPS_OF_EVALUATION

    @functools.wraps(method)
    def checked(self, *args, **kwargs):
        given = signature.bind(self, *args, **kwargs).arguments
        check_arrays(*(given.get(k) for k in ("x", "y", "sample_weight")))
        validation = given.get("validation_data")
        if isinstance(validation, (list, tuple)):
            check_arrays(*validation)
        for data, steps in limits.items():
            if given.get(steps) is None and _is_endless(given.get(data)):
                raise ValueError(
                    f"`{data}` has no end, so {method.__name__} would not "
                    f"end either. Received: a data set of infinite size and "
                    f"{steps}=None. Pass `{steps}=`, or give the data set an "
                    "end: `num_batches=` of its source, or `.take(...)`."
                )
        if is_fit and _is_silent_on_order(given):
            kwargs["shuffle"] = False
        return method(self, *args, **kwargs)

    return checked


def _is_silent_on_order(given: Mapping[str, object]) -> bool:
    """Returns whether `fit` got a data set and no `shuffle`.

    Keras takes `shuffle=True` for given then, and warns that it has no effect.
    """
    return isinstance(given.get("x"), tf.data.Dataset) and (
        "shuffle" not in given
    )


def _is_endless(data: object) -> bool:
    if not isinstance(data, tf.data.Dataset):
        return False
    return bool(data.cardinality() == tf.data.INFINITE_CARDINALITY)
