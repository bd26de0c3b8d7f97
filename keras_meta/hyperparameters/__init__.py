"""What training depends on, as variables that are learned."""
