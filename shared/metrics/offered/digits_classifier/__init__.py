"""Metrics in the hidden features of a small classifier of the built-in digits."""
