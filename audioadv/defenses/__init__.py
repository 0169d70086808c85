"""Defenses: models made from models, each with a statement of how it can be attacked."""

from audioadv.defenses.statement import Statement, stated

__all__ = ["Statement", "stated"]
