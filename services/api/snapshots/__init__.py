"""Weights of tracked EMAs, stored while a run trains."""
