"""PyTorch: `torch.func.vmap` over the tasks of `torch.func.grad`."""

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

    def task_loss(weights, support_x, support_y, query_x, query_y):
        shared, fast = _torch_net.adapting(setting, weights)

        def support_loss(fast):
            return loss(shared | fast, support_x, support_y)

        for _ in range(setting.steps):
            gradients = func.grad(support_loss)(fast)
            if setting.first_order:
                gradients = {k: g.detach() for k, g in gradients.items()}
            fast = {
                k: w - setting.inner_rate * gradients[k]
                for k, w in fast.items()
            }
        return loss(shared | fast, query_x, query_y)

    all_tasks = func.vmap(task_loss, in_dims=(None, 0, 0, 0, 0))

    def step(i):
        adam.zero_grad()
        weights = dict(net.named_parameters())
        mean = all_tasks(weights, *batches[i % len(batches)]).mean()
        mean.backward()
        adam.step()
        return mean.item()

    return step
