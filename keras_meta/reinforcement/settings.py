"""Immutable settings that Keras can save."""

from __future__ import annotations

import dataclasses
from typing import Any
from typing import Self

import keras


@dataclasses.dataclass(frozen=True)
class Settings:
    """Base of frozen dataclasses that a Keras config can hold.

    A subclass is registered by `keras.saving.register_keras_serializable`.
    """

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            field.name: keras.saving.serialize_keras_object(
                getattr(self, field.name)
            )
            for field in dataclasses.fields(self)
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Makes the settings from `get_config`'s dict."""
        deserialize = keras.saving.deserialize_keras_object
        return cls(**{key: deserialize(x) for key, x in config.items()})
