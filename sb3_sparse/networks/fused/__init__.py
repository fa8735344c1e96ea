"""A SimBa encoder as one operation on a CPU."""
