"""A recurrent cell with an external memory."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from keras_meta.checks import check_choice
from keras_meta.checks import check_decay
from keras_meta.checks import check_positive
from keras_meta.checks import check_positive_number
from keras_meta.sequence.memory import Memory
from keras_meta.sequence.memory import read
from keras_meta.sequence.memory import write

_CONTROLLERS = ("lstm", "dense")


@keras.saving.register_keras_serializable("keras_meta")
class MemoryCell(keras.layers.Layer):
    """A cell for `keras.layers.RNN` that keeps what it sees in a memory.

    A controller gets the item and what was read last. From its output, each
    head makes a key `k`, a value `v` (both with `tanh`) and a gate `g`, and a
    step does the following, in this order:

    1. As many slots as there are heads, those of least usage, become zero.
    2. Head `h` adds `w_h v_h` to the memory, `[slots, slot_size]`. Its write
       weights are `w_h = sigmoid(g_h) r_h + (1 - sigmoid(g_h)) e_h`: `r_h`
       are its read weights of the previous step, and `e_h` is 1 in the slot
       of `h`-th least usage, else 0.
    3. Its new read weights are the softmax over slots of `strength_h
       cos(k_h, slot)`, and it reads the mean of the slots, weighted so.
    4. Usage becomes `decay` times what it was, plus the new read and write
       weights of all heads.

    The output is the controller's output beside what was read, `[units +
    heads * slot_size]`.

    This differs from the paper in two points. Heads learn a `strength` of
    cosines, without which a slot among 128 would get at most the weight `e /
    (e + 127) = .02`, and reading is a blur. And a head writes a value instead
    of its key.

    The state consists of the memory, the read weights, the usage, what was
    read, and the controller's state, each flat, `[sequences, ...]`; see
    `state_size`. All of it is zero at first.

    Args:
        units: Size of the controller's output.
        slots: Number of slots of the memory, at least `heads`.
        slot_size: Size of a slot.
        heads: Number of heads that read and write.
        controller: `"lstm"`, or `"dense"` for a layer with `tanh` that keeps
            no state of its own. It may learn sooner, because only the
            memory can carry what was seen.
        decay: Decay of usage, in [0, 1).
        strength: Initial factor of the cosines.
        **kwargs: See `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
    >>> import keras
    >>> import tensorflow as tf
    >>> cell = MemoryCell(units=8, slots=6, slot_size=4, heads=2)
    >>> keras.layers.RNN(cell)(tf.ones([3, 5, 2])).shape
    TensorShape([3, 16])

    References:
        - [Santoro et al., 2016](https://arxiv.org/abs/1605.06065), section 3.
    """

    def __init__(
        self,
        units: int = 200,
        slots: int = 128,
        slot_size: int = 40,
        heads: int = 4,
        *,
        controller: str = "lstm",
        decay: float = 0.95,
        strength: float = 10.0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        check_positive(
            units=units, slots=slots, slot_size=slot_size, heads=heads
        )
        check_choice("controller", controller, _CONTROLLERS)
        check_decay(decay=decay)
        check_positive_number(strength=strength)
        if heads > slots:
            raise ValueError(
                "`slots` must be at least `heads`, because each head has a "
                f"slot of its own to write to. Received: slots={slots}, "
                f"heads={heads}"
            )
        self.units, self.slots = int(units), int(slots)
        self.slot_size, self.heads = int(slot_size), int(heads)
        self.controller_type = controller
        self.decay, self.strength = float(decay), float(strength)
        self.controller = self._make_controller()
        self.interface = keras.layers.Dense(
            self.heads * (2 * self.slot_size + 1),
            name="interface",
            dtype=self.dtype_policy,
        )

    def _make_controller(self) -> keras.Layer:
        options = {"name": "controller", "dtype": self.dtype_policy}
        if self.controller_type == "lstm":
            return keras.layers.LSTMCell(self.units, **options)
        return keras.layers.Dense(self.units, "tanh", **options)

    @property
    def state_size(self) -> list[int]:
        """Sizes of the parts of the state, each of them flat."""
        memory = self.slots * self.slot_size
        weights = self.heads * self.slots
        sizes = [memory, weights, self.slots, self.heads * self.slot_size]
        has_state = self.controller_type == "lstm"
        return sizes + [self.units] * (2 if has_state else 0)

    @property
    def output_size(self) -> int:
        """Size of the output."""
        return self.units + self.heads * self.slot_size

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Creates the weights for items `[sequences, c]`."""
        size = input_shape[-1] + self.heads * self.slot_size
        self.controller.build((None, size))
        self.interface.build((None, self.units))
        self._log_strengths = self.add_weight(
            name="log_strengths",
            shape=(self.heads, 1),
            initializer=keras.initializers.Constant(math.log(self.strength)),
        )

    def call(
        self, inputs: tf.Tensor, states: list[tf.Tensor]
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Takes one step.

        Args:
            inputs: Items, `[sequences, c]`.
            states: The state, as `state_size` says.

        Returns:
            The output, `[sequences, output_size]`, and the new state.
        """
        *flat, was_read = states[:4]
        memory = self._shaped(flat)
        output, controller_state = self._control(
            tf.concat([inputs, was_read], axis=-1), states[4:]
        )
        keys, values, gates = self._instructions(output)
        memory = write(memory, values, gates, self.decay)
        strengths = tf.exp(tf.cast(self._log_strengths, keys.dtype))
        memory, was_read = read(memory, keys, strengths)
        was_read = tf.reshape(was_read, [-1, self.heads * self.slot_size])
        output = tf.concat([output, was_read], axis=-1)
        return output, [*self._flat(memory), was_read, *controller_state]

    def _control(
        self, x: tf.Tensor, state: list[tf.Tensor]
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Returns the controller's output and its new state."""
        if self.controller_type == "lstm":
            return self.controller(x, state)
        return self.controller(x), []

    def _instructions(self, x: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Returns keys and values, `[sequences, heads, slot_size]`, and gates.

        Gates are `[sequences, heads, 1]`.
        """
        each = 2 * self.slot_size + 1
        made = tf.reshape(self.interface(x), [-1, self.heads, each])
        keys, values, gates = tf.split(
            made, [self.slot_size, self.slot_size, 1], axis=-1
        )
        return tf.tanh(keys), tf.tanh(values), tf.sigmoid(gates)

    def _shaped(self, state: list[tf.Tensor]) -> Memory:
        slots, weights, usage = state
        return Memory(
            tf.reshape(slots, [-1, self.slots, self.slot_size]),
            tf.reshape(weights, [-1, self.heads, self.slots]),
            usage,
        )

    def _flat(self, memory: Memory) -> list[tf.Tensor]:
        return [
            tf.reshape(part, [-1, size])
            for part, size in zip(memory, self.state_size[:3], strict=True)
        ]

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "units": self.units,
            "slots": self.slots,
            "slot_size": self.slot_size,
            "heads": self.heads,
            "controller": self.controller_type,
            "decay": self.decay,
            "strength": self.strength,
        }
