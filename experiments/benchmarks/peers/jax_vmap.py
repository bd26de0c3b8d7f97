"""JAX: `jit` of `vmap` over the tasks, each with its own gradient."""

import jax
import jax.numpy as jnp

from experiments.benchmarks.peers import _jax_net

MATMUL_PRECISIONS = {"float32": "highest", "tf32": "tensorfloat32"}


def make(setting, parameters, batches, precision=None):
    if precision in MATMUL_PRECISIONS:
        jax.config.update(
            "jax_default_matmul_precision", MATMUL_PRECISIONS[precision]
        )
    dtype = jnp.bfloat16 if precision == "bfloat16" else None

    def task_loss(parameters, task):
        return _jax_net.task_loss(setting, parameters, task, dtype)

    # The gradient of the mean of vmap is the same and, on a CPU, several
    # times slower to compute.
    all_tasks = jax.vmap(jax.value_and_grad(task_loss), in_axes=(None, 0))

    def loss_and_gradients(parameters, tasks):
        results = all_tasks(parameters, tasks)
        return jax.tree.map(lambda x: x.mean(0), results)

    return _jax_net.make_step(setting, parameters, batches, loss_and_gradients)
