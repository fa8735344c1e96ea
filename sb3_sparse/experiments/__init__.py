"""Grids of runs, where they go and what becomes of their results; benchmarks, and the quickstart."""
