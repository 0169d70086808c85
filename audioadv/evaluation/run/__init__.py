"""A run over a whole test set: which jobs there are, who does them, what is done, and what it comes to."""
