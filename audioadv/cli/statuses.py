"""How a command ends, and what its call notes: known before anything heavy is imported."""

DONE, NOT_REACHED, WRONG_INPUT, STOPPED = 0, 1, 2, 130
"""Exit statuses."""

OUTPUT, FIRST = "audioadv.output", "audioadv.first"  # in click's notes of a call: standard output; who asks whether an error is new
