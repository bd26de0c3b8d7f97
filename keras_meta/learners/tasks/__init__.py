"""What a learner is given for a task, checked, and what it returns."""
