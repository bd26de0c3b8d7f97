"""Everything that a run of few-shot classification depends on."""

from __future__ import annotations

import dataclasses
from typing import ClassVar
from typing import NamedTuple

from experiments.algorithms import ImplicitOptions

# Settings that have no value without an inner loop.
INNER_LOOP = ("steps", "evaluation_steps", "inner_rate", "batch_size")


class Case(NamedTuple):
    """What the defaults of a learner depend on.

    Attributes:
        data_set: Name of the data set.
        ways: Number of classes in a task.
        shots: Number of support images of each class.
    """

    data_set: str
    ways: int
    shots: int


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that a run depends on.

    Attributes:
        data_set: See `experiments.few_shot_data`.
        learner: See `experiments.few_shot_learners`.
        network: `"conv"`, `"pool"`, `"instance"` or `"mlp"`, see
            `experiments.few_shot`.
        filters: Output channels of each convolution.
        ways: Number of classes in a task of validation.
        shots: Number of support images of each class in validation.
        train_ways: Number of classes in a task of training.
        train_shots: Number of support images of each class in training.
        queries: Number of query images of each class.
        meta_batch: Number of tasks in an iteration; for learners that train
            on images, the number of images.
        iterations: Number of iterations.
        meta_rate: Rate of the optimizer.
        meta_decay: Decay of that rate, see `experiments.algorithms`.
        decay_iterations: Number of iterations in which it decays, or `None`.
        clip: Largest entry of a gradient, or `None`.
        steps: Inner steps in training, or `None` without an inner loop.
        evaluation_steps: Inner steps in tests, or `None`.
        inner_rate: Rate of the inner loop, or `None`.
        batch_size: Number of support images in a step of Reptile, or `None`.
        implicit: Options of implicit and of proximal MAML, or `None`.
        batch_statistics: What batch normalization normalizes with. `"batch"`
            makes predictions transductive.
        protocol: Split of Omniglot's characters.
        rotations: Of Omniglot. `"classes"`: rotated characters are additional
            training classes. `"episodes"`: each class of each episode is
            rotated at random, even in tests. `"none"`: no rotations.
        seed: Seed of weights and tasks.
        validate_every: Number of iterations between validations.
        validation_tasks: Number of tasks in a validation.
        test_ways: Numbers of classes in the tasks of tests.
        test_shots: Numbers of support images of each class in tests.
        test_tasks: Number of tasks in each test.
        curve_steps: Largest number of inner steps in the curve of a test, or
            0 for none.
        train_queries: Number of query images of each class in training, or
            `None` for `queries`.
        image_size: Side to which images are scaled, or `None` for that of the
            data set; see `experiments.few_shot_data`.

    `MAY_DIFFER` lists settings that may change when a run continues: training
    does not depend on them.
    """

    MAY_DIFFER: ClassVar = (
        "iterations",
        "test_ways",
        "test_shots",
        "test_tasks",
        "curve_steps",
    )

    data_set: str
    learner: str
    network: str
    filters: int
    ways: int
    shots: int
    train_ways: int
    train_shots: int
    queries: int
    meta_batch: int
    iterations: int
    meta_rate: float
    meta_decay: str
    decay_iterations: int | None
    clip: float | None
    steps: int | None
    evaluation_steps: int | None
    inner_rate: float | None
    batch_size: int | None
    implicit: ImplicitOptions | None
    batch_statistics: str
    protocol: str
    rotations: str
    seed: int
    validate_every: int
    validation_tasks: int
    test_ways: tuple[int, ...]
    test_shots: tuple[int, ...]
    test_tasks: int
    curve_steps: int
    train_queries: int | None = None
    image_size: int | None = None

    @property
    def name(self) -> str:
        """Name of the run's folder, within that of the data set."""
        return (
            f"{self.learner}_{self.network}_{self.ways}way_{self.shots}shot"
            f"_seed{self.seed}"
        )

    @property
    def tests(self) -> list[tuple[int, int]]:
        """Ways and shots of each test."""
        return [(w, s) for w in self.test_ways for s in self.test_shots]
