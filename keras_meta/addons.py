"""The parts of TensorFlow Addons that still work with Keras 3.

TensorFlow Addons ended with version 0.23.0. That version cannot be imported
as a whole with Keras 3, but its parts in plain TensorFlow can. This module
loads those on first use, and refuses the others with a reason:

*   `keras_meta.addons.image`: rotations, translations, warps, cut-out,
    filters, color.
*   `keras_meta.addons.losses`: contrastive, triplet, n-pairs and more.
*   `keras_meta.addons.activations`: mish, sparsemax, snake and more.

No compiled operation of TensorFlow Addons is loaded. To install it, run
`pip install -e '.[addons]'` in a clone of keras_meta, on Python 3.11, the last
version that it supports.

Example:
```python
from keras_meta import addons

rotated = addons.image.rotate(images, angles)
model.compile(loss=addons.losses.TripletSemiHardLoss())
```
"""

import contextlib
import functools
import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import keras

_PACKAGE = "tensorflow_addons"

# The names that each part offers, listed so that nothing half-working slips
# through.
_WORKING = {
    "activations": (
        "hardshrink",
        "lisht",
        "mish",
        "snake",
        "softshrink",
        "sparsemax",
        "tanhshrink",
    ),
    "image": (
        "adjust_hsv_in_yiq",
        "angles_to_projective_transforms",
        "blend",
        "compose_transforms",
        "cutout",
        "dense_image_warp",
        "equalize",
        "gaussian_filter2d",
        "interpolate_bilinear",
        "interpolate_spline",
        "mean_filter2d",
        "median_filter2d",
        "random_cutout",
        "random_hsv_in_yiq",
        "rotate",
        "sharpness",
        "shear_x",
        "shear_y",
        "sparse_image_warp",
        "transform",
        "translate",
        "translate_xy",
        "translations_to_projective_transforms",
    ),
    "losses": (
        "ContrastiveLoss",
        "LiftedStructLoss",
        "SigmoidFocalCrossEntropy",
        "SparsemaxLoss",
        "TripletHardLoss",
        "TripletSemiHardLoss",
        "WeightedKappaLoss",
        "contrastive_loss",
        "giou_loss",
        "lifted_struct_loss",
        "npairs_loss",
        "npairs_multilabel_loss",
        "pinball_loss",
        "sigmoid_focal_crossentropy",
        "sparsemax_loss",
        "triplet_hard_loss",
        "triplet_semihard_loss",
    ),
}

_COMPILED = "it needs an operation compiled for an older TensorFlow"
_REFUSED_NAMES = {
    "activations.gelu": "it is deprecated; use `keras.activations.gelu`",
    "activations.rrelu": (
        "it needs a function that Keras 3 removed; use "
        "`keras.activations.leaky_relu`"
    ),
    "image.connected_components": f"{_COMPILED}; use `scipy.ndimage.label`",
    "image.euclidean_dist_transform": (
        f"{_COMPILED}; use `scipy.ndimage.distance_transform_edt`"
    ),
    "image.resampler": (
        f"{_COMPILED}; use `keras_meta.addons.image.interpolate_bilinear`"
    ),
    "losses.GIoULoss": (
        "Keras 3 refuses its defaults; use the function `giou_loss`"
    ),
    "losses.NpairsLoss": (
        "Keras 3 cannot save it; use the function `npairs_loss`"
    ),
    "losses.NpairsMultilabelLoss": (
        "Keras 3 cannot save it; use the function `npairs_multilabel_loss`"
    ),
    "losses.PinballLoss": (
        "Keras 3 refuses its defaults; use the function `pinball_loss`"
    ),
}
_REFUSED_PARTS = {
    "callbacks": "`keras.callbacks`",
    "layers": "`keras.layers`",
    "metrics": "`keras.metrics`",
    "optimizers": "`keras.optimizers`",
    "register": "`keras.saving.register_keras_serializable`",
    "rnn": "`keras.layers.RNN` with a cell of `keras.layers`",
    "seq2seq": "`keras.layers` or the KerasHub package",
    "text": "the TensorFlow Text package",
}


class Part:
    """One part of TensorFlow Addons, with only the names that work.

    Args:
        name: Name of the part, such as `"image"`.
        members: The functions and classes that it offers, by name.
    """

    def __init__(self, name: str, members: Mapping[str, Any]):
        self._name = name
        self.__dict__.update(members)

    def __getattr__(self, attribute: str) -> Any:
        name = f"{self._name}.{attribute}"
        if name in _REFUSED_NAMES:
            raise AttributeError(
                f"`tensorflow_addons.{name}` is not available with Keras 3: "
                f"{_REFUSED_NAMES[name]}."
            )
        raise AttributeError(
            f"`keras_meta.addons.{self._name}` has no `{attribute}`. It has "
            f"{', '.join(_WORKING[self._name])}."
        )

    def __dir__(self) -> list[str]:
        return list(_WORKING[self._name])

    def __repr__(self) -> str:
        return f"<keras_meta.addons.{self._name}>"


def is_available() -> bool:
    """Whether TensorFlow Addons is installed.

    Returns:
        True if `image`, `losses` and `activations` can be used.

    Example:
    >>> isinstance(is_available(), bool)
    True
    """
    return importlib.util.find_spec(_PACKAGE) is not None


def __getattr__(name: str) -> Any:
    if name in _WORKING:
        return _parts()[name]
    if name in _REFUSED_PARTS:
        raise AttributeError(
            f"`tensorflow_addons.{name}` does not work with Keras 3. "
            f"Use {_REFUSED_PARTS[name]} instead. `keras_meta.addons` has "
            f"{', '.join(_WORKING)}."
        )
    raise AttributeError(
        f"`keras_meta.addons` has no `{name}`. It has {', '.join(_WORKING)}."
    )


def __dir__() -> list[str]:
    return [*_WORKING, "Part", "is_available"]


def _parts() -> dict[str, Part]:
    if not is_available():
        raise ImportError(
            "TensorFlow Addons is not installed. It needs Python 3.11 (this "
            f"is Python {sys.version_info.major}.{sys.version_info.minor}) "
            "and comes with the `addons` extra: "
            "`pip install -e '.[addons]'` in a clone of keras_meta."
        )
    return _load()


# Runs once per process: TensorFlow refuses to register the gradient of an
# operation twice.
@functools.cache
def _load() -> dict[str, Part]:
    with _importable():
        # Set first, this keeps the package from loading its compiled
        # operations, which were built for an older TensorFlow.
        importlib.import_module(f"{_PACKAGE}.options").disable_custom_kernel()
        modules = {
            name: importlib.import_module(f"{_PACKAGE}.{name}")
            for name in _WORKING
        }
    return {
        name: Part(name, {key: getattr(module, key) for key in _WORKING[name]})
        for name, module in modules.items()
    }


@contextlib.contextmanager
def _importable() -> Iterator[None]:
    """Makes the package's parts importable while the context is open.

    Restores `sys.modules` afterwards, so that nothing else imports the
    stand-ins or the incomplete package.
    """
    before = dict(sys.modules)
    sys.modules.update(_stand_ins())
    try:
        yield
    finally:
        for name in list(sys.modules):
            if name.split(".")[0] == _PACKAGE or name in _stand_in_names():
                del sys.modules[name]
                if name in before:
                    sys.modules[name] = before[name]


def _stand_in_names() -> tuple[str, ...]:
    return ("keras.src.engine", "keras.src.engine.keras_tensor")


def _stand_ins() -> dict[str, types.ModuleType]:
    engine: Any
    keras_tensor: Any
    engine, keras_tensor = (types.ModuleType(n) for n in _stand_in_names())
    engine.keras_tensor = keras_tensor
    keras_tensor.KerasTensor = keras.KerasTensor
    # A bare package with the right path. The real `__init__` imports
    # everything, including parts that cannot be imported.
    package: Any = types.ModuleType(_PACKAGE)
    package.__spec__ = importlib.util.find_spec(_PACKAGE)
    package.__path__ = list(package.__spec__.submodule_search_locations)
    stand_ins = (engine, keras_tensor, package)
    return {module.__name__: module for module in stand_ins}
