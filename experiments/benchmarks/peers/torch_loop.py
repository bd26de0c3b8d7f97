"""PyTorch: a loop over the tasks with `torch.autograd.grad`."""

import torch
from torch import func
from torch.nn import functional

from experiments.benchmarks.peers import _torch_net


def make(setting, parameters, batches):
    net = _torch_net.network(setting, parameters)
    adam = _torch_net.Adam(setting, net)
    batches = _torch_net.tensors(setting, batches)

    def loss(weights, x, y):
        logits = func.functional_call(net, weights, (x,))
        return functional.cross_entropy(logits, y)

    def task_loss(support_x, support_y, query_x, query_y):
        weights = dict(net.named_parameters())
        shared, fast = _torch_net.adapting(setting, weights)
        for _ in range(setting.steps):
            gradients = torch.autograd.grad(
                loss(shared | fast, support_x, support_y),
                fast.values(),
                create_graph=not setting.first_order,
            )
            fast = {
                k: w - setting.inner_rate * g
                for (k, w), g in zip(fast.items(), gradients, strict=True)
            }
        return loss(shared | fast, query_x, query_y)

    def step(i):
        adam.zero_grad()
        total = 0.0
        for task in zip(*batches[i % len(batches)], strict=True):
            # One backward pass per task frees its graph before the next.
            share = task_loss(*task) / setting.tasks
            share.backward()
            total += share.item()
        adam.step()
        return total

    return step
