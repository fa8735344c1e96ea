"""Benchmarks of updates, loops, products and checkpoints, beside plain implementations."""
