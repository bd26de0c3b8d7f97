"""The contenders of `experiments.benchmarks.throughput`.

A module here has one function::

    make(setting, parameters, batches, **options) -> Callable[[int], float]

It gets a `setting.Setting`, the numpy arrays of
`setting.initial_parameters` and those of `setting.make_batches`, and returns
the function that runs meta-step i, the outer Adam step included, on batch
i % len(batches), and returns the mean query loss before that Adam step. The
steps are called with i = 0, 1, 2, ... . A module whose framework is missing
raises ImportError when it is imported.
"""
