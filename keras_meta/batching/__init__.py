"""One call of a Keras model for all tasks, each with its own weights."""
