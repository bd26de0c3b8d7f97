"""The computation of all contenders in the throughput benchmark.

The network, the initial weights, the batches and the operation count are
defined here once, with NumPy only, so that contenders cannot differ.
"""

import dataclasses

import numpy as np

BLOCKS = 4
KERNEL_SIZE = 3
# For batch and for layer normalization.
NORM_EPSILON = 1e-3
TRANSFORMER_BLOCKS = 2
HEADS = 4
NETWORKS = ("convolution", "perceptron", "transformer")
ADAM_EPSILON = 1e-7
# Rows of the square matrices whose product represents the machine's peak.
PRODUCT_SIZE = 2048


@dataclasses.dataclass(frozen=True)
class Setting:
    """One meta-training step of a network.

    A dense layer maps the features to the classes. They come from

    *   `"convolution"`: four blocks, each a 3x3 convolution with bias, batch
        normalization with the statistics of the current batch of one task
        (and learned scale and shift) and a ReLU;
    *   `"perceptron"`: four dense layers with ReLU on the flat image;
    *   `"transformer"`: the image's rows as tokens, a dense layer, two blocks
        and the mean over the tokens. A block is attention with four heads and
        a hidden layer twice as wide, each after layer normalization and with a
        residual connection.

    Attributes:
        network: One of `NETWORKS`.
        ways: Number of classes in a task.
        shots: Number of support examples of each class.
        queries: Number of query examples of each class.
        tasks: Number of tasks in a meta-batch.
        steps: Number of inner SGD steps.
        filters: Output channels of every convolution, units of every dense
            layer, or width of the transformer.
        image_size: Height and width of an image, in pixels.
        channels: Number of channels of an image.
        pool: False: convolutions with stride 2, and the mean over height and
            width before the dense layer. True: convolutions with stride 1, 2x2
            maximum pooling without padding after every ReLU, and a dense layer
            on all features.
        first_order: Whether the inner gradients count as constants.
        head_only: Whether only the last layer adapts, as in ANIL.
        inner_rate: Rate of the inner SGD.
        outer_rate: Rate of the outer Adam.
    """

    network: str = "convolution"
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
    head_only: bool = False
    inner_rate: float = 0.4
    outer_rate: float = 1e-3

    @property
    def stride(self) -> int:
        """Stride of every convolution."""
        return 1 if self.pool else 2

    @property
    def input_sizes(self) -> tuple[int, ...]:
        """Height of the input of each block, then of the last output."""
        sizes = [self.image_size]
        for _ in range(BLOCKS):
            half = sizes[-1] / 2
            sizes.append(int(half) if self.pool else int(np.ceil(half)))
        return tuple(sizes)

    @property
    def features(self) -> int:
        """Number of inputs of the last layer."""
        has_space = self.network == "convolution" and self.pool
        positions = self.input_sizes[-1] ** 2 if has_space else 1
        return positions * self.filters

    @property
    def first_adapted(self) -> int:
        """Index of the first weight that adapts, as do all after it."""
        return -2 if self.head_only else 0


def same_padding(size: int, stride: int) -> int:
    """Returns the rows that SAME padding adds, an odd one at the end."""
    outputs = -(-size // stride)
    return max((outputs - 1) * stride + KERNEL_SIZE - size, 0)


def initial_parameters(
    setting: Setting, seed: int, dtype: str = "float32"
) -> list[np.ndarray]:
    """Returns the weights that all contenders start from.

    They are in the order of the layers, with kernel and bias or scale and
    shift of each. Kernels are [height, width, in, out] for a convolution and
    [in, out] for a dense layer. For attention, query, key and value are
    [in, heads, out], and the output is [heads, in, out]. Kernels are drawn
    Glorot-uniform.
    """
    rng = np.random.default_rng(seed)

    def glorot(shape):
        window = int(np.prod(shape[:-2]))
        limit = np.sqrt(6 / (window * (shape[-2] + shape[-1])))
        return rng.uniform(-limit, limit, shape).astype(dtype)

    def layer(*shape, bias=None):
        return [glorot(shape), np.zeros(bias or shape[-1:], dtype)]

    def norm(channels):
        return [np.ones(channels, dtype), np.zeros(channels, dtype)]

    width, hidden = setting.filters, 2 * setting.filters
    parameters = []
    if setting.network == "convolution":
        channels = setting.channels
        for _ in range(BLOCKS):
            parameters += layer(KERNEL_SIZE, KERNEL_SIZE, channels, width)
            parameters += norm(width)
            channels = width
    elif setting.network == "perceptron":
        units = setting.image_size**2 * setting.channels
        for _ in range(BLOCKS):
            parameters += layer(units, width)
            units = width
    else:
        parameters += layer(setting.image_size * setting.channels, width)
        depth = width // HEADS
        for _ in range(TRANSFORMER_BLOCKS):
            parameters += norm(width)
            for _ in range(3):
                parameters += layer(width, HEADS, depth, bias=(HEADS, depth))
            parameters += layer(HEADS, depth, width)
            parameters += norm(width)
            parameters += layer(width, hidden) + layer(hidden, width)
    return parameters + layer(setting.features, setting.ways)


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

    Taps of convolutions that fall on SAME padding count, because the libraries
    also compute them.
    """
    size, width = setting.image_size, setting.filters
    last = setting.features * setting.ways
    if setting.network == "perceptron":
        first = size**2 * setting.channels * width
        return [first, *[width**2] * (BLOCKS - 1), last]
    if setting.network == "transformer":
        # Four projections and a hidden layer of twice the width; then the
        # scores and their product with the values.
        block = [size * 8 * width**2, 2 * size**2 * width]
        first = size * size * setting.channels * width
        return [first, *block * TRANSFORMER_BLOCKS, last]
    products = []
    channels = setting.channels
    for size in setting.input_sizes[:-1]:
        outputs = -(-size // setting.stride)
        products.append(outputs**2 * KERNEL_SIZE**2 * channels * width)
        channels = width
    return [*products, last]


def meta_step_flops(setting: Setting) -> int:
    """Returns the floating-point operations of one meta-step.

    Only convolutions, dense layers and the products of attention count. A
    multiplication and an addition are two operations. The cost of
    normalization, ReLU, pooling, softmax, loss, SGD and Adam is linear in the
    activations or weights, and is left out.

    Let F be the cost of a layer y = conv(x, w) on some images. With dy the
    gradient at y, the gradients dw = corr(x, dy) and dx = convT(dy, w) cost
    F each; the first layer needs no dx. Hence

    *   the query loss and its gradient: 3 F, in the first layer 2 F;
    *   an inner step, the support loss and its gradient: the same;
    *   differentiating that inner step again: 6 F. u, the gradient at dw,
        gives convT(dy, u) at x and conv(x, u) at dy. v, the gradient at dx,
        gives conv(v, w) at dy and corr(v, dy) at w. Their sum at y gives
        corr(x, .) at w and convT(., w) at x. The first layer has no dx and
        needs nothing at x, which leaves conv(x, u) and corr(x, .): 2 F.

    So an inner step costs 9 F, and in the first layer 4 F; if first_order, 3 F
    and 2 F. The products of attention, bilinear in two activations, cost the
    same. If only the last layer adapts, its dx is needed only with the second
    derivative, as the gradient of the other layers. Those cost 3 F and 2 F, or
    F if first_order, once for all steps. The last layer costs 6 F, or 2 F if
    first_order, in each step. Repeated work, such as recomputing the forward
    pass, is not counted.
    """
    images = setting.ways * setting.shots
    query = setting.ways * setting.queries
    first, *rest = forward_products(setting)
    last = rest.pop()
    if setting.head_only:
        body_first, body_rest = (1, 1) if setting.first_order else (2, 3)
        support = body_first * first + body_rest * sum(rest)
        support += setting.steps * (2 if setting.first_order else 6) * last
    else:
        step_first, step_rest = (2, 3) if setting.first_order else (4, 9)
        support = setting.steps * (
            step_first * first + step_rest * (sum(rest) + last)
        )
    query_products = 2 * first + 3 * (sum(rest) + last)
    return 2 * setting.tasks * (images * support + query * query_products)
