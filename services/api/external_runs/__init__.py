"""Runs of other training loops, and the snapshots that they upload."""
