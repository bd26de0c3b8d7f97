"""Learning a few examples that stand for a data set."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_meta.batching.annotations import map_annotated
from keras_meta.batching.annotations import merge_tasks
from keras_meta.batching.fallback import is_seed
from keras_meta.checks import check_bool
from keras_meta.checks import check_choice
from keras_meta.checks import check_int64
from keras_meta.checks import check_positive
from keras_meta.checks import check_positive_number
from keras_meta.inner.batch import Batch
from keras_meta.inner.inner_loop import InnerLoop
from keras_meta.inner.inner_loss import InnerLoss
from keras_meta.inner.solver import Carry
from keras_meta.inner.training import Start
from keras_meta.inner.training import TrainingProblem
from keras_meta.meta_gradients.meta_gradient import MetaGradient
from keras_meta.outer import example_data
from keras_meta.outer.distilled import Distilled
from keras_meta.outer.distilled_examples import checked_inputs
from keras_meta.outer.distilled_examples import checked_labels
from keras_meta.outer.distilled_examples import class_labels
from keras_meta.outer.distilled_steps import DistilledSteps
from keras_meta.outer.influence import check_influence
from keras_meta.outer.starts import Starts
from keras_meta.outer.training_learner import TrainingLearner
from keras_meta.outer.training_objective import TrainingObjective

_STARTS = ("drawn", "initial")
_DEFAULT_BATCH = 1024
_TRAINING_STREAM = 109
_EVALUATION_STREAM = 113


@keras.saving.register_keras_serializable("keras_meta")
class DatasetDistillation(TrainingLearner):
    """Learns a few examples that stand for a whole data set.

    A model that trains on the examples, for a few steps of gradient descent,
    does well on the real data. A step of `fit` trains so from some initial
    weights, measures the loss on real examples, and moves the distilled ones
    against its gradient, which goes back through the training. The rate of
    each training step is learned too, and stays positive.

    The first training step takes the first `n` examples, the next the next
    ones, and so on; after `steps` steps comes the next epoch. What is
    learned holds for this order and these rates alone: shuffled, or with
    other rates, the examples train much worse models.

    - With `start="initial"`, they fit the weights that the model has now, and
      a few examples suffice. Train copies of that model on them.
    - With `start="drawn"`, they fit all weights that the model's initializers
      may draw. Each step of `fit` learns from `starts` new draws, which are
      computed side by side.

    The logs hold the loss on real examples (`loss`) with the compiled
    metrics, and the mean training loss (`training_loss`). `evaluate` trains
    from the same start; from drawn weights, it takes the mean over `starts`
    draws which are none of `fit`'s, the same each time. `predict` takes the
    first of them.

    The model itself is left as it is. Its regularizers and its dropout act in
    training. Layers that change moving averages are refused, as the gradient
    would not go back through those; normalize by
    `keras.layers.GroupNormalization` or `LayerNormalization` instead, or
    freeze the layer.

    It is saved, loaded and continued as any Keras model. Real examples are
    read into memory once.

    Args:
        model: A built Keras model of one input and one output.
        examples_per_class: Distilled examples of each class in a training
            step. The model's outputs say how many classes there are.
        steps: Training steps of an epoch, each on examples of its own.
        epochs: How many times training goes through all examples.
        start: Where training begins; see above.
        starts: Initial weights that a step of `fit` learns from, if they are
            drawn.
        learned_labels: Whether the labels are learned too. Class numbers
            become one-hot labels, which are learned without bounds, and the
            training loss becomes the categorical cross-entropy.
        learning_rate: The first value of all rates.
        x: Where the inputs begin, `[steps, n, ...]`, such as real examples;
            by default normally distributed numbers.
        y: The labels, `[steps, n, ...]`, as the training loss takes them; by
            default `examples_per_class` numbers of each class.
        inner_loss: The training loss, if it is another than the compiled
            one; whatever `compile` takes as a loss.
        meta_gradient: How the gradient comes back through training;
            `Unrolled`, with its options, or one of your own that
            differentiates all steps twice.
        seed: Seed of the inputs, the order of real examples, and of drawn
            weights. With XLA, it draws others.
        name: Name of the learner.

    Raises:
        ValueError: If an argument is out of range or does not fit the model,
            or the meta-gradient would be zero for the examples.
        TypeError: If an argument is of another type.
        FloatingPointError: In `fit`, if training diverges.

    Example:
    >>> import keras_meta
    >>> model = keras.Sequential([keras.Input([2]), keras.layers.Dense(3)])
    >>> distillation = keras_meta.DatasetDistillation(model, steps=2)
    >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    >>> distillation.compile(keras.optimizers.Adam(0.01), loss)
    >>> x, y = np.random.normal(size=[60, 2]), np.arange(60) % 3
    >>> history = distillation.fit(x, y, epochs=2, verbose=0)
    >>> distilled = distillation.distilled
    >>> distilled.x.shape, distilled.learning_rates.shape
    ((2, 3, 2), (1, 2))
    >>> trained = distilled.train(keras.models.clone_model(model), loss)

    References:
        - [Wang et al., 2018](https://arxiv.org/abs/1811.10959).
        - [Sucholutsky and Schonlau, 2019](https://arxiv.org/abs/1910.02551),
          for learned labels.
    """

    _outer_name = "loss on real examples"
    _learned_name = "distilled examples"
    _against_divergence = (
        "take a lower `learning_rate`, fewer `steps` or `epochs`, or a lower "
        "learning rate of `compile`'s optimizer."
    )

    def __init__(
        self,
        model: keras.Model,
        examples_per_class: int = 1,
        steps: int = 1,
        epochs: int = 1,
        *,
        start: str = "drawn",
        starts: int = 4,
        learned_labels: bool = False,
        learning_rate: float = 0.02,
        x: npt.ArrayLike | None = None,
        y: npt.ArrayLike | None = None,
        inner_loss: str | keras.losses.Loss | Callable | None = None,
        meta_gradient: MetaGradient | str = "unrolled",
        seed: int = 0,
        name: str | None = None,
    ):
        super().__init__(model, meta_gradient, inner_loss, name)
        check_positive(
            examples_per_class=examples_per_class,
            steps=steps,
            epochs=epochs,
            starts=starts,
        )
        check_choice("start", start, _STARTS)
        check_bool(learned_labels=learned_labels)
        check_positive_number(learning_rate=learning_rate)
        check_int64(seed=seed)
        self.examples_per_class = int(examples_per_class)
        self.steps = int(steps)
        self.epochs = int(epochs)
        self.start = start
        self.starts = int(starts) if start == "drawn" else 1
        self.learned_labels = learned_labels
        self.learning_rate = float(learning_rate)
        self.seed = int(seed)
        self._given = x is not None, y is not None
        check_reach(self.meta_gradient, self.steps * self.epochs)
        adapted = model.trainable_variables
        if not adapted:
            raise ValueError(
                "`model` must have trainable weights. Received: "
                f"model={model.name!r} without any."
            )
        self._trains(
            adapted,
            DistilledSteps(self.learning_rate, self.steps * self.epochs),
            self.steps * self.epochs,
        )
        self._starts = Starts.make(
            self._task_batched, start == "drawn", self.seed, self.add_weight
        )
        if y is None:
            y = class_labels(
                model, self.steps, self.examples_per_class, learned_labels
            )
        y = checked_labels(y, self.steps)
        x = checked_inputs(x, model, y.shape[:2], self.seed)
        floats = keras.config.floatx()
        is_number = not (learned_labels or y.dtype.kind == "f")
        self.x = self._add_values("x", x, floats, True)
        self.y = self._add_values(
            # TensorFlow keeps int32 variables off a GPU.
            "y",
            y,
            "int64" if is_number else floats,
            learned_labels,
        )
        self._clock = self.add_weight(
            name="clock",
            shape=[],
            dtype="int64",
            initializer="zeros",
            trainable=False,
        )
        self.built = True

    def _add_values(
        self, name: str, values: np.ndarray, dtype: str, trainable: bool
    ) -> keras.Variable:
        return self.add_weight(
            name=name,
            shape=values.shape,
            dtype=dtype,
            # Keras's own initializer rounds to float32.
            initializer=lambda shape, dtype: tf.constant(values, dtype),
            trainable=trainable,
            autocast=False,
        )

    @property
    def distilled(self) -> Distilled:
        """The distilled examples, and the rates for them, as arrays."""
        rates = self.update_rule.rates.numpy()
        return Distilled(
            self.x.numpy(),
            self.y.numpy(),
            np.reshape(rates, [self.epochs, self.steps]),
        )

    @property
    def training_loss(self) -> Any:
        """The loss for training a model on the distilled examples.

        Raises:
            ValueError: If there is none yet.
        """
        loss = self.inner_loss or self.loss
        if loss is None:
            raise ValueError(
                "The training loss must be known. Call `compile` first, or "
                "pass `inner_loss=`."
            )
        inner = InnerLoss(loss)
        if self.learned_labels and inner.is_sparse:
            return keras.losses.CategoricalCrossentropy(
                from_logits=getattr(inner.loss, "from_logits", False)
            )
        return loss

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """What is learned: inputs, labels if they are, and rates."""
        found = [self.x, self.y, self.update_rule.rates.raw]
        return [v for v in found if v.trainable]

    def train(self, model: keras.Model | None = None) -> keras.Model:
        """Trains a model on the distilled examples, by plain Keras.

        See `Distilled`, which has the same without this object.

        Args:
            model: A model, which begins with the weights that it has; by
                default a copy of the distillation's, with its first weights.

        Returns:
            The model, compiled and trained.
        """
        if model is None:
            model = keras.models.clone_model(self.model)
            model.set_weights(self.model.get_weights())
            for variable, first in zip(
                model.trainable_variables, self._starts.first, strict=True
            ):
                variable.assign(first)
        return self.distilled.train(model, self.training_loss)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Returns predictions of a model trained on the distilled examples.

        Args:
            inputs: The model's inputs, `[n, ...]`.
            training: Not used.
        """
        predictions = self._predictions(inputs, self._evaluation_start(0, 1))
        return map_annotated(operator.itemgetter(0), predictions)

    def predict_starts(
        self, x: Any, starts: int, batch_size: int = _DEFAULT_BATCH
    ) -> np.ndarray:
        """Predicts with models that begin at drawn weights.

        The weights are those of `evaluate`, and more of them.

        Args:
            x: Inputs, `[n, ...]`.
            starts: How many models.
            batch_size: Inputs of a call.

        Returns:
            The predictions of each, `[starts, n, ...]`.

        Raises:
            ValueError: If training does not begin at drawn weights.
        """
        if self.start != "drawn":
            raise ValueError(
                "Only training that begins at drawn weights has many starts. "
                f"Received: start={self.start!r}. Use `predict`."
            )
        check_positive(starts=starts, batch_size=batch_size)

        @tf.function(autograph=False)
        def train(number):
            end = self._trained(self._evaluation_start(number, 1))
            return end.params, end.state

        @tf.function(autograph=False, reduce_retracing=True)
        def predict(params, state, x):
            return self._predict(x, Carry(params, (), state))[0]

        x = tf.convert_to_tensor(x)
        found = []
        for number in range(starts):
            trained = train(tf.constant(number, tf.int64))
            parts = [
                predict(*trained, x[at : at + batch_size]).numpy()
                for at in range(0, x.shape[0], batch_size)
            ]
            found.append(np.concatenate(parts))
        return np.stack(found)

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
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Learns the distilled examples from real ones.

        Args:
            x: Inputs of the real examples, or a finite `tf.data.Dataset` of
                batches `(x, y)`, which is read once.
            y: Their labels.
            batch_size: Real examples of a step; by default that of the data
                set, or 1024. All draws of a step see the same.
            epochs: Number of epochs.
            verbose: See `keras.Model.fit`.
            callbacks: See `keras.Model.fit`.
            validation_data: See `keras.Model.fit`.
            sample_weight: Weights of the real examples, `[n]`.
            initial_epoch: See `keras.Model.fit`.
            steps_per_epoch: Steps of an epoch; by default as many as go
                through the real examples once.
            **kwargs: Further arguments of `keras.Model.fit` about validation.

        Returns:
            A Keras `History`.
        """
        self._assert_compile_called("fit")
        batches = self._batches(x, y, sample_weight, batch_size)
        self._check_one_replica()
        data = batches.dataset(lambda: int(self._clock.numpy()))
        if not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)
        if self.train_function is None:
            self._check_influence()
        if steps_per_epoch is None:
            steps_per_epoch = math.ceil(batches.examples.size / batches.size)
        return super().fit(
            data,
            epochs=epochs,
            verbose=verbose,
            callbacks=callbacks,
            validation_data=validation_data,
            shuffle=False,
            initial_epoch=initial_epoch,
            steps_per_epoch=steps_per_epoch,
            **kwargs,
        )

    def _batches(
        self, x: Any, y: Any, sample_weight: Any, batch_size: int | None
    ) -> example_data.Batches:
        """Returns the batches of real examples, checked."""
        examples, size = example_data.load(
            "x, y", example_data.one_source(x, y, sample_weight)
        )
        examples.check_labels("y", self.model, self.loss)
        if batch_size is None:
            batch_size = size or _DEFAULT_BATCH
        check_positive(batch_size=batch_size)
        return example_data.Batches(examples, batch_size, self.seed)

    def _check_influence(self) -> None:
        """Refuses what has no influence on training."""

        def trace():
            problem = self._problem(1)
            start = self._starts.of_model()
            carry = self._begin(problem, self._theta, start)
            end, _ = self._solver.step(problem, self._theta, (), carry, 0)
            _check_state(
                self._task_batched.state_variables, start.state, end.state
            )
            check_influence(
                self.meta_gradient,
                self._solver,
                problem,
                lambda theta: self._begin(problem, theta, start),
                [v.path for v in self.trainable_variables],
            )

        tf.function(trace, autograph=False).get_concrete_function()

    def _problem(self, runs: int) -> TrainingProblem:
        """Returns the training of some runs on the distilled examples."""

        def batch_of_step(step):
            def of_all_runs(variable):
                values = tf.gather(variable, step % self.steps)
                return _for_each(values, runs)

            return Batch(of_all_runs(self.x), of_all_runs(self.y))

        return TrainingProblem(
            variables=self.trainable_variables,
            xla=bool(self.jit_compile),
            task_batched=self._task_batched,
            inner_loss=InnerLoss(self.training_loss, labels="y"),
            batch_of_step=batch_of_step,
        )

    @property
    def _theta(self) -> list[tf.Tensor]:
        """The values of what is learned."""
        return [tf.convert_to_tensor(v) for v in self.trainable_variables]

    def _begin(
        self,
        problem: TrainingProblem,
        theta: Sequence[tf.Tensor],
        start: Start,
    ) -> Carry:
        params, state = problem.start(theta, start)
        rule_state = self._solver.init_rule(problem, theta, params)
        return Carry(params, rule_state, state)

    def train_step(self, data: dict[str, Any]) -> dict[str, Any]:
        """Trains on the distilled examples, and learns from real ones."""
        start = self._training_start(data["number"])
        problem = self._problem(self.starts)
        examples = data["examples"]
        sample_weight = examples.get("sample_weight")

        def validate(predict):
            x = _for_each(examples["x"], self.starts)
            y_pred = predict(x)
            loss = self._mean_loss(
                examples["x"], examples["y"], y_pred, sample_weight
            )
            return loss, y_pred

        objective = TrainingObjective(
            self.trainable_variables,
            self._solver,
            problem,
            self.meta_gradient,
            lambda theta: self._begin(problem, theta, start),
            tf.zeros([], tf.int32),
            self.steps * self.epochs,
            start.params,
            validate,
            data["number"],
            self.optimizer.scale_loss,
        )

        def keep(trained):
            # In a graph, what begins to read data reads the clock at any
            # time before a batch is there, so it must not change earlier.
            self._clock.assign(data["number"] + 1)
            return trained.losses

        estimate = self._learn(objective, [self._clock], keep)
        return self._logs(
            examples["x"],
            examples["y"],
            estimate.predictions.predictions,
            sample_weight,
            estimate.loss,
        )

    def _mean_loss(
        self, x: Any, y: Any, y_pred: tf.Tensor, sample_weight: Any
    ) -> tf.Tensor:
        """Returns the compiled loss, its mean over the runs.

        Args:
            x: Inputs, `[n, ...]`.
            y: Labels, `[n, ...]`.
            y_pred: Predictions, `[runs, n, ...]`.
            sample_weight: `[n]`, or `None`.
        """
        runs = y_pred.shape[0]
        losses = [
            self._compute_loss(
                x=x,
                y=y,
                y_pred=map_annotated(operator.itemgetter(run), y_pred),
                sample_weight=sample_weight,
                training=True,
            )
            for run in range(runs)
        ]
        return tf.add_n(losses) / runs

    def _logs(
        self,
        x: Any,
        y: Any,
        y_pred: tf.Tensor,
        sample_weight: Any,
        loss: tf.Tensor,
    ) -> dict[str, Any]:
        """Updates the metrics with all runs; see `_mean_loss`."""
        runs = y_pred.shape[0]
        self._loss_tracker.update_state(loss, tf.shape(y)[0])
        x, y, sample_weight = keras.tree.map_structure(
            lambda values: tf.concat([values] * runs, 0),
            (x, y, sample_weight),
            none_is_leaf=False,
        )
        return self.compute_metrics(x, y, merge_tasks(y_pred), sample_weight)

    def _training_start(self, number: tf.Tensor) -> Start:
        """Returns where the runs of a step of `fit` begin."""
        start = self._starts.of_model()
        if self.start == "drawn":
            first = number * self.starts
            start = self._starts.drawn(_TRAINING_STREAM, first, self.starts)
        # Each step of `fit` has dropout masks of its own.
        count = number * (self.steps * self.epochs)
        state = [
            value
            + tf.cast(tf.stack([tf.zeros_like(count), count]), value.dtype)
            if is_seed(variable)
            else value
            for variable, value in zip(
                self._task_batched.state_variables, start.state, strict=True
            )
        ]
        return start._replace(state=state)

    def _evaluation_start(self, number: int | tf.Tensor, runs: int) -> Start:
        if self.start == "drawn":
            return self._starts.drawn(_EVALUATION_STREAM, number, runs)
        return self._starts.of_model()

    def _trained(self, start: Start) -> Carry:
        """Returns what training on the distilled examples ends with."""
        problem = self._problem(start.params[0].shape[0])
        end, _ = InnerLoop(
            self._solver,
            problem,
            self._theta,
            (),
            self._begin(problem, self._theta, start),
            self.steps * self.epochs,
        ).run()
        return end

    def _predict(self, x: Any, end: Carry) -> tf.Tensor:
        """Returns predictions of trained models, `[runs, n, ...]`."""
        runs = end.params[0].shape[0]
        return self._problem(runs).predict(
            self._theta, _for_each(x, runs), end.params, end.state
        )

    def _predictions(self, x: Any, start: Start) -> tf.Tensor:
        return self._predict(x, self._trained(start))

    def test_step(self, data: Any) -> dict[str, Any]:
        """Evaluates models trained on the distilled examples, on a batch."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y_pred = self._predictions(x, self._evaluation_start(0, self.starts))
        loss = self._mean_loss(x, y, y_pred, sample_weight)
        logs = self._logs(x, y, y_pred, sample_weight, loss)
        return {k: v for k, v in logs.items() if k not in self._trackers}

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor.

        Examples that were passed come with their present values.
        """
        serialize = keras.saving.serialize_keras_object
        given_x, given_y = self._given
        return {
            "name": self.name,
            "model": serialize(self.model),
            "examples_per_class": self.examples_per_class,
            "steps": self.steps,
            "epochs": self.epochs,
            "start": self.start,
            "starts": self.starts,
            "learned_labels": self.learned_labels,
            "learning_rate": self.learning_rate,
            "x": serialize(self.x.numpy()) if given_x else None,
            "y": serialize(self.y.numpy()) if given_y else None,
            "inner_loss": serialize(self.inner_loss),
            "meta_gradient": serialize(self.meta_gradient),
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> DatasetDistillation:
        """Makes a learner from `get_config`'s dict."""
        deserialize = keras.saving.deserialize_keras_object
        objects = ("model", "x", "y", "inner_loss", "meta_gradient")
        return cls(
            **{
                key: deserialize(value) if key in objects else value
                for key, value in config.items()
            }
        )


def check_reach(meta_gradient: MetaGradient, steps: int) -> None:
    """Refuses a meta-gradient that is zero or wrong for distilled examples.

    Args:
        meta_gradient: How the gradient comes back.
        steps: All training steps.

    Raises:
        ValueError: If it does not differentiate all steps twice.
    """
    length = meta_gradient.length
    if not meta_gradient.differentiates_calls:
        why = "does not differentiate training"
    elif not meta_gradient.differentiates_steps:
        why = "sees the last examples alone, and only at a minimum of theirs"
    elif not meta_gradient.takes_second_derivatives:
        why = (
            "takes the gradients of the training loss as constants, through "
            "which alone examples act, so their gradient is zero"
        )
    elif length is not None and length < steps:
        why = f"sees the last {length} of {steps} training steps alone"
    else:
        return
    raise ValueError(
        "`meta_gradient` must go back through all training steps. Received: "
        f"meta_gradient={meta_gradient}, which {why}. Use "
        'keras_meta.Unrolled(), or keras_meta.Unrolled(checkpoint="sqrt") to '
        "save memory."
    )


def _check_state(
    variables: Sequence[keras.Variable],
    before: Sequence[tf.Tensor],
    after: Sequence[tf.Tensor],
) -> None:
    """Refuses a step that changes more than the weights.

    Args:
        variables: The model's other variables.
        before: Their values before the step.
        after: Those after it.

    Raises:
        ValueError: If one of them changes.
    """
    changed = [
        variable.path
        for variable, old, new in zip(variables, before, after, strict=True)
        if new is not old and not is_seed(variable)
    ]
    if changed:
        raise ValueError(
            "Training must change nothing but the weights: the gradient would "
            "not go back through moving averages, which the runs would share. "
            f"Received: a model that changes {changed}. Use "
            "keras.layers.GroupNormalization or LayerNormalization instead of "
            "BatchNormalization, or freeze it: layer.trainable = False."
        )


def _for_each(values: tf.Tensor, runs: int) -> tf.Tensor:
    """Repeats values for each run, `[runs, ...]`."""
    return tf.stack([values] * runs)
