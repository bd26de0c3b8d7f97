"""No peer: the float32 matrix product whose rate stands for the peak."""

import tensorflow as tf

from experiments.benchmarks import setting as setting_lib


def make(setting, parameters, batches):
    del setting, parameters, batches
    size = setting_lib.PRODUCT_SIZE
    matrix = tf.random.stateless_normal((size, size), (0, 0))
    product = tf.function(tf.linalg.matmul)

    def step(i):
        del i
        return float(product(matrix, matrix)[0, 0])

    return step
