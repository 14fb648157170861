"""Grids of evaluations of a run: which EMA length, guidance and sampler are best, and how sure that is."""
