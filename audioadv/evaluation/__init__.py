"""Evaluation: how robust a model is, with figures that carry their count, their interval and their cost."""
