"""Likelihoods, and what they say of predictions with several samples."""
