"""The unrolled inner loop: task-batched calls, layer rules, the loop."""
