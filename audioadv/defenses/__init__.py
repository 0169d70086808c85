"""Defenses: models made from models, each with a statement of how it can be attacked."""

from audioadv.defenses.likeness import Exact, Heard, Near
from audioadv.defenses.memory import Memory, forgetting, remembering
from audioadv.defenses.sampled import Sampled, sampled
from audioadv.defenses.statement import Statement, stated

__all__ = ["Exact", "Heard", "Memory", "Near", "Sampled", "Statement", "forgetting", "remembering", "sampled", "stated"]
