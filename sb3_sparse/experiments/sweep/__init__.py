"""Grids of runs: how they are declared, where they run, and the table of their results."""
