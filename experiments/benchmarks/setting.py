"""What every contender of the throughput benchmark computes.

The network, the initial weights, the batches and the operation count are
defined here once, with numpy only, so that no contender can differ.
"""

import dataclasses

import numpy as np

BLOCKS = 4
KERNEL_SIZE = 3
BATCH_NORM_EPSILON = 1e-3
ADAM_EPSILON = 1e-7
# Rows of the square matrices whose product stands for the peak.
PRODUCT_SIZE = 2048


@dataclasses.dataclass(frozen=True)
class Setting:
    """One meta-training step of the four-block convolutional network.

    Each block is a 3x3 convolution with bias, batch normalization with the
    statistics of the current batch of one task (and learned scale and shift)
    and a ReLU. A dense layer maps the features to the classes.

    Attributes:
        ways: Classes of a task.
        shots: Support examples of a class.
        queries: Query examples of a class.
        tasks: Tasks of one meta-batch.
        steps: Inner SGD steps.
        filters: Output channels of every convolution.
        image_size: Height and width of an image, pixels.
        channels: Channels of an image.
        pool: False: convolutions of stride 2 and the mean over height and
            width before the dense layer. True: convolutions of stride 1, 2x2
            maximum pooling without padding after every ReLU, and all
            features go into the dense layer.
        first_order: Whether the inner gradients count as constants.
        inner_rate: Rate of the inner SGD.
        outer_rate: Rate of the outer Adam.
    """

    ways: int = 5
    shots: int = 1
    queries: int = 1
    tasks: int = 32
    steps: int = 1
    filters: int = 64
    image_size: int = 28
    channels: int = 1
    pool: bool = False
    first_order: bool = False
    inner_rate: float = 0.4
    outer_rate: float = 1e-3

    @property
    def stride(self) -> int:
        """Stride of every convolution."""
        return 1 if self.pool else 2

    @property
    def input_sizes(self) -> tuple[int, ...]:
        """Height of the input of every block, then of the last output."""
        sizes = [self.image_size]
        for _ in range(BLOCKS):
            half = sizes[-1] / 2
            sizes.append(int(half) if self.pool else int(np.ceil(half)))
        return tuple(sizes)

    @property
    def features(self) -> int:
        """Inputs of the dense layer."""
        positions = self.input_sizes[-1] ** 2 if self.pool else 1
        return positions * self.filters


def same_padding(size: int, stride: int) -> int:
    """Returns the rows that SAME padding adds; an odd one goes at the end."""
    outputs = -(-size // stride)
    return max((outputs - 1) * stride + KERNEL_SIZE - size, 0)


def initial_parameters(
    setting: Setting, seed: int, dtype: str = "float32"
) -> list[np.ndarray]:
    """Returns the weights that all contenders start from.

    The order is kernel [height, width, in, out], bias, scale, shift for each
    block, then kernel [in, out] and bias of the dense layer; the kernels are
    Glorot-uniform.
    """
    rng = np.random.default_rng(seed)

    def glorot(*shape):
        window = int(np.prod(shape[:-2]))
        limit = np.sqrt(6 / (window * (shape[-2] + shape[-1])))
        return rng.uniform(-limit, limit, shape).astype(dtype)

    parameters = []
    channels = setting.channels
    for _ in range(BLOCKS):
        parameters += [
            glorot(KERNEL_SIZE, KERNEL_SIZE, channels, setting.filters),
            np.zeros(setting.filters, dtype),
            np.ones(setting.filters, dtype),
            np.zeros(setting.filters, dtype),
        ]
        channels = setting.filters
    return parameters + [
        glorot(setting.features, setting.ways),
        np.zeros(setting.ways, dtype),
    ]


def make_batches(
    setting: Setting, count: int, seed: int, dtype: str = "float32"
) -> list[dict[str, np.ndarray]]:
    """Returns meta-batches of noisy class prototypes.

    A batch holds `support_x` [tasks, ways * shots, size, size, channels]
    of `dtype`, `support_y` [tasks, ways * shots] int32, and the same for
    `query_x` and `query_y` with `queries` instead of `shots`.
    """
    rng = np.random.default_rng(seed)
    size, channels = setting.image_size, setting.channels
    image = (size, size, channels)

    def examples(prototypes, per_class):
        labels = np.tile(
            np.arange(setting.ways, dtype=np.int32), (setting.tasks, per_class)
        )
        images = np.tile(prototypes, (1, per_class, 1, 1, 1))
        images += rng.normal(size=images.shape)
        return images.astype(dtype), labels

    batches = []
    for _ in range(count):
        prototypes = rng.normal(size=(setting.tasks, setting.ways, *image))
        support_x, support_y = examples(prototypes, setting.shots)
        query_x, query_y = examples(prototypes, setting.queries)
        batches.append(
            {
                "support_x": support_x,
                "support_y": support_y,
                "query_x": query_x,
                "query_y": query_y,
            }
        )
    return batches


def forward_products(setting: Setting) -> list[int]:
    """Returns the multiplications of each layer's forward pass on one image.

    The layers are the convolutions, in order, and the dense layer. Taps that
    fall on SAME padding count, as the libraries compute them too.
    """
    products = []
    channels = setting.channels
    for size in setting.input_sizes[:-1]:
        outputs = -(-size // setting.stride)
        products.append(
            outputs**2 * KERNEL_SIZE**2 * channels * setting.filters
        )
        channels = setting.filters
    return products + [setting.features * setting.ways]


def meta_step_flops(setting: Setting) -> int:
    """Returns the floating-point operations of one meta-step.

    Only the convolutions and the dense layer count, a multiplication and an
    addition as two operations. Normalization, ReLU, pooling, loss, SGD and
    Adam are linear in the activations or weights and left out.

    Let F be the cost of a layer y = conv(x, w) on some images. With dy the
    gradient at y, the gradients dw = corr(x, dy) and dx = convT(dy, w) cost
    F each; the first layer needs no dx. Hence

    *   the query loss and its gradient: 3 F, in the first layer 2 F;
    *   an inner step, the support loss and its gradient: the same;
    *   differentiating that inner step again. From u, the gradient at dw,
        come convT(dy, u) at x and conv(x, u) at dy; from v, the gradient at
        dx, come conv(v, w) at dy and corr(v, dy) at w; the sum at y that
        results from them gives corr(x, .) at w and convT(., w) at x. That
        makes 6 F. The first layer has no dx and needs nothing at x, which
        leaves conv(x, u) and corr(x, .): 2 F.

    An inner step thus costs 9 F and in the first layer 4 F; if first_order,
    3 F and 2 F. Work that an implementation repeats, as when it recomputes
    the forward pass, is not counted.
    """
    inner_first, inner_rest = (2, 3) if setting.first_order else (4, 9)
    support = setting.ways * setting.shots * setting.steps
    query = setting.ways * setting.queries
    first, *rest = forward_products(setting)
    products = (support * inner_first + query * 2) * first
    products += (support * inner_rest + query * 3) * sum(rest)
    return 2 * setting.tasks * products
