"""The letters that the bundled recognisers write: CTC blank, space, apostrophe, a to z."""

ALPHABET: tuple[str, ...] = ("", " ", "'", *"abcdefghijklmnopqrstuvwxyz")
"""Symbol of each output column. The empty string, column 0, is the CTC blank."""
