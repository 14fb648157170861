"""Searches: the best EMA length, and guidance, of a run within a budget of pictures, and how sure that is."""
