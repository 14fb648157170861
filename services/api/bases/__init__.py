"""Bases: a few vectors that replace all snapshots of a run up to one time."""
