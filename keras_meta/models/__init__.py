"""Networks from published few-shot experiments, built and initialized."""

from keras_meta.models.gaussian_mlp import gaussian_mlp
from keras_meta.models.mini_imagenet_conv import mini_imagenet_conv
from keras_meta.models.omniglot_conv import omniglot_conv
from keras_meta.models.omniglot_mlp import omniglot_mlp
from keras_meta.models.sinusoid_mlp import sinusoid_mlp

__all__ = [
    "gaussian_mlp",
    "mini_imagenet_conv",
    "omniglot_conv",
    "omniglot_mlp",
    "sinusoid_mlp",
]
