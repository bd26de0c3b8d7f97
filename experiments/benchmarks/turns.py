"""Turns of contenders, so that other load on the machine affects all."""

import time

import numpy as np

from experiments.benchmarks.worker import usable_cores

# Seconds before the next contender's turn, in which thread pools that spin
# after their work come to rest.
PAUSE = 0.05


def take_turns(workers, rounds, turn):
    """Returns the clock and CPU seconds of the timed steps, by name.

    The arrays have the shape [2, rounds, turn].

    Each turn starts with a step that is not timed. It brings the contender's
    data back into the caches and wakes its threads.
    """
    names = list(workers)
    seconds = {name: [] for name in names}
    for i in range(rounds):
        shift = i % len(names)
        for name in names[shift:] + names[:shift]:
            steps = workers[name].run(1 + turn)[1:]
            seconds[name].append([step[:2] for step in steps])
            time.sleep(PAUSE)
        print(f"round {i + 1} of {rounds}", flush=True)
    return {
        name: np.moveaxis(np.array(values), -1, 0)
        for name, values in seconds.items()
    }


def time_row(seconds, cpu_seconds, flops):
    """Returns the timing cells of a row.

    Args:
        seconds: Seconds of each timed step, [rounds, turn].
        cpu_seconds: CPU seconds of its threads, [rounds, turn].
        flops: Number of operations in a step.
    """
    low, median, high = np.quantile(seconds, (0.1, 0.5, 0.9))
    return {
        "ms": 1e3 * median,
        "ms_10_percent": 1e3 * low,
        "ms_90_percent": 1e3 * high,
        "ms_all": (1e3 * seconds).tolist(),
        "cpu_ms": 1e3 * np.median(cpu_seconds),
        "gflops_per_s": flops / median / 1e9,
    }


def ratio_row(seconds, ours):
    """Returns the cells that compare with keras_meta, round by round."""
    ratios = np.median(seconds, 1) / np.median(ours, 1)
    return {
        "ours_over_this": np.median(ratios),
        "ours_over_this_range": [ratios.min(), ratios.max()],
    }


def share_of_cores(row):
    """Returns the share of the cores that the matrix product got, or None."""
    if isinstance(row, str):
        return None
    return float(row["cpu_ms"] / row["ms"] / usable_cores())
