"""The interface of all meta-gradients."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import ClassVar

import keras
import tensorflow as tf

from keras_meta.checks import describe
from keras_meta.inner.inner_loop import InnerLoop
from keras_meta.inner.solver import Carry
from keras_meta.meta_gradients.objective import Estimate
from keras_meta.meta_gradients.objective import MetaObjective
from keras_meta.meta_gradients.runs import Runs
from keras_meta.meta_gradients.runs import WindowEstimate
from keras_meta.update_rules.update_rule import UpdateRule


@dataclasses.dataclass(frozen=True)
class MetaGradient:
    """How the gradient of an inner loop comes back to the meta-parameters.

    A meta-gradient is a set of immutable options. An `InnerLoop` knows
    nothing about it; the meta-gradient runs the loop and decides what
    derivative its result has. Everything learned is explicit, `theta`.

    To add one, subclass this as a frozen dataclass whose fields are the
    options, register it with Keras, and override `solve`.

    Attributes:
        takes_second_derivatives: Whether the gradients of the inner steps
            are differentiated again. A rule that learns where gradients are
            taken needs it.
        differentiates_steps: Whether what is recorded of the inner steps can
            be differentiated, as losses after every step need.
        length: Steps of a window after which the meta-parameters learn, or
            `None` for the whole run.
        logs: Names of what `estimate` adds to the logs of training.
        differentiates_calls: Whether the derivative of the learner's call is
            the meta-gradient. Otherwise a training call has no derivative,
            as it would be wrong.
        draws_random_numbers: Whether `estimate` draws random numbers. If so,
            all tasks of a batch are taken at once.

    Example:
    >>> import dataclasses
    >>> import keras
    >>> import keras_meta
    >>> import tensorflow as tf
    >>> from keras_meta.meta_gradients import Derivatives
    >>>
    >>> @keras.saving.register_keras_serializable("example")
    ... @dataclasses.dataclass(frozen=True)
    ... class LastSteps(keras_meta.MetaGradient):
    ...     \"\"\"Goes back through the last steps only.\"\"\"
    ...
    ...     length: int = 1
    ...
    ...     def solve(self, loop):
    ...         early = max(loop.steps - self.length, 0)
    ...         carry, before = dataclasses.replace(loop, steps=early).run()
    ...         # As if the earlier steps had not depended on the start.
    ...         start, _ = loop.problem.start(loop.theta, loop.data)
    ...         moved = [
    ...             s + tf.stop_gradient(p - s)
    ...             for s, p in zip(start, carry.params)
    ...         ]
    ...         last_steps = dataclasses.replace(
    ...             loop,
    ...             carry=carry._replace(params=moved),
    ...             steps=loop.steps - early,
    ...             first=loop.first + early,
    ...         )
    ...         carry, after = last_steps.run(Derivatives.SECOND)
    ...         if before is None:
    ...             return carry, after
    ...         return carry, keras.tree.map_structure(
    ...             lambda a, b: tf.concat([a, b], 0), before, after
    ...         )
    >>>
    >>> model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    >>> learner = keras_meta.MAML(model, 0.1, 5, meta_gradient=LastSteps(2))
    >>> learner.compile("adam", "mse")
    """

    takes_second_derivatives: ClassVar[bool] = True
    differentiates_steps: ClassVar[bool] = True
    # An annotation would make it the first field of all subclasses.
    length = None  # type: int | None
    logs: ClassVar[tuple[str, ...]] = ()
    differentiates_calls: ClassVar[bool] = True
    draws_random_numbers: ClassVar[bool] = False

    def check(self, rule: UpdateRule, steps: int | None = None) -> None:
        """Refuses an inner loop whose gradient would be wrong.

        Learners call it before they train, so that no mistake waits for the
        first step.

        Args:
            rule: How the inner loop takes its steps.
            steps: Steps of the inner loop where it is taken whole, as that
                of few-shot tasks is, or `None` where it is taken window by
                window.

        Raises:
            ValueError: If the meta-gradient cannot learn the rule, or cannot
                take as many steps at once.
        """
        if rule.attends and not self.takes_second_derivatives:
            raise ValueError(
                "A rule learns where to take gradients by differentiating "
                "them. Received: a rule with attention=True, and "
                f"meta_gradient={self}. Use keras_meta.Unrolled(), or a rule "
                "without attention."
            )

    def check_learned_loss(self, loss: keras.Layer) -> None:
        """Refuses an inner loss that learns if its gradient would be wrong.

        Args:
            loss: The inner loss, a layer with trainable weights.

        Raises:
            ValueError: If the meta-gradient cannot learn the loss.
        """
        if not self.takes_second_derivatives:
            raise ValueError(
                "A learned loss acts through the gradients of the inner "
                "steps alone, which this meta-gradient takes as constants, "
                "so the loss would learn nothing. Received: "
                f"inner_loss={describe(loss)}, which has trainable weights, "
                f"and meta_gradient={self}. Use keras_meta.Unrolled(), or "
                "freeze the loss: inner_loss.trainable = False."
            )

    def check_start(self, learned: bool, proximal: float) -> None:
        """Refuses initial weights whose gradient would be wrong.

        Learners of few-shot tasks call it. By default every start will do.

        Args:
            learned: Whether initial weights are learned.
            proximal: Strength of the proximal term of the inner loss.

        Raises:
            ValueError: If the meta-gradient cannot learn the initial weights,
                or nothing else.
        """

    def solve(self, loop: InnerLoop) -> tuple[Carry, Any]:
        """Runs the inner loop, so that its result has the right derivative.

        Args:
            loop: The inner loop, of at least one step.

        Returns:
            The carry after the last step, and what was recorded, stacked
            along a new first axis of size `steps`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `solve`."
        )

    def estimate(self, objective: MetaObjective) -> Estimate:
        """Returns what a batch of tasks says about the meta-parameters.

        By default that is the derivative of the outer loss. Override it for
        a meta-gradient that is not the derivative of what `solve` computes.

        Args:
            objective: The outer loss of the batch.
        """
        with tf.GradientTape() as tape:
            loss, predictions = objective.outer_loss()
            scaled = objective.scaled(loss)
        gradients = tape.gradient(scaled, list(objective.variables))
        return Estimate(gradients, loss, predictions)

    def begin_runs(
        self, runs: Runs, theta: Sequence[tf.Tensor], seed: tf.Tensor
    ) -> Any:
        """Returns what is remembered of runs before their first window.

        Args:
            runs: The runs.
            theta: Values of the meta-parameters.
            seed: Seed of what is drawn for the first window, `[2]`.
        """
        return runs.start(theta)

    def take_window(
        self,
        runs: Runs,
        theta: Sequence[tf.Tensor],
        memory: Any,
        first: int | tf.Tensor,
        steps: int,
        seed: tf.Tensor,
    ) -> WindowEstimate:
        """Returns what a window of runs says about the meta-parameters.

        By default that is the derivative of what is minimized in the window;
        the carry before it is a constant.

        Args:
            runs: The runs.
            theta: Values of the meta-parameters.
            memory: What `begin_runs` or the window before returned.
            first: Number of the window's first step.
            steps: Steps of the window.
            seed: Seed of what is drawn for the window, `[2]`. That of the
                first window is the one that `begin_runs` got.
        """
        with tf.GradientTape() as tape:
            tape.watch(theta)
            carry = runs.resumed(theta, memory, first)
            taken = runs.take(self.solve, theta, carry, first, steps)
            value = tf.reduce_mean(taken.values)
            scaled = runs.scaled(value)
        gradients = tape.gradient(
            scaled,
            theta,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        return WindowEstimate(gradients, taken.carry, taken.losses, value)

    @property
    def hint(self) -> str:
        """Another possible cause of a gradient that is not finite.

        Errors end with it. It is a sentence, or empty.
        """
        return ""

    def warning(self, logs: Mapping[str, float]) -> str | None:
        """Returns what the user should know about a step, or `None`.

        Args:
            logs: The logs of training so far.
        """
        return None

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> MetaGradient:
        """Makes a meta-gradient from `get_config`'s dict."""
        return cls(**config)
