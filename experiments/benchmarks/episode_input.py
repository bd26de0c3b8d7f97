"""Measures loading Omniglot, drawing episodes, and how long training waits.

    python -m experiments.benchmarks.episode_input

- The start: seconds from the TFDS files to the first episode, with an empty
  cache and with a full one.
- The rate: 5-way 1-shot episodes with 15 queries per class, per second. One
  contender is `Classes.episodes`; the other joins 1200 data sets, one per
  class, with `tf.data.Dataset.choose_from_datasets`. Both yield decoded images
  from memory in batches of 32 episodes, and take turns.
- The wait: how much longer a meta-training step of the four-block network
  takes on fresh episodes than on ready ones, as a fraction of the step. Steps
  of both kinds take turns.

It needs Omniglot, prepared by TensorFlow Datasets in `TFDS_DATA_DIR` or in the
default folder.
"""

import tempfile
import time

import numpy as np
from absl import app
from absl import flags

from experiments.benchmarks import machine as machine_lib
from experiments.benchmarks.worker import Contender
from experiments.benchmarks.worker import Worker
from experiments.benchmarks.worker import usable_cores

WAYS, SHOTS, QUERIES, TASKS, CLASSES = 5, 1, 15, 32, 1200

_ROUNDS = flags.DEFINE_integer("rounds", 7, "Turns of every measurement.")


def load(cache_dir):
    """Returns the seconds to the first episode, in this process."""
    from keras_meta import episodes

    begun = time.perf_counter()
    classes = episodes.omniglot("train+validation", cache_dir=cache_dir)
    next(iter(classes.episodes(ways=WAYS, shots=SHOTS, queries=1, tasks=TASKS)))
    return time.perf_counter() - begun


def our_episodes():
    """Returns the package's data set of episodes."""
    from keras_meta import episodes

    classes = episodes.omniglot("train+validation", rotations=())
    return classes.episodes(
        ways=WAYS, shots=SHOTS, queries=QUERIES, tasks=TASKS
    )


def joined_episodes():
    """Returns episodes joined from one data set per class.

    Each class is a shuffled, endless data set of its images. A stream of class
    numbers chooses the class of the next image.
    """
    import tensorflow as tf

    images = np.random.default_rng(0).random(
        [CLASSES, 20, 28, 28, 1], dtype="float32"
    )
    per_class = SHOTS + QUERIES

    def choices(_):
        classes = tf.random.shuffle(tf.range(CLASSES, dtype=tf.int64))[:WAYS]
        return tf.data.Dataset.from_tensor_slices(tf.repeat(classes, per_class))

    sources = [
        tf.data.Dataset.from_tensor_slices(images[i]).shuffle(20).repeat()
        for i in range(CLASSES)
    ]
    chosen = tf.data.Dataset.choose_from_datasets(
        sources, tf.data.Dataset.counter().flat_map(choices)
    )

    def as_episode(x):
        x = tf.reshape(x, [TASKS, WAYS, per_class, 28, 28, 1])
        support = tf.reshape(x[:, :, :SHOTS], [TASKS, -1, 28, 28, 1])
        query = tf.reshape(x[:, :, SHOTS:], [TASKS, -1, 28, 28, 1])
        return {"support_x": support, "query_x": query}

    batches = chosen.batch(TASKS * WAYS * per_class, drop_remainder=True)
    return batches.map(as_episode).prefetch(tf.data.AUTOTUNE)


def rates(rounds):
    """Returns the episodes per second of both contenders in each round.

    Each turn has its own iterator: a permanent one would read ahead during the
    other's turn.
    """
    datasets = {
        "keras_meta": (our_episodes(), 300),
        "choose_from_datasets": (joined_episodes(), 30),
    }
    found = {name: [] for name in datasets}
    for _ in range(rounds):
        for name, (dataset, count) in datasets.items():
            iterator = iter(dataset)
            next(iterator)
            begun = time.perf_counter()
            for _ in range(count):
                next(iterator)
            seconds = time.perf_counter() - begun
            found[name].append(count * TASKS / seconds)
            del iterator
    return found


def waits(rounds):
    """Returns the seconds of steps on fresh and on ready episodes."""
    workers = {
        kind: Worker(
            Contender(kind, "omniglot_keras_meta", {"fresh": kind == "fresh"}),
            (WAYS, SHOTS, QUERIES, TASKS),
            [np.zeros(1, "float32")],
            None,
        )
        for kind in ("fresh", "ready")
    }
    seconds = {kind: [] for kind in workers}
    for turn in range(rounds + 1):
        for kind, worker in workers.items():
            steps = worker.run(4)[1:]
            if turn:
                seconds[kind].append(np.median([s.seconds for s in steps]))
    for worker in workers.values():
        worker.stop()
    return {kind: np.array(values) for kind, values in seconds.items()}


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    print(machine_lib.cpu_model(), f"{usable_cores()} cores")
    print(machine_lib.versions())
    with tempfile.TemporaryDirectory() as folder:
        first, second = load(folder), load(folder)
    print(f"first start {first:.1f} s, second start {second:.1f} s")
    found = rates(_ROUNDS.value)
    for name, values in found.items():
        low, high = np.quantile(values, [0.1, 0.9])
        print(
            f"{name:<22}{np.median(values):>9.0f} episodes/s, "
            f"10-90 % {low:.0f}-{high:.0f}"
        )
    ratio = np.divide(*found.values())
    print(f"ratio {np.median(ratio):.0f}")
    seconds = waits(_ROUNDS.value)
    share = (seconds["fresh"] - seconds["ready"]) / seconds["fresh"]
    print(
        f"step on fresh episodes {1e3 * np.median(seconds['fresh']):.0f} ms, "
        f"on ready ones {1e3 * np.median(seconds['ready']):.0f} ms; waiting "
        f"{np.median(share):.1%}, by round {share.min():.1%} to "
        f"{share.max():.1%}"
    )


if __name__ == "__main__":
    app.run(main)
