"""Random changes to the images of episodes."""

import dataclasses
import math
from collections.abc import Mapping

import tensorflow as tf

from keras_meta import addons
from keras_meta.checks import check_choice
from keras_meta.checks import check_positive_number
from keras_meta.checks import describe
from keras_meta.checks import is_finite_number
from keras_meta.episodes.arguments import check_index
from keras_meta.episodes.arguments import check_seed
from keras_meta.episodes.random_bits import floats_between
from keras_meta.episodes.random_bits import integers_below
from keras_meta.episodes.random_bits import random_words

# Each change to each set of images reads its own stream. Lower streams belong
# to the episodes themselves.
_STREAMS = {
    ("support_x", "rotate"): 16,
    ("support_x", "translate"): 17,
    ("support_x", "elastic"): 18,
    ("support_x", "color"): 19,
    ("support_x", "cutout"): 20,
    ("query_x", "rotate"): 32,
    ("query_x", "translate"): 33,
    ("query_x", "elastic"): 34,
    ("query_x", "color"): 35,
    ("query_x", "cutout"): 36,
}
_SETS = {
    "support": ("support_x",),
    "query": ("query_x",),
    "both": ("support_x", "query_x"),
}


@dataclasses.dataclass(frozen=True)
class Augment:
    """Changes the images of episodes at random.

    Each image is changed independently. The random numbers depend only on the
    seed and the index of the episode, so an augmented episode can be computed
    again. Needs TensorFlow Addons; see `keras_meta.addons`.

    Attributes:
        rotate: Largest rotation in either direction, in degrees.
        translate: Largest shift along each axis, as a fraction of its length.
        elastic: Largest displacement of an elastic warp before smoothing, as
            a fraction of the side.
        elastic_smoothness: Standard deviation of the Gaussian filter that
            smooths the warp, as a fraction of the shorter side.
        cutout: Side of a square that is set to 0, as a fraction of the
            shorter side. Its center may lie anywhere in the image.
        hue: Largest change of hue in either direction, in radians.
        saturation: Largest relative change of saturation: 0.2 for factors
            from 0.8 to 1.2.
        fill: How to fill the border of a rotated or shifted image:
            `"constant"` for 0, `"nearest"`, `"reflect"` or `"wrap"`.
        on: Which images to change: `"support"`, `"query"` or `"both"`.

    Raises:
        ValueError: If a value is negative or too large, or `fill` or `on` is
            not an allowed value.
        ImportError: If TensorFlow Addons is not installed.

    References:
        Simard, Steinkraus and Platt, Best practices for convolutional neural
        networks applied to visual document analysis, 2003 (elastic warps).
        DeVries and Taylor, Improved regularization of convolutional neural
        networks with cutout, 2017.

    Example:
    ```python
    episodes = keras_meta.episodes.omniglot("train").episodes(
        ways=5,
        shots=1,
        queries=15,
        tasks=32,
        augment=keras_meta.episodes.Augment(rotate=10, translate=0.1),
    )
    ```
    """

    rotate: float = 0.0
    translate: float = 0.0
    elastic: float = 0.0
    elastic_smoothness: float = 0.1
    cutout: float = 0.0
    hue: float = 0.0
    saturation: float = 0.0
    fill: str = "constant"
    on: str = "support"

    def __post_init__(self) -> None:
        _check_between("rotate", self.rotate, 180)
        _check_between("translate", self.translate, 1)
        _check_between("elastic", self.elastic, 1)
        _check_between("cutout", self.cutout, 1)
        _check_between("hue", self.hue, math.pi)
        _check_between("saturation", self.saturation, 1)
        _check_between("elastic_smoothness", self.elastic_smoothness, 1)
        check_positive_number(elastic_smoothness=self.elastic_smoothness)
        check_choice("fill", self.fill, _fills())
        check_choice("on", self.on, tuple(_SETS))
        # Imported now, so that a missing package does not surface inside a
        # `tf.data` pipeline.
        _ = addons.image

    def __call__(
        self,
        seed: int | tf.Tensor,
        index: int | tf.Tensor,
        x: dict[str, tf.Tensor],
    ) -> dict[str, tf.Tensor]:
        """Changes the images of a batch of episodes.

        Args:
            seed: Seed of the episodes.
            index: Index of the first episode.
            x: The first part of a batch. `x["support_x"]` and
                `x["query_x"]` are `[tasks, n, height, width, channels]`,
                float32 in 0..1 or uint8.

        Returns:
            A copy of `x` with changed images. Their shape, type and range
            stay the same.

        Raises:
            ValueError: If `x` does not hold images, if `hue` or `saturation`
                is set and the images do not have three channels, or if the
                seed or the index is not an integer.
        """
        check_seed(seed)
        check_index(index)
        if not isinstance(x, Mapping) or not set(_SETS[self.on]) <= set(x):
            raise ValueError(
                f"`x` must be a dict with {' and '.join(_SETS[self.on])}. "
                f"Received: x={describe(x)}"
            )
        changed = {
            name: self._change(seed, index, name, x[name])
            for name in _SETS[self.on]
        }
        return {**x, **changed}

    def _change(self, seed, index, name, images):
        self._check_images(name, images)
        tasks, n, *shape = images.shape
        kind = images.dtype
        images = tf.reshape(images, [tasks * n, *shape])
        images = tf.image.convert_image_dtype(images, tf.float32)

        def draw(change, words):
            drawn = random_words(
                seed,
                _STREAMS[name, change],
                index,
                rows=tasks,
                words=n * words,
            )
            return tf.reshape(drawn, [tasks * n, words])

        if self.rotate:
            images = _rotated(images, draw("rotate", 1), self.rotate, self.fill)
        if self.translate:
            images = _translated(
                images, draw("translate", 2), self.translate, self.fill
            )
        if self.elastic:
            images = _warped(
                images,
                draw("elastic", 2 * shape[0] * shape[1]),
                self.elastic,
                self.elastic_smoothness,
            )
        if self.hue or self.saturation:
            images = _recolored(
                images, draw("color", 2), self.hue, self.saturation
            )
        if self.cutout:
            images = _cut_out(images, draw("cutout", 2), self.cutout)
        images = tf.image.convert_image_dtype(images, kind, saturate=True)
        return tf.reshape(images, [tasks, n, *shape])

    def _check_images(self, name, images):
        is_tensor = isinstance(images, tf.Tensor)
        if not is_tensor or images.shape.rank != 5 or not _is_scale(images):
            raise ValueError(
                f"`{name}` must be a tensor of images [tasks, n, height, "
                "width, channels], float32 or uint8, to be augmented. "
                f"Received: {describe(images)}"
            )
        if (self.hue or self.saturation) and images.shape[-1] != 3:
            raise ValueError(
                "`hue` and `saturation` need images with 3 channels, but "
                f"`{name}` has {images.shape[-1]}. Set both to 0."
            )


def _rotated(images, words, degrees, fill):
    largest = math.radians(degrees)
    angles = floats_between(words[:, 0], -largest, largest)
    return addons.image.rotate(
        images, angles, interpolation="bilinear", fill_mode=fill
    )


def _translated(images, words, share, fill):
    height, width = images.shape[1:3]
    size = tf.constant([width, height], tf.float32)
    shifts = floats_between(words, -share, share) * size
    return addons.image.translate(
        images, shifts, interpolation="bilinear", fill_mode=fill
    )


def _warped(images, words, share, smoothness):
    height, width = images.shape[1:3]
    size = tf.constant([height, width], tf.float32)
    noise = floats_between(words, -share, share)
    flow = tf.reshape(noise, [-1, height, width, 2]) * size
    sigma = smoothness * min(height, width)
    # Three standard deviations on each side hold nearly all of the filter.
    reach = 2 * math.ceil(3 * sigma) + 1
    # The filter is separable: two narrow passes cost less than a wide one.
    for filter_shape in ((reach, 1), (1, reach)):
        flow = addons.image.gaussian_filter2d(
            flow, filter_shape=filter_shape, sigma=sigma, padding="CONSTANT"
        )
    return addons.image.dense_image_warp(images, flow)


def _recolored(images, words, hue, saturation):
    hues = floats_between(words[:, 0], -hue, hue)
    factors = floats_between(words[:, 1], 1 - saturation, 1 + saturation)
    recolored = tf.map_fn(
        lambda one: addons.image.adjust_hsv_in_yiq(*one),
        (images, hues, factors),
        fn_output_signature=tf.TensorSpec(images.shape[1:], tf.float32),
    )
    return tf.clip_by_value(recolored, 0.0, 1.0)


def _cut_out(images, words, share):
    height, width = images.shape[1:3]
    # `cutout` accepts only even sides.
    side = 2 * max(1, round(share * min(height, width) / 2))
    centers = integers_below(words, tf.constant([height, width]))
    return addons.image.cutout(images, side, offset=centers)


def _is_scale(images: tf.Tensor) -> bool:
    """Whether images of this type range from black, 0, to white.

    White is 1 for floats and 255 for uint8.
    """
    return images.dtype.is_floating or images.dtype == tf.uint8


def _fills() -> tuple[str, ...]:
    return ("constant", "nearest", "reflect", "wrap")


def _check_between(name: str, value: float, largest: float) -> None:
    if not is_finite_number(value) or not 0 <= value <= largest:
        raise ValueError(
            f"`{name}` must be a number from 0 to {largest:g}. Received: "
            f"{name}={describe(value)}"
        )
