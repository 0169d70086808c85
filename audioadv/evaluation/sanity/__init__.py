"""Whether an evaluation is itself broken: what to ask (`indicators.py`), of an attack at work or of a run that is over."""
