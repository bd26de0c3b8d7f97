"""Measures learners of few-shot classification on tasks of unseen classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from experiments import few_shot_data
from experiments.few_shot_settings import Settings
from keras_meta import episodes
from keras_meta.evaluation import Curve
from keras_meta.evaluation import Interval
from keras_meta.evaluation import adaptation_curve
from keras_meta.evaluation import evaluate_tasks
from keras_meta.learners.fine_tuning import FineTuning
from keras_meta.learners.learner import Learner
from keras_meta.learners.meta_learner import MetaLearner
from keras_meta.learners.metric_learner import MetricLearner

# Ways and shots.
Test = tuple[int, int]
# Images that are evaluated at once.
_IMAGES_AT_ONCE = 512


def measures() -> dict[str, Any]:
    """Returns what `compile` needs for measuring."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return {"loss": loss, "metrics": ["accuracy"]}


def measure(
    learner: MetaLearner,
    settings: Settings,
    part: str,
    data_dir: str | None,
    *,
    tests: Sequence[Test],
    tasks: int,
) -> dict[Test, dict[str, Interval]]:
    """Returns the loss and the accuracy on tasks of one part, for each test.

    Args:
        learner: The learner, compiled. If a test has other ways than training,
            it has `with_ways`.
        settings: The settings.
        part: `"validation"` or `"test"`.
        data_dir: Folder of the prepared data sets.
        tests: Ways and shots of each test.
        tasks: Number of tasks.
    """
    classes = few_shot_data.load_classes(settings, part, data_dir)
    if _embeds_alone(learner, settings):
        classes = _embedded(classes, learner.encoder)
        learner = learner.with_encoder(_identity(classes.item_shape))
    return {
        (ways, shots): evaluate_tasks(
            _for_ways(learner, settings, ways),
            _draw(classes, settings, part, ways, shots),
            tasks,
        )
        for ways, shots in tests
    }


def curve(
    learner: Learner,
    settings: Settings,
    part: str,
    data_dir: str | None,
    *,
    test: Test,
    tasks: int,
) -> Curve:
    """Returns the accuracy after each inner step; see `measure`."""
    classes = few_shot_data.load_classes(settings, part, data_dir)
    drawn = _draw(classes, settings, part, *test)
    curves = adaptation_curve(learner, drawn, tasks, settings.curve_steps)
    return curves["accuracy"]


def draw_test(settings: Settings, data_dir: str | None) -> tf.data.Dataset:
    """Returns the episodes of the first test."""
    classes = few_shot_data.load_classes(settings, "test", data_dir)
    return _draw(classes, settings, "test", settings.ways, settings.shots)


def _for_ways(
    learner: MetaLearner, settings: Settings, ways: int
) -> MetaLearner:
    """Returns the learner for tasks of other ways, compiled."""
    if ways != settings.train_ways:
        learner = learner.with_ways(ways)
    if not learner.compiled:
        # What differs from the trained learner is not worth compiling.
        learner.compile(jit_compile=False, **measures())
    return learner


def _draw(
    classes: episodes.Classes,
    settings: Settings,
    part: str,
    ways: int,
    shots: int,
) -> tf.data.Dataset:
    images = ways * (shots + settings.queries)
    return few_shot_data.draw_episodes(
        classes,
        settings,
        part,
        ways=ways,
        shots=shots,
        tasks=max(1, _IMAGES_AT_ONCE // images),
    )


def _embeds_alone(learner: MetaLearner, settings: Settings) -> bool:
    """Returns whether an image has the same embedding in all tasks.

    Then each is embedded once, however many tasks it is in.
    """
    leaves_encoder = isinstance(learner, MetricLearner) or (
        isinstance(learner, FineTuning)
        and learner.get_config()["adapt"] == "head"
    )
    return (
        leaves_encoder
        and learner.batch_statistics == "running"
        and settings.rotations != "episodes"
    )


def _embedded(
    classes: episodes.Classes | episodes.ClassGroups, encoder: keras.Model
) -> episodes.Classes | episodes.ClassGroups:
    """Returns classes of embeddings instead of images."""
    if isinstance(classes, episodes.ClassGroups):
        groups = [_embedded(group, encoder) for group in classes.groups]
        return episodes.ClassGroups(groups, classes.names)
    images = [classes.items_of(label) for label in classes.ids]
    batches = tf.data.Dataset.from_tensor_slices(np.concatenate(images))
    batches = batches.batch(_IMAGES_AT_ONCE).map(few_shot_data.scaled)
    return episodes.Classes(
        encoder.predict(batches, verbose=0),
        classes.counts,
        classes.names,
        classes.ids,
    )


def _identity(shape: tuple[int, ...]) -> keras.Model:
    """Returns an encoder that leaves embeddings as they are."""
    return keras.Sequential([keras.Input(shape), keras.layers.Identity()])
