"""Learning hyperparameters while a model trains."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_meta.batching.annotations import map_annotated
from keras_meta.checks import check_choice
from keras_meta.checks import check_int64
from keras_meta.checks import check_positive
from keras_meta.checks import describe
from keras_meta.hyperparameters.example_weights import ExampleWeights
from keras_meta.hyperparameters.hyperparameter import Hyperparameter
from keras_meta.hyperparameters.hyperparameter import shared_by_name
from keras_meta.inner.batch import Batch
from keras_meta.inner.inner_loss import InnerLoss
from keras_meta.inner.solver import Carry
from keras_meta.inner.training import TrainingProblem
from keras_meta.learners.arguments import as_update_rule
from keras_meta.meta_gradients.evolution import Evolution
from keras_meta.meta_gradients.meta_gradient import MetaGradient
from keras_meta.meta_gradients.objective import Estimate
from keras_meta.meta_gradients.persistent_es import PersistentES
from keras_meta.outer.hyperparameter_set import HyperparameterSet
from keras_meta.outer.hyperparameter_set import as_hyperparameters
from keras_meta.outer.hyperparameter_set import find_hyperparameters
from keras_meta.outer.influence import check_counted_steps
from keras_meta.outer.influence import check_influence
from keras_meta.outer.influence import check_meta_gradient
from keras_meta.outer.kept_particles import KeptParticles
from keras_meta.outer.training_learner import TrainingLearner
from keras_meta.outer.training_objective import Trained
from keras_meta.outer.training_objective import TrainingObjective
from keras_meta.outer.training_state import STARTS
from keras_meta.outer.training_state import TrainingState
from keras_meta.outer.window_data import WindowMaker
from keras_meta.update_rules.update_rule import UpdateRule


@keras.saving.register_keras_serializable("keras_meta")
class HyperparameterLearner(TrainingLearner):
    """Trains a model, and learns by gradient what its training depends on.

    The training loss reads hyperparameters: the strength of regularizers,
    weights of examples, anything that holds a `Hyperparameter`. A step of
    `fit` takes `steps` steps of training by the update rule, measures the
    loss on validation examples, and moves the hyperparameters against its
    gradient, which goes back through the training. Ten thousand of them cost
    as much as one.

    The training loss is the compiled loss on a batch of training examples,
    and the model's regularizers. The validation loss has no regularizers.
    The logs hold the validation loss (`loss`) with the compiled metrics, and
    the mean training loss (`training_loss`); `val_loss` is that of all
    validation data after an epoch. Validation data that choose
    hyperparameters say too little of new data: keep a test set.

    What is learned:

    - each `Hyperparameter` of a regularizer or a layer of the model, or of
      `inner_loss`, if it says by an attribute `hyperparameters` what it has;
    - `example_weights`;
    - what the update rule learns, such as the rate of
      `Momentum(0.1, learn="scalar")`, or rates and momenta of
      `LearnedHyperparameters`;
    - what is passed as `hyperparameters`.

    For the operations of a network, use `ArchitectureSearch`.

    Which settings to choose:

    | what is learned | `start` | `meta_gradient` |
    | --- | --- | --- |
    | regularizers, weights of examples | `"kept"` | `"unrolled"` |
    | the same, if training converges | `"kept"` | `Implicit()` |
    | rates, momenta, schedules | `"initial"`, `"drawn"` | `"unrolled"` |
    | the same, long runs | the same | `Unrolled(checkpoint="sqrt")` |
    | the same, roughly, in half the time | the same | `"first_order"` |
    | a few numbers, very long runs | the same | `PersistentES(length=10)` |

    What shifts the minimum shows within 10 to 100 steps of a kept run. With
    `Implicit()`, take whole batches, and as many steps as it takes to stay at
    the minimum; nothing of the steps is kept. Rates, momenta and schedules
    need the steps of a whole run, and `"drawn"` to be good from any initial
    weights; `NoiseReuseES` is the other choice on windows.

    Short windows that are differentiated learn rates that are too small,
    because they do not see what a high rate gains later.

    With `start="initial"` or `"drawn"` and a meta-gradient that has a
    `length`, the hyperparameters learn after each window: a step of `fit`
    takes `length` steps of a run of `steps`, and the next one goes on. What
    is minimized is the mean over windows of the validation loss after each.
    The particles of evolution strategies are kept, and trained one after
    another; the model and the logs are those of a run without noise.

    Each refuses hyperparameters whose gradient would be zero.

    It is a Keras model that predicts with the model that it trains, and is
    saved, loaded and continued as any. Data are read into memory once.

    Args:
        model: A built Keras model. `fit` trains it.
        update_rule: An update rule, or a number for `GradientDescent` with
            that rate.
        steps: Training steps of a run, or of a window of it with
            `start="kept"`.
        meta_gradient: How the gradient comes back through them; a
            `keras_meta.MetaGradient`, or a name.
        start: Where a run begins: `"initial"`, at the weights that the model
            has now; `"drawn"`, at new weights each time. With `"kept"`, there
            is one run, which begins at the weights that the model has now and
            never ends. A rule with rates of its own for each step needs
            one of the first two.
        inner_loss: The training loss, if it is another than the compiled
            one; whatever `compile` takes as a loss.
        example_weights: `ExampleWeights`, one for each training example.
        hyperparameters: Further ones that training reads, each a
            `Hyperparameter` or a trainable `keras.Variable`.
        seed: Seed of the order of examples and of drawn weights.
        name: Name of the learner.

    Raises:
        ValueError: If an argument is out of range, the model is not built,
            there is nothing to learn, or two hyperparameters have one name.
            In `fit`, if training does not depend on a hyperparameter, or the
            meta-gradient does not see how.
        TypeError: If an argument is of another type.
        FloatingPointError: In `fit`, if training diverges.

    Example:
    >>> import keras_meta
    >>> regularizer = keras_meta.LearnedL2(1e-3, name="decay")
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input([3]),
    ...         keras.layers.Dense(1, kernel_regularizer=regularizer),
    ...     ]
    ... )
    >>> tuner = keras_meta.HyperparameterLearner(model, 0.1, steps=5)
    >>> tuner.compile(keras.optimizers.Adam(0.1), "mse")
    >>> x, y = np.random.normal(size=[20, 3]), np.random.normal(size=[20, 1])
    >>> history = tuner.fit(
    ...     x, y, validation_data=(x + 0.1, y), epochs=2, verbose=0
    ... )
    >>> list(tuner.hyperparameters)
    ['decay']

    References:
        - [Maclaurin et al., 2015](https://arxiv.org/abs/1502.03492).
        - [Franceschi et al., 2017](https://arxiv.org/abs/1703.01785).
        - [Lorraine et al., 2020](https://arxiv.org/abs/1911.02590), for
          implicit gradients.
        - [Wu et al., 2018](https://arxiv.org/abs/1803.02021), for the rates
          that short windows learn.
    """

    _outer_name = "validation loss"
    _learned_name = "hyperparameters"
    _against_divergence = (
        "lower the update rule's rate, set its clip_norm, bound the "
        "hyperparameters, or lower the learning rate of `compile`'s optimizer."
    )

    def __init__(
        self,
        model: keras.Model,
        update_rule: UpdateRule | float = 0.01,
        steps: int = 20,
        *,
        meta_gradient: MetaGradient | str = "unrolled",
        start: str = "kept",
        inner_loss: str | keras.losses.Loss | Callable | None = None,
        example_weights: ExampleWeights | None = None,
        hyperparameters: Sequence[Hyperparameter | keras.Variable] = (),
        seed: int = 0,
        name: str | None = None,
    ):
        super().__init__(model, meta_gradient, inner_loss, name)
        check_positive(steps=steps)
        check_choice("start", start, STARTS)
        check_int64(seed=seed)
        self.steps = int(steps)
        self.start = start
        self.seed = int(seed)
        self.example_weights = _checked_weights(example_weights)
        # Attributes of the learner, which Keras saves with it.
        self._passed = as_hyperparameters(hyperparameters)
        self._found = find_hyperparameters(
            model, inner_loss, [example_weights, *self._passed]
        )
        rule = as_update_rule(update_rule)
        self._learned = HyperparameterSet(self._found, self._passed, rule)
        adapted = self._learned.others(model.trainable_variables)
        if not adapted:
            raise ValueError(
                "`model` must have trainable weights that are not "
                f"hyperparameters. Received: model={model.name!r} without any."
            )
        check_counted_steps(rule, start, self.steps)
        check_meta_gradient(self.meta_gradient, self.steps, start)
        self._trains(adapted, rule, self.steps)
        if not self.trainable_variables:
            raise ValueError(
                "There must be something to learn. Received: a model without "
                "a trainable Hyperparameter, and update_rule="
                f"{type(rule).__name__}, which learns nothing. "
                "Pass kernel_regularizer=keras_meta.LearnedL2(1e-4) to a "
                "layer, for instance."
            )
        windows = self.steps // self._window
        self._state = TrainingState.make(
            start,
            None if start == "kept" else windows,
            self._task_batched,
            rule,
            seed,
            self.add_weight,
        )
        self._particles = self._make_particles()
        self.built = True

    @property
    def hyperparameters(self) -> dict[str, np.ndarray]:
        """The values of all hyperparameters, by name."""
        return self._learned.values

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """What the outer optimizer learns: the hyperparameters."""
        return self._learned.trainable_variables

    @property
    def _window(self) -> int:
        """Training steps in a step of `fit`."""
        return min(self.steps, self.meta_gradient.length or self.steps)

    def _make_particles(self) -> KeptParticles | None:
        """Makes what evolution strategies remember from window to window."""
        strategy = self.meta_gradient
        if not isinstance(strategy, Evolution) or self._state.windows == 1:
            return None
        if self.start == "kept" and not isinstance(strategy, PersistentES):
            # It compares particles that begin where the run is.
            return None
        return KeptParticles.make(
            strategy,
            self.trainable_variables,
            self._state.carry,
            self.add_weight,
        )

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Returns the predictions of the model as it is trained so far.

        Args:
            inputs: The model's inputs.
            training: Passed to the model.
        """
        return self.model(inputs, training=training)

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "adam",
        loss: Any = None,
        **kwargs: Any,
    ) -> None:
        """Sets what learns the hyperparameters, and the loss.

        Args:
            optimizer: A Keras optimizer for the hyperparameters, or its name.
            loss: The validation loss, and the training loss unless
                `inner_loss` is given.
            **kwargs: Further arguments of `keras.Model.compile`, such as
                `metrics` of the validation data.

        Raises:
            ValueError: If there is no loss, or none for training.
        """
        super().compile(optimizer, loss, **kwargs)

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: str | int = "auto",
        callbacks: Any = None,
        *,
        validation_data: Any = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int = 1,
    ) -> keras.callbacks.History:
        """Trains the model and learns the hyperparameters.

        Args:
            x: Inputs of the training examples, or a finite
                `tf.data.Dataset` of batches `(x, y)`. A data set is read
                once, so `ExampleWeights` count examples as it yields them:
                do not shuffle it.
            y: Their labels.
            batch_size: Training examples of a training step; by default that
                of the data set, or 32. With `len(x)` or more, every step
                takes all of them, in their order.
            epochs: Number of epochs.
            verbose: See `keras.Model.fit`.
            callbacks: See `keras.Model.fit`.
            validation_data: What the hyperparameters learn from: arrays
                `(x, y)` or `(x, y, sample_weight)`, or a data set.
            sample_weight: Weights of the training examples, `[n]`.
            initial_epoch: See `keras.Model.fit`.
            steps_per_epoch: Steps of an epoch, each of which takes `steps`
                training steps, or a window of them; by default as many as go
                through the training examples once, or all windows of a run.
            validation_batch_size: Validation examples of a step; by default
                `batch_size`.
            validation_freq: See `keras.Model.fit`.

        Returns:
            A Keras `History`.
        """
        self._assert_compile_called("fit")
        windows = self._window_maker.windows(
            x,
            y,
            sample_weight,
            validation_data,
            batch_size,
            validation_batch_size,
        )
        self._check_one_replica()
        clock = self._state.clock
        data = windows.dataset(lambda: int(clock.numpy()))
        if not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)
        if self.train_function is None:
            self._check_influence(data.element_spec)
        if steps_per_epoch is None:
            of_epoch = windows.batch_size * self._window
            steps_per_epoch = max(windows.training.size // of_epoch, 1)
            if self._state.windows not in (None, 1):
                steps_per_epoch = self._state.windows
        validation = windows.validation
        if validation.sample_weight is None:
            validation = validation[:2]
        return super().fit(
            data,
            epochs=epochs,
            verbose=verbose,
            callbacks=callbacks,
            validation_data=tuple(validation),
            shuffle=False,
            initial_epoch=initial_epoch,
            steps_per_epoch=steps_per_epoch,
            validation_batch_size=windows.validation_batch_size,
            validation_freq=validation_freq,
        )

    @property
    def _window_maker(self) -> WindowMaker:
        further = not self.meta_gradient.differentiates_steps
        return WindowMaker(
            self.model,
            self.inner_loss or self.loss,
            self.loss,
            self.example_weights,
            self._window,
            self._window + further,
            self.seed,
        )

    def _check_influence(self, spec: Any) -> None:
        """Refuses hyperparameters that have no gradient."""

        def trace(data):
            self._check_objective(self._objective(data))

        tf.function(trace, autograph=False).get_concrete_function(spec)

    def _check_objective(self, objective: TrainingObjective) -> None:
        """Does so for one window; called in a graph."""
        check_influence(
            self.meta_gradient,
            objective.solver,
            objective.problem,
            objective.begin,
            self._learned.names,
        )

    def _problem(self, data: dict[str, Any]) -> TrainingProblem:
        """Returns the training of a window, see `Windows.window`."""
        return TrainingProblem(
            variables=self.trainable_variables,
            xla=bool(self.jit_compile),
            task_batched=self._task_batched,
            inner_loss=InnerLoss(self.inner_loss or self.loss, labels="y"),
            batch_of_step=lambda step: self._batch(data, step),
        )

    def _batch(self, data: dict[str, Any], step: int | tf.Tensor) -> Batch:
        """Returns the training examples of a step."""
        examples = data.get("whole")
        if examples is None:
            last = data["by_step"]["y"].shape[0] - 1
            at = tf.minimum(step - self._first, last)
            examples = keras.tree.map_structure(
                lambda values: tf.gather(values, at), data["by_step"]
            )
        weight = examples.get("sample_weight")
        if self.example_weights is not None:
            learned = self.example_weights.of(examples["index"])
            if weight is not None:
                learned *= tf.cast(weight, learned.dtype)
            weight = learned
        x, y, weight = keras.tree.map_structure(
            lambda values: values[tf.newaxis],
            (examples["x"], examples["y"], weight),
            none_is_leaf=False,
        )
        return Batch(x, y, weight)

    @property
    def _first(self) -> tf.Tensor:
        """Number of the first step of a window."""
        return self._state.first

    def _begin(
        self,
        problem: TrainingProblem,
        theta: Sequence[tf.Tensor],
        number: tf.Tensor,
    ) -> Carry:
        """Returns the carry before the window of a number."""
        start = self._state.window_start(number)
        params, state = problem.start(theta, start)
        rule_state = self._state.rule_start(
            lambda: self._solver.init_rule(problem, theta, params)
        )
        return Carry(params, rule_state, state)

    def _objective(self, data: dict[str, Any]) -> TrainingObjective:
        """Returns the training of a window, and the loss after it."""
        problem = self._problem(data)
        examples = data["validation"]
        y, sample_weight = examples["y"], examples.get("sample_weight")

        def validate(predict):
            x = keras.tree.map_structure(
                lambda values: values[tf.newaxis], examples["x"]
            )
            y_pred = keras.tree.map_structure(
                lambda values: map_annotated(lambda v: v[0], values), predict(x)
            )
            loss = self._compute_loss(
                x=examples["x"],
                y=y,
                y_pred=y_pred,
                sample_weight=sample_weight,
                training=True,
            )
            return loss, y_pred

        return TrainingObjective(
            self.trainable_variables,
            self._solver,
            problem,
            self.meta_gradient,
            lambda theta: self._begin(problem, theta, data["number"]),
            self._first,
            self._window,
            self._state.first_params,
            validate,
            data["number"],
            self.optimizer.scale_loss,
        )

    def _train(
        self, objective: TrainingObjective, trained: Trained
    ) -> tuple[Carry, tf.Tensor]:
        """Returns where training goes on, with the losses of its steps.

        Called where the hyperparameters have learned.

        Args:
            objective: The training of the window.
            trained: What the hyperparameters learned from.
        """
        return trained.end, trained.losses

    def train_step(self, data: dict[str, Any]) -> dict[str, Any]:
        """Trains for some steps, and learns from the loss after them."""
        objective = self._objective(data)
        examples = data["validation"]
        state = [
            *self._state.variables,
            *(self._particles.memory if self._particles else []),
        ]

        def keep(trained):
            end, losses = self._train(objective, trained)
            self._state.keep(end, self._window, data["number"])
            return losses

        estimate = self._learn(objective, state, keep)
        y = examples["y"]
        self._loss_tracker.update_state(estimate.loss, tf.shape(y)[0])
        return self.compute_metrics(
            examples["x"],
            y,
            estimate.predictions.predictions,
            examples.get("sample_weight"),
        )

    def _estimate(self, objective: TrainingObjective) -> Estimate:
        """Returns what a window says; particles go on."""
        if self._particles is None:
            return super()._estimate(objective)
        estimate, particles = self._particles.estimate(objective)
        self._particles.keep(particles)
        return estimate

    def test_step(self, data: Any) -> dict[str, Any]:
        """Evaluates the model on a batch."""
        logs = super().test_step(data)
        return {k: v for k, v in logs.items() if k not in self._trackers}

    def restart(self) -> None:
        """Puts the model back to its first weights.

        The hyperparameters stay. With `start="kept"`, the next step of `fit`
        begins a new run.
        """
        self._state.restart()

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles a learner that is read from a file."""
        with shared_by_name(self._found):
            arguments = keras.saving.deserialize_keras_object(config)
        self.compile(**arguments)
        self.optimizer.build(self.trainable_variables)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor.

        Raises:
            NotImplementedError: If hyperparameters are plain variables, which
                Keras cannot serialize.
        """
        plain = [v for v in self._passed if isinstance(v, keras.Variable)]
        if plain:
            raise NotImplementedError(
                "Keras cannot save a plain variable that several objects "
                f"share. Received: hyperparameters=[{plain[0].path!r}, ...]. "
                "Use keras_meta.Hyperparameter, or `save_weights`."
            )
        serialize = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "model": serialize(self.model),
            "update_rule": serialize(self.update_rule),
            "steps": self.steps,
            "meta_gradient": serialize(self.meta_gradient),
            "start": self.start,
            "inner_loss": serialize(self.inner_loss),
            "example_weights": serialize(self.example_weights),
            "hyperparameters": [serialize(h) for h in self._passed],
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> HyperparameterLearner:
        """Makes a learner from `get_config`'s dict."""
        config = dict(config)
        deserialize = keras.saving.deserialize_keras_object
        objects = (
            "model",
            "update_rule",
            "meta_gradient",
            "inner_loss",
            "example_weights",
        )
        with shared_by_name():
            for key in config.keys() & objects:
                config[key] = deserialize(config[key])
            config["hyperparameters"] = [
                deserialize(h) for h in config["hyperparameters"]
            ]
        return cls(**config)


def _checked_weights(weights: Any) -> ExampleWeights | None:
    if weights is None or isinstance(weights, ExampleWeights):
        return weights
    raise TypeError(
        "`example_weights` must be keras_meta.ExampleWeights(n), with the "
        f"number of training examples. Received: {describe(weights)}"
    )
