"""The private names of Keras in use, checked with Keras 3.15.1."""

from __future__ import annotations

import functools
from collections.abc import Callable


def raises_as_is(call: Callable) -> Callable:
    """Makes Keras pass on errors of a layer's `call` as they were raised.

    Keras puts what its message calls "Arguments received" around an error,
    once, and marks it. What a layer within raised is marked already, so it
    still names that layer.

    Args:
        call: The method of a layer.

    Returns:
        The method, whose errors are marked.
    """

    @functools.wraps(call)
    def marked(*args, **kwargs):
        try:
            return call(*args, **kwargs)
        except Exception as error:
            error._keras_call_info_injected = True
            raise

    return marked
