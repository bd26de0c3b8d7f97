"""What a model's outputs look like, known before it is called on data."""

from __future__ import annotations

from typing import Any

import keras


class OutputSpecs:
    """The shapes and types of a model's outputs, computed once.

    If Keras has no graph of the model, such as of a subclassed one, it is
    traced.

    Args:
        model: A built model.
    """

    def __init__(self, model: keras.Model):
        self._model = model
        self._known: dict[str, Any] = {}

    def of(self, x: Any, axes: int) -> Any:
        """Returns nested specs, `[None, ...]` each, or `None` if unknown.

        Args:
            x: Inputs, nested, or their specs.
            axes: How many axes come before those of an example.
        """
        try:
            specs = self._inputs_like(x, axes)
        except (AttributeError, TypeError):
            # Inputs of other kinds are refused elsewhere.
            return None
        key = str(keras.tree.map_structure(lambda s: (s.shape, s.dtype), specs))
        if key not in self._known:
            self._known[key] = self._traced(specs)
        return self._known[key]

    def ways(self, x: Any, axes: int) -> int | None:
        """Returns the size of the last axis of the only output, if known.

        Args:
            x: See `of`.
            axes: See `of`.
        """
        specs = self.of(x, axes)
        is_one = specs is not None and not keras.tree.is_nested(specs)
        return number_of_classes(specs) if is_one else None

    def _inputs_like(self, x: Any, axes: int) -> Any:
        """Returns specs of the model's inputs, nested as `x`."""
        known = getattr(self._model, "inputs", None)
        if known and len(known) == len(keras.tree.flatten(x)):
            return keras.tree.pack_sequence_as(x, known)
        return keras.tree.map_structure(
            lambda leaf: keras.KerasTensor(
                (None, *leaf.shape[axes:]), leaf.dtype
            ),
            x,
        )

    def _traced(self, specs: Any) -> Any:
        try:
            return self._model.compute_output_spec(specs)
        except (AttributeError, RuntimeError, TypeError, ValueError):
            # Some models run only eagerly. Inputs that do not fit are refused
            # where the model is called.
            return None


def number_of_classes(spec: Any) -> int | None:
    """Returns the size of the last axis of an output, if known.

    Args:
        spec: A spec of an output, `[None, ...]`.
    """
    return spec.shape[-1] if len(spec.shape) > 1 else None
