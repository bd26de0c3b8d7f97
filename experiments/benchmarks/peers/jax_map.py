"""JAX: `jit` of `lax.map` over the tasks, each with its own gradient."""

import jax

from experiments.benchmarks.peers import _jax_net


def make(setting, parameters, batches):
    def task_loss(parameters, task):
        return _jax_net.task_loss(setting, parameters, task)

    def loss_and_gradients(parameters, tasks):
        results = jax.lax.map(
            lambda task: jax.value_and_grad(task_loss)(parameters, task), tasks
        )
        return jax.tree.map(lambda x: x.mean(0), results)

    return _jax_net.make_step(setting, parameters, batches, loss_and_gradients)
