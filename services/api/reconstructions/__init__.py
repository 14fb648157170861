"""Weights of any EMA length, computed from the snapshots after training."""
