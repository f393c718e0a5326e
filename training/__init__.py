"""Training: a single run, from its options to its weights."""
