"""Metrics in the features of fixed random convolutions."""
