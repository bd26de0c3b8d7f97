"""PyTorch: `torch.func` with the tasks in one `vmap`, step by step."""

import math

import torch
from torch.func import grad
from torch.func import grad_and_value
from torch.func import vmap

EPSILON = 1e-7


def _predict(parameters, x):
    *hidden, last = zip(parameters[::2], parameters[1::2], strict=True)
    for kernel, bias in hidden:
        x = torch.relu(x @ kernel + bias)
    return x @ last[0] + last[1]


def _loss(parameters, x, y):
    return torch.mean((_predict(parameters, x) - y) ** 2)


def _draw(setting):
    tasks, points = setting.tasks, setting.shots + setting.queries
    x = torch.rand(tasks, points, 1) * 10 - 5
    amplitude = torch.rand(tasks, 1, 1) * 4.9 + 0.1
    y = amplitude * torch.sin(x + torch.rand(tasks, 1, 1) * math.pi)
    n = setting.shots
    return x[:, :n], y[:, :n], x[:, n:], y[:, n:]


def make(setting, parameters, batches):
    """Returns a function that trains for a turn and returns its mean loss."""
    del batches
    torch.manual_seed(0)
    parameters = [torch.tensor(p) for p in parameters]
    optimizer = torch.optim.Adam(parameters, setting.outer_rate, eps=EPSILON)

    def task_loss(parameters, support_x, support_y, query_x, query_y):
        gradients = grad(_loss)(parameters, support_x, support_y)
        adapted = [
            w - setting.inner_rate * g
            for w, g in zip(parameters, gradients, strict=True)
        ]
        return _loss(adapted, query_x, query_y)

    def meta_loss(parameters, *tasks):
        in_dims = (None, 0, 0, 0, 0)
        return vmap(task_loss, in_dims)(parameters, *tasks).mean()

    gradient = grad_and_value(meta_loss)

    def turn(i):
        del i
        total = 0.0
        for _ in range(setting.meta_steps):
            gradients, loss = gradient(parameters, *_draw(setting))
            for p, g in zip(parameters, gradients, strict=True):
                p.grad = g
            optimizer.step()
            total += float(loss)
        return total / setting.meta_steps

    return turn
