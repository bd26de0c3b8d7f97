"""What the inner loops of learners begin with, change and record."""
