"""Metrics in Inception-v3 features, as most papers report them."""
