"""What learners compute from embedded examples."""
