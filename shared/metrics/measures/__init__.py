"""Distances and shares between two sets of features, with the jackknife of each. NumPy only."""
