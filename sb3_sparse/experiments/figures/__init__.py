"""Figures and the report: one way to draw, and what each figure of the paper shows."""
