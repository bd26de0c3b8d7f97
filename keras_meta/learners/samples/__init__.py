"""Several samples of weights for each task."""
