"""How steps are carried out: plans, blocks of tasks, failures."""
