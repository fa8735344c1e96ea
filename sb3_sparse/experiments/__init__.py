"""Runs that measure or show something: benchmarks and the quickstart."""
