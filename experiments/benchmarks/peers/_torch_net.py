"""The network and its data in PyTorch."""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from experiments.benchmarks import setting as setting_lib


class _BatchNorm(nn.Module):
    """Batch normalization with the statistics of the current batch.

    Not `nn.BatchNorm2d`: the gradient of its gradient is wrong when `vmap`
    is inside the outer of the two (PyTorch 2.13). It is no faster either.
    """

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        x = x - x.mean((0, 2, 3), keepdim=True)
        variance = x.square().mean((0, 2, 3), keepdim=True)
        scale = torch.rsqrt(variance + setting_lib.NORM_EPSILON)
        scale = scale * self.weight[:, None, None]
        return x * scale + self.bias[:, None, None]


class _Perceptron(nn.Module):
    def __init__(self, parameters):
        super().__init__()
        self.weights = _parameter_list(parameters)

    def forward(self, x):
        *weights, kernel, bias = self.weights
        x = x.flatten(1)
        for i in range(0, len(weights), 2):
            x = functional.relu(x @ weights[i] + weights[i + 1])
        return x @ kernel + bias


class _Transformer(nn.Module):
    def __init__(self, parameters):
        super().__init__()
        self.weights = _parameter_list(parameters)

    def forward(self, x):
        first, first_bias, *weights, kernel, bias = self.weights
        x = x.flatten(2) @ first + first_bias
        for i in range(0, len(weights), 16):
            block = weights[i : i + 16]
            x = x + _attend(_norm(x, *block[:2]), *block[2:10])
            hidden, hidden_bias, out, out_bias = block[12:]
            y = _norm(x, *block[10:12]) @ hidden + hidden_bias
            x = x + functional.relu(y) @ out + out_bias
        return x.mean(1) @ kernel + bias


def _norm(x, scale, shift):
    x = x - x.mean(-1, keepdim=True)
    variance = x.square().mean(-1, keepdim=True)
    return x * torch.rsqrt(variance + setting_lib.NORM_EPSILON) * scale + shift


def _attend(x, query, query_bias, key, key_bias, value, value_bias, out, bias):
    queries = torch.einsum("ntc,chd->nhtd", x, query) + query_bias[:, None]
    keys = torch.einsum("ntc,chd->nhtd", x, key) + key_bias[:, None]
    values = torch.einsum("ntc,chd->nhtd", x, value) + value_bias[:, None]
    scores = queries @ keys.transpose(-1, -2)
    shares = torch.softmax(scores * query.shape[-1] ** -0.5, -1)
    return torch.einsum("nhtd,hdc->ntc", shares @ values, out) + bias


def _parameter_list(parameters):
    return nn.ParameterList([torch.from_numpy(w.copy()) for w in parameters])


def network(setting, parameters) -> nn.Module:
    """Returns the network with the given weights.

    The convolutional one takes images channels first.
    """
    if setting.network == "perceptron":
        return _Perceptron(parameters)
    if setting.network == "transformer":
        return _Transformer(parameters)
    layers = []
    channels = setting.channels
    for size in setting.input_sizes[:-1]:
        padding = setting_lib.same_padding(size, setting.stride)
        if padding % 2:
            layers.append(nn.ZeroPad2d((0, 1, 0, 1)))
        layers += [
            nn.Conv2d(
                channels,
                setting.filters,
                setting_lib.KERNEL_SIZE,
                setting.stride,
                padding // 2,
            ),
            _BatchNorm(setting.filters),
            nn.ReLU(),
        ]
        if setting.pool:
            layers.append(nn.MaxPool2d(2))
        channels = setting.filters
    if not setting.pool:
        layers.append(nn.AdaptiveAvgPool2d(1))
    layers += [nn.Flatten(), nn.Linear(setting.features, setting.ways)]
    net = nn.Sequential(*layers)
    net.to(torch.from_numpy(parameters[0]).dtype)
    with torch.no_grad():
        arrays = _channels_first(setting, parameters)
        for weight, array in zip(net.parameters(), arrays, strict=True):
            weight.copy_(torch.from_numpy(array))
    return net


def _channels_first(setting, parameters):
    """Yields the weights in the layout of the PyTorch layers."""
    for array in parameters[:-2]:
        yield np.transpose(array, (3, 2, 0, 1)) if array.ndim == 4 else array
    kernel, bias = parameters[-2:]
    # Flattening channels first orders the features differently.
    kernel = kernel.reshape(-1, setting.filters, setting.ways)
    yield kernel.transpose(2, 1, 0).reshape(setting.ways, -1)
    yield bias


def adapting(setting, weights):
    """Splits the weights, a dict, into those that stay and those that adapt."""
    names = list(weights)
    first = setting.first_adapted
    return (
        {name: weights[name] for name in names[:first]},
        {name: weights[name] for name in names[first:]},
    )


def tensors(setting, batches):
    """Returns the batches as tuples support_x, support_y, query_x, query_y."""

    def images(array):
        images = torch.from_numpy(array)
        if setting.network == "convolution":
            images = images.movedim(-1, 2)
        return images.contiguous()

    def labels(array):
        return torch.from_numpy(array).long()

    return [
        (
            images(batch["support_x"]),
            labels(batch["support_y"]),
            images(batch["query_x"]),
            labels(batch["query_y"]),
        )
        for batch in batches
    ]


class Adam(torch.optim.Adam):
    """Adam that adds epsilon where Keras does, before bias correction."""

    def __init__(self, setting, net):
        super().__init__(net.parameters(), setting.outer_rate, fused=True)
        self._done = 0

    def step(self):
        self._done += 1
        (group,) = self.param_groups
        _, beta_2 = group["betas"]
        correction = math.sqrt(1 - beta_2**self._done)
        group["eps"] = setting_lib.ADAM_EPSILON / correction
        super().step()
