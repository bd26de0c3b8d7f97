"""Meta-learners: Keras models whose call adapts."""
