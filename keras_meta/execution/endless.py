"""Checks of the data given to Keras's `fit`, `evaluate` and `predict`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from collections.abc import Mapping

import tensorflow as tf

from keras_meta.learners.tasks.tensors import check_arrays

# Names of data arguments, and of the arguments that limit how much is read.
_STEPS_OF_TRAINING = {
    "x": "steps_per_epoch",
    "validation_data": "validation_steps",
}
_STEPS_OF_EVALUATION = {"x": "steps"}


def refuses_endless(method: Callable) -> Callable:
    """Makes Keras's `fit`, `evaluate` or `predict` refuse endless data.

    Data sets of episodes are endless by default, and Keras would read them
    until it is stopped. In addition, `fit` only warns that it cannot shuffle a
    data set if the user passed `shuffle`, and unusable arrays are refused by
    name.

    Args:
        method: The method of `keras.Model`.

    Returns:
        The method. It raises a `ValueError` if a `tf.data.Dataset` is known
        to be infinite and the number of batches is not limited.
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
                    f"`{data}` has no end, so {method.__name__} would never "
                    "return. Received: a data set of infinite size and "
                    f"{steps}=None. Pass `{steps}=`, or limit the data set "
                    "with its source's `num_batches=` or with `.take(...)`."
                )
        if is_fit and _is_silent_on_order(given):
            kwargs["shuffle"] = False
        return method(self, *args, **kwargs)

    return checked


def _is_silent_on_order(given: Mapping[str, object]) -> bool:
    """Returns whether `fit` received a data set but no `shuffle`.

    Keras then assumes `shuffle=True`, and warns that it has no effect.
    """
    return isinstance(given.get("x"), tf.data.Dataset) and (
        "shuffle" not in given
    )


def _is_endless(data: object) -> bool:
    if not isinstance(data, tf.data.Dataset):
        return False
    return bool(data.cardinality() == tf.data.INFINITE_CARDINALITY)
