"""Derivatives of gradient operations that TensorFlow lacks.

The gradient of an operation consists of gradient operations, which a second
derivative differentiates. For most of those below, TensorFlow has no
derivative and fails. It declares that of bilinear resizing not differentiable:
its derivative counts as zero, so the second derivative of resizing is silently
wrong. The same holds for the cross-entropy of logits and its labels.

This module supplies the correct derivatives. It registers them with
TensorFlow, so they apply in the whole process, including to operations in a
user's own layers. A scope would not suffice: the second derivative is taken by
the caller's outer tape, often after the model's call has returned. First
derivatives keep their values. Derivatives that TensorFlow has, or that others
registered earlier, are kept.

Most of these operations are linear in the gradient that they pass on. Such an
operation is the transpose of a linear map, so its own derivative is that map.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from keras_meta._keras import give_gradient


def _gradient_of(
    *operation_types: str, replace: bool = False
) -> Callable[[Callable], Callable]:
    def register(gradient: Callable) -> Callable:
        for operation_type in operation_types:
            give_gradient(operation_type, gradient, replace=replace)
        return gradient

    return register


@_gradient_of("SoftsignGrad")
def _softsign_grad(op, upstream):
    gradient, x = op.inputs
    slope = -2 * tf.sign(x) / (1 + tf.abs(x)) ** 3
    return (
        tf.raw_ops.SoftsignGrad(gradients=upstream, features=x),
        upstream * gradient * slope,
    )


@_gradient_of(
    "ResizeBilinearGrad", "ResizeBicubicGrad", "ResizeNearestNeighborGrad"
)
def _resize_grad(op, upstream):
    resize = getattr(tf.raw_ops, op.type.removesuffix("Grad"))
    size = _image_size(op.inputs[0])
    return resize(images=upstream, size=size, **_alignment(op)), None


@_gradient_of("ResizeBilinear", replace=True)
def _resize_bilinear(op, upstream):
    """TensorFlow's gradient, in a form that can be differentiated again.

    A tape drops the inputs of `ResizeBilinearGrad`, because it assumes that no
    derivative needs them. So tapes get a custom operation instead.
    """

    def transpose(gradient):
        return tf.raw_ops.ResizeBilinearGrad(
            grads=gradient, original_image=op.inputs[0], **_alignment(op)
        )

    @tf.custom_gradient
    def transpose_on_tape(gradient):
        def resize(upstream):
            size = _image_size(gradient)
            return tf.raw_ops.ResizeBilinear(
                images=upstream, size=size, **_alignment(op)
            )

        return transpose(gradient), resize

    is_on_tape = not isinstance(op, tf.Operation)
    return (transpose_on_tape if is_on_tape else transpose)(upstream), None


@_gradient_of("SoftmaxCrossEntropyWithLogits", replace=True)
def _cross_entropy_of_logits(op, upstream, upstream_of_gradient):
    """TensorFlow's, and how the gradient depends on the labels.

    The second output is the gradient of the first by the logits, `softmax -
    labels`. TensorFlow takes the labels in it for constants, so whatever
    learns labels would learn nothing of them.
    """
    logits, by_logits = op.inputs[0], op.outputs[1]
    upstream = upstream[:, tf.newaxis]
    to_logits = upstream * by_logits
    to_labels = -upstream * tf.nn.log_softmax(logits)
    # Nothing comes back to it unless there is a second derivative.
    is_zero = getattr(upstream_of_gradient, "_is_zeros_tensor", False)
    if upstream_of_gradient is not None and not is_zero:
        softmax = tf.nn.softmax(logits)
        along = tf.reduce_sum(upstream_of_gradient * softmax, 1, keepdims=True)
        to_logits += (upstream_of_gradient - along) * softmax
        to_labels -= upstream_of_gradient
    return to_logits, to_labels


@_gradient_of("ScaleAndTranslateGrad")
def _scale_and_translate_grad(op, upstream):
    gradient, _, scale, translation = op.inputs
    resized = tf.raw_ops.ScaleAndTranslate(
        images=upstream,
        size=_image_size(gradient),
        scale=scale,
        translation=translation,
        kernel_type=op.get_attr("kernel_type"),
        antialias=op.get_attr("antialias"),
    )
    return resized, None, None, None


@_gradient_of("CropAndResizeGradImage")
def _crop_and_resize_grad(op, upstream):
    gradient, boxes, image_of_box, _ = op.inputs
    method = op.get_attr("method")
    cropped = tf.raw_ops.CropAndResize(
        image=upstream,
        boxes=boxes,
        box_ind=image_of_box,
        crop_size=_image_size(gradient),
        method=method,
    )
    to_boxes = None
    if method == b"bilinear":
        to_boxes = tf.raw_ops.CropAndResizeGradBoxes(
            grads=gradient, image=upstream, boxes=boxes, box_ind=image_of_box
        )
    return cropped, to_boxes, None, None


@_gradient_of("LRNGrad")
def _local_response_normalization_grad(op, upstream):
    """Writes out the formula and differentiates it twice."""
    gradient, x, _ = op.inputs
    radius = op.get_attr("depth_radius")
    bias, alpha, beta = map(op.get_attr, ("bias", "alpha", "beta"))
    channels = tf.shape(x)[-1]
    ones = tf.ones([channels, channels], x.dtype)
    neighbors = tf.linalg.band_part(ones, radius, radius)
    with tf.GradientTape() as outer:
        outer.watch([gradient, x])
        with tf.GradientTape() as inner:
            inner.watch(x)
            squares = tf.einsum("nhwc,cd->nhwd", x * x, neighbors)
            y = x * (bias + alpha * squares) ** -beta
        to_x = inner.gradient(y, x, output_gradients=gradient)
    return *outer.gradient(to_x, [gradient, x], upstream), None


@_gradient_of(
    "SparseSegmentSumGrad", "SparseSegmentMeanGrad", "SparseSegmentSqrtNGrad"
)
def _segment_grad(op, upstream):
    _, indices, _, _ = op.inputs
    return _segments(op, upstream, indices), None, None, None


@_gradient_of(
    "SparseSegmentSumGradV2",
    "SparseSegmentMeanGradV2",
    "SparseSegmentSqrtNGradV2",
)
def _segment_grad_of_used_rows(op, upstream, _):
    _, indices, _, _ = op.inputs
    rows = tf.searchsorted(op.outputs[1], indices)
    return _segments(op, upstream, rows), None, None, None


def _alignment(op) -> dict:
    return {
        "align_corners": op.get_attr("align_corners"),
        "half_pixel_centers": op.get_attr("half_pixel_centers"),
    }


def _image_size(images: tf.Tensor) -> tf.Tensor:
    return tf.shape(images)[1:3]


def _segments(op, data: tf.Tensor, indices: tf.Tensor) -> tf.Tensor:
    """Combines rows of `data` like the operation whose gradient `op` is."""
    gradient, _, segment_ids, _ = op.inputs
    forward = op.type.partition("Grad")[0] + "WithNumSegments"
    return getattr(tf.raw_ops, forward)(
        data=data,
        indices=indices,
        segment_ids=segment_ids,
        num_segments=tf.shape(gradient)[0],
    )
