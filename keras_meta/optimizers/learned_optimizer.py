"""An update rule as a Keras optimizer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any
from typing import Self

import keras
import tensorflow as tf

from keras_meta.checks import check_finite_number
from keras_meta.checks import is_number
from keras_meta.optimizers.presets import load_rule
from keras_meta.optimizers.presets import save_rule
from keras_meta.update_rules.update_rule import UpdateRule
from keras_meta.update_rules.update_rule import check_rule


@keras.saving.register_keras_serializable("keras_meta")
class LearnedOptimizer(keras.optimizers.Optimizer):
    """Trains a Keras model with an update rule.

    The rule is called once per step for all variables. Its weights and its
    state are saved with the model, so that training resumes exactly. `fit`
    does not train the rule's weights. A variable without a gradient stays
    unchanged, while the rule's state sees a zero gradient for it.

    Args:
        rule: The update rule.
        learning_rate: Factor of the rule's moves, a float, a schedule or a
            callable.
        name: Name of the optimizer.
        **kwargs: Further arguments of `keras.optimizers.Optimizer`: clipping,
            weight decay, moving average of the weights, gradient
            accumulation.

    Raises:
        TypeError: If `rule` is not an update rule.
        ValueError: If the rule needs the loss, or if it takes gradients away
            from the parameters and `use_ema` is set.

    Example:
    >>> import keras_meta
    >>> optimizer = LearnedOptimizer(keras_meta.Momentum(0.1))
    >>> model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    >>> model.compile(optimizer, "mse")
    >>> history = model.fit(tf.ones([8, 2]), tf.ones([8, 1]), verbose=0)
    """

    # In a subclass for one kind of rule: the kind, and the constructor's
    # arguments that belong to the rule.
    _rule_class: type[UpdateRule] = UpdateRule
    _rule_arguments: tuple[str, ...] = ()

    def __init__(
        self,
        rule: UpdateRule,
        learning_rate: Any = 1.0,
        name: str = "learned_optimizer",
        **kwargs: Any,
    ):
        check_rule(rule)
        if is_number(learning_rate):
            check_finite_number(learning_rate=learning_rate)
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        if rule.needs_loss:
            raise ValueError(
                "`rule` must not need the loss, which a Keras optimizer does "
                f"not receive. Received: rule={type(rule).__name__}. Use it in "
                "a meta-learner: keras_meta.MAML(model, rule)."
            )
        if rule.attends and self.use_ema:
            raise ValueError(
                "`use_ema` would average the points where gradients are taken, "
                "which with attention=True are not the parameters. Received: "
                "use_ema=True. Drop one of the two."
            )
        self.rule = rule

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates the rule's state for the variables to train."""
        if self.built:
            return
        # Keras builds an optimizer while it traces the first step. XLA does
        # not support variables that are created in a trace from a tensor.
        with tf.init_scope():
            self.rule.ensure_attached(variables)
            super().build(variables)
            initial = []
            # Keras also builds an optimizer if all layers are frozen.
            if variables:
                initial = self.rule.init_state(
                    [tf.zeros(v.shape, v.dtype) for v in variables]
                )
            self._state = keras.tree.map_structure(self._add_state, initial)

    def _add_state(self, initial: tf.Tensor) -> keras.Variable:
        return self.add_variable(
            shape=initial.shape,
            initializer=lambda shape, dtype: tf.cast(initial, dtype),
            dtype=initial.dtype.name,
            name="state",
        )

    def _distributed_tf_update_step(
        self, distribution, grads_and_vars, learning_rate
    ):
        # Another model's optimizer may share the rule.
        self.rule.ensure_attached(self._trainable_variables)
        # Keras updates variables one by one; a rule needs them all together.
        known = {
            self._get_variable_index(variable): gradient
            for gradient, variable in grads_and_vars
        }
        variables = [v.value for v in self._trainable_variables]
        gradients = [known.get(i) for i in range(len(variables))]
        self._require_gradients_to_attend(gradients)
        state = [v.value for v in keras.tree.flatten(self._state)]
        distribution.extended.update(
            variables[0],
            self._update_all,
            args=(variables, gradients, state, learning_rate),
            group=False,
        )

    def _require_gradients_to_attend(
        self, gradients: Sequence[tf.Tensor | None]
    ) -> None:
        missing = [
            variable.path
            for variable, gradient in zip(
                self._trainable_variables, gradients, strict=True
            )
            if gradient is None
        ]
        if self.rule.attends and missing:
            raise ValueError(
                "A rule with attention moves all variables to the points where "
                "it takes gradients, so each variable needs a gradient. "
                f"Received: none for {missing}. Make a new optimizer after "
                "freezing layers, or drop attention."
            )

    def _update_all(self, _, variables, gradients, state, learning_rate):
        """Takes a step with the variables of one device."""
        values = [tf.convert_to_tensor(v) for v in variables]
        old_state = keras.tree.pack_sequence_as(
            self._state, [tf.convert_to_tensor(s) for s in state]
        )
        moved, new_state = self.rule.update(
            values,
            [
                tf.zeros_like(value) if g is None else _dense(g, value.dtype)
                for g, value in zip(gradients, values, strict=True)
            ],
            old_state,
        )
        old, _ = self.rule.final(values, old_state)
        new, _ = self.rule.final(moved, new_state)
        for i, variable in enumerate(variables):
            value = old[i]
            if gradients[i] is not None:
                rate = tf.cast(learning_rate, value.dtype)
                value += rate * (new[i] - old[i])
            # The next gradient is taken there.
            if self.rule.attends:
                value += moved[i] - new[i]
            variable.assign(value)
        for variable, value in zip(
            state, keras.tree.flatten(new_state), strict=True
        ):
            variable.assign(value)

    def finalize_variable_values(
        self, var_list: Sequence[keras.Variable]
    ) -> None:
        """Sets the model to the rule's final parameters. `fit` calls it."""
        if self.built and self._trainable_variables:
            # TensorFlow's wrapper of a tuple would count as a leaf.
            before = [*self._trainable_variables], self._state
            values = keras.tree.map_structure(lambda v: v.value, before)
            after = self.rule.final(*values)
            for variable, value, result in zip(
                *map(keras.tree.flatten, (before, values, after)), strict=True
            ):
                if result is not value:
                    variable.assign(result)
        super().finalize_variable_values(var_list)

    def save_to_preset(self, folder: str | os.PathLike) -> None:
        """Writes the rule and its weights to a folder.

        A preset that is already in the folder stays readable until the new
        one is complete.

        Args:
            folder: Folder to write to. It is created if it does not exist.

        Raises:
            ValueError: If the rule's weights belong to one model or are not
                finite, if its class is not registered with Keras, or if
                `folder` is the name of a preset that ships with the package.
        """
        save_rule(self.rule, folder)

    @classmethod
    def from_preset(
        cls, preset: str | os.PathLike, **kwargs: Any
    ) -> LearnedOptimizer:
        """Makes an optimizer from a trained rule.

        Args:
            preset: Name of a preset that ships with the package (see
                `keras_meta.optimizers.preset_names`), or a folder that
                `save_to_preset` wrote. If the folder has the name of a
                preset, pass it as a path, such as `"./lstm_mnist"`.
            **kwargs: Further arguments of the constructor. They override
                those of the preset.

        Returns:
            The optimizer.

        Raises:
            ValueError: If there is no such preset, if one of its files is
                damaged, if it holds another kind of rule or weights that are
                not finite, or if an argument does not match its weights.
            FileNotFoundError: If its weights are missing.
            TypeError: If `preset` is not a name or a path.
        """
        rule = load_rule(preset)
        if not isinstance(rule, cls._rule_class):
            raise ValueError(
                f"`preset` must hold a {cls._rule_class.__name__} for "
                f"{cls.__name__}. Received: preset={preset!r}, which holds a "
                f"{type(rule).__name__}. Use "
                "keras_meta.optimizers.LearnedOptimizer.from_preset."
            )
        if not cls._rule_arguments:
            return cls(rule, **kwargs)
        cls._require_plain(rule, preset)
        optimizer = cls(**{**cls._arguments_of(rule), **kwargs})
        shapes = [w.shape for w in rule.weights]
        if [w.shape for w in optimizer.rule.weights] != shapes:
            given = {
                k: v for k, v in kwargs.items() if k in cls._rule_arguments
            }
            raise ValueError(
                f"The weights of preset={preset!r} do not fit a rule of other "
                f"sizes. Received: {given}. Remove these arguments."
            )
        optimizer.rule.set_weights(rule.get_weights())
        return optimizer

    @classmethod
    def _require_plain(
        cls, rule: UpdateRule, preset: str | os.PathLike
    ) -> None:
        """Refuses a rule that the constructor could not make."""
        dtype = cls._rule_class().dtype
        if type(rule) is not cls._rule_class or rule.dtype != dtype:
            raise ValueError(
                f"`preset` must hold exactly a {cls._rule_class.__name__} of "
                f"type {dtype} for {cls.__name__}. Received: "
                f"preset={preset!r}, which holds a {type(rule).__name__} of "
                f"type {rule.dtype}. Use "
                "keras_meta.optimizers.LearnedOptimizer.from_preset."
            )

    @classmethod
    def _arguments_of(cls, rule: UpdateRule) -> dict[str, Any]:
        if not cls._rule_arguments:
            return {"rule": keras.saving.serialize_keras_object(rule)}
        return {name: getattr(rule, name) for name in cls._rule_arguments}

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), **self._arguments_of(self.rule)}

    @classmethod
    def from_config(
        cls,
        config: dict[str, Any],
        custom_objects: dict[str, Any] | None = None,
    ) -> Self:
        """Makes an optimizer from the result of `get_config`."""
        if isinstance(config.get("rule"), dict):
            rule = keras.saving.deserialize_keras_object(
                config["rule"], custom_objects=custom_objects
            )
            config = {**config, "rule": rule}
        return super().from_config(config, custom_objects=custom_objects)


def _dense(gradient: Any, dtype: tf.DType) -> tf.Tensor:
    return tf.cast(tf.convert_to_tensor(gradient), dtype)
