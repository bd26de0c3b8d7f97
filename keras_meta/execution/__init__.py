"""How steps are executed: plans, blocks of tasks, failure reports."""
