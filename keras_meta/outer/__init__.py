"""What is learned from whole optimizations."""
