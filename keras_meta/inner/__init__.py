"""The inner loop: its problem, its objective, and the loops that run it."""
