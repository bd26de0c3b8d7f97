"""The losses of learners, inner and outer."""
