"""Evaluations: prepared once, drawn in parts by any number of actors, then scored.

1. `prepare` loads the feature extractors and computes reference statistics that are missing (`PrepareTask`).
2. `parts` cuts the pictures into parts. Each is a job of its own (`DrawTask`), drawn once for all evaluations.
3. When all parts are stored, `score` computes the figures from their features in the order of their seeds
   (`ScoreTask`). So the figures do not depend on the number of actors.
"""
