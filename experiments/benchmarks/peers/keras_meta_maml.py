"""Ours: the train function that `fit` of `keras_meta.MAML` runs."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from experiments.benchmarks import setting as setting_lib
from keras_meta import MAML
from keras_meta import GradientDescent


def _network(setting, parameters):
    size, channels = setting.image_size, setting.channels
    inputs = keras.Input((size, size, channels))
    body = {
        "convolution": _convolution,
        "perceptron": _perceptron,
        "transformer": _transformer,
    }[setting.network]
    head = layers.Dense(setting.ways)
    net = keras.Model(inputs, head(body(setting, inputs)))
    for variable, array in zip(
        net.trainable_variables, parameters, strict=True
    ):
        variable.assign(array)
    return net


def _convolution(setting, x):
    for _ in range(setting_lib.BLOCKS):
        x = layers.Conv2D(
            setting.filters,
            setting_lib.KERNEL_SIZE,
            setting.stride,
            padding="same",
        )(x)
        x = layers.BatchNormalization(epsilon=setting_lib.NORM_EPSILON)(x)
        x = layers.ReLU()(x)
        if setting.pool:
            x = layers.MaxPooling2D(2)(x)
    if setting.pool:
        return layers.Flatten()(x)
    return layers.GlobalAveragePooling2D()(x)


def _perceptron(setting, x):
    x = layers.Flatten()(x)
    for _ in range(setting_lib.BLOCKS):
        x = layers.Dense(setting.filters, "relu")(x)
    return x


def _transformer(setting, x):
    width = setting.filters
    x = layers.Reshape((setting.image_size, -1))(x)
    x = layers.Dense(width)(x)
    for _ in range(setting_lib.TRANSFORMER_BLOCKS):
        y = layers.LayerNormalization(epsilon=setting_lib.NORM_EPSILON)(x)
        attention = layers.MultiHeadAttention(
            setting_lib.HEADS, width // setting_lib.HEADS
        )
        x = layers.Add()([x, attention(y, y)])
        y = layers.LayerNormalization(epsilon=setting_lib.NORM_EPSILON)(x)
        y = layers.Dense(width)(layers.Dense(2 * width, "relu")(y))
        x = layers.Add()([x, y])
    return layers.GlobalAveragePooling1D()(x)


def _dataset(batches):
    """Returns the batches as `(x, y)`, in memory and without end."""
    stacked = {
        name: np.stack([b[name] for b in batches]) for name in batches[0]
    }
    labels = stacked.pop("query_y")
    dataset = tf.data.Dataset.from_tensor_slices((stacked, labels))
    return dataset.cache().repeat().prefetch(tf.data.AUTOTUNE)


def make(setting, parameters, batches, precision=None, **compile_options):
    keras.config.set_floatx(parameters[0].dtype.name)
    if precision is not None:
        is_tf32 = precision == "tf32"
        tf.config.experimental.enable_tensor_float_32_execution(is_tf32)
    if precision == "bfloat16":
        keras.config.set_dtype_policy("mixed_bfloat16")
    learner = MAML(
        _network(setting, parameters),
        update_rule=GradientDescent(setting.inner_rate),
        steps=setting.steps,
        meta_gradient="first_order" if setting.first_order else "unrolled",
        adapt="head" if setting.head_only else "all",
    )
    learner.compile(
        optimizer=keras.optimizers.Adam(
            setting.outer_rate, epsilon=setting_lib.ADAM_EPSILON
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **compile_options,
    )
    learner.make_train_function()
    iterator = iter(_dataset(batches))
    total = 0.0

    def step(i):
        nonlocal total
        # The logs hold the mean over all steps so far.
        before = total
        total = float(learner.train_function(iterator)["loss"]) * (i + 1)
        return total - before

    return step
