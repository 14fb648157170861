"""The EMA explorer of a run."""
